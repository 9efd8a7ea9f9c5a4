"""How deep each request should look ahead: predicted throughput, and who gets the target's spare places. Pure.

The speed of a request in a window is that of the formula, over the time of a target step at the batch size that all
requests together make; that batch is the sum of their windows' loads. So a deeper window is weighed against what it
costs everybody in the batch, and the request whose next step is likeliest to be accepted gains most for its places.
Sequences of others count as streams, which our windows slow down like our own: several coordinators that each look at
their own requests only would fill the batch until all are slower than the target alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from deployments.coordinator.control.batch_cost import BatchCost, TargetCost
from deployments.coordinator.theory import Load, uneven_window

ROUNDS = 8
"""The batch follows from the depths, and the draft's cost over the target's from the batch: rounds until both agree."""
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Depths to choose from."""
UNKNOWN_C = 0.25
"""The draft's token over the target's until it is known."""


Kind = tuple[float, int, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One request: the acceptance rate of its steps, how deep it may look ahead, and how deep it does."""

    alpha: float
    max_depth: int
    depth: int = 0
    verdict_tokens_s: float = 0.0
    """Seconds of a verdict over the tokens of a step."""

    @property
    def kind(self) -> Kind:
        """What makes it like others."""
        return round(self.alpha, 2), self.max_depth, self.verdict_tokens_s


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the engines can do now. Sequences are those in one replica; `*_others` are those that are not ours."""

    target: TargetCost
    draft: BatchCost
    spread: float = 0.0
    """Of the steps' lengths: standard deviation of the logarithm."""
    target_others: float = 0.0
    draft_others: float = 0.0
    num_targets: int = 1
    """Replicas among which our requests are spread."""
    num_drafts: int = 1

    @property
    def num_streams_of_others(self) -> float:
        """In all replicas of the target: each writes one token in a pass at least."""
        return self.target_others * self.num_targets

    def draft_s(self, num_sequences: float) -> float:
        """Seconds a token of the draft."""
        if self.draft.is_known and self.target.is_known:
            return self.draft.at(num_sequences)
        return UNKNOWN_C * self.target.stream_s(1.0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a choice of depths is predicted to give."""

    tokens_per_s: float
    """Of all candidates together."""
    total_per_s: float
    """Tokens of all in the target's batch, those of others included."""
    num_sequences: float
    """In the target's batch."""
    c: float
    step_s: float
    """A token of the target's in a window."""


def outlook(conditions: Conditions, candidates: Sequence[Candidate], depths: Sequence[int]) -> Outlook:
    """The throughput of `candidates` at `depths`, with the batches that these make."""
    alike = Counter((candidate.kind, depth) for candidate, depth in zip(candidates, depths, strict=True))
    num = conditions.target_others + len(candidates) / conditions.num_targets
    drafting = conditions.draft_others + sum(d > 0 for d in depths) / conditions.num_drafts
    found = Outlook(0.0, 0.0, num, 1.0, 1.0)
    for _ in range(ROUNDS):
        step_s, stream_s = conditions.target.window_s(num), conditions.target.stream_s(num)
        c = conditions.draft_s(max(drafting, 1.0)) / step_s
        speed = target_load = draft_load = 0.0
        for (kind, depth), count in alike.items():
            one = window(conditions, kind, depth, c, step_s, step_s / stream_s)
            speed, target_load = speed + count * one.speed_up, target_load + count * one.load.target
            draft_load += count * one.load.draft
        own_per_s = speed / step_s
        found = Outlook(own_per_s, own_per_s + conditions.num_streams_of_others / stream_s, num, c, step_s)
        new = conditions.target_others + target_load / conditions.num_targets
        new_drafting = conditions.draft_others + draft_load / conditions.num_drafts
        if abs(new - num) < 0.01 * num and abs(new_drafting - drafting) < 0.01 * drafting + 0.01:
            break
        num += (new - num) * (1.0 if new > num else 0.5)
        drafting += (new_drafting - drafting) * (1.0 if new_drafting > drafting else 0.5)
    return found


def choose(conditions: Conditions, candidates: Sequence[Candidate], most_sequences: float) -> tuple[int, ...]:
    """The best depth of each candidate with at most `most_sequences` in the target's batch.

    Places go one after another to whoever gains most for them, and the best of all numbers of places is taken; the cost
    ratio that the gains depend on is that of the choice before, for a few rounds.
    """
    best_depths = (0,) * len(candidates)
    best = outlook(conditions, candidates, best_depths)
    current = tuple(min(candidate.depth, candidate.max_depth) for candidate in candidates)
    basis, seen = best, {best_depths}
    for depths in (current, None, None, None):
        depths = _filled(conditions, candidates, basis, most_sequences) if depths is None else depths
        if depths not in seen:
            seen.add(depths)
            basis = outlook(conditions, candidates, depths)
            if basis.num_sequences <= most_sequences and basis.total_per_s > best.total_per_s:
                best, best_depths = basis, depths
    return best_depths


@dataclass(frozen=True, slots=True)
class _Offer:
    """`who` gains `speed` for `load` more sequences by going to `depth`."""

    who: int
    depth: int
    speed: float
    load: float
    eagerness: tuple[float, int]


def _filled(
    conditions: Conditions, candidates: Sequence[Candidate], basis: Outlook, most_sequences: float
) -> tuple[int, ...]:
    depths = [0] * len(candidates)
    factor = conditions.target.window_s(basis.num_sequences) / conditions.target.stream_s(basis.num_sequences)
    speed = factor * (len(candidates) + conditions.num_streams_of_others)
    num = conditions.target_others + len(candidates) / conditions.num_targets
    best, best_speed = tuple(depths), speed / conditions.target.window_s(num)
    for offer in sorted(
        _offers(conditions, candidates, basis, factor), key=lambda offer: offer.eagerness, reverse=True
    ):
        num += offer.load / conditions.num_targets
        if num > most_sequences:
            break
        speed += offer.speed
        depths[offer.who] = offer.depth
        rate = speed / conditions.target.window_s(num)
        if rate > best_speed:
            best, best_speed = tuple(depths), rate
    return best


def _offers(conditions: Conditions, candidates: Sequence[Candidate], basis: Outlook, factor: float) -> list[_Offer]:
    hulls: dict[Kind, list[tuple[float, float, int]]] = {}
    offers = []
    for who, candidate in enumerate(candidates):
        kind = candidate.kind
        if kind not in hulls:
            hulls[kind] = _hull(conditions, kind, basis, factor)
        for before, after in pairwise(hulls[kind]):
            if (slope := _slope(before, after)) > 0.0:
                eagerness = (slope, int(after[2] <= candidate.depth))
                offers.append(_Offer(who, after[2], after[1] - before[1], after[0] - before[0], eagerness))
    return offers


def _hull(conditions: Conditions, kind: Kind, basis: Outlook, factor: float) -> list[tuple[float, float, int]]:
    """Load, speed and depth of the depths on the upper hull of speed over load: the gain for a place falls along it, so
    that taking the best offers first never takes a deeper one before a shallower one."""
    hull: list[tuple[float, float, int]] = []
    for depth in (0, *(depth for depth in DEPTHS if depth <= kind[1])):
        one = window(conditions, kind, depth, basis.c, basis.step_s, factor)
        point = (max(one.load.target, hull[-1][0] + 1e-6) if hull else one.load.target, one.speed_up, depth)
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


@dataclass(frozen=True, slots=True)
class Single:
    """One request: its speed over that of a window's target steps alone, and how many sequences it keeps running."""

    speed_up: float
    load: Load


def window(conditions: Conditions, kind: Kind, depth: int, c: float, step_s: float, factor: float = 1.0) -> Single:
    """`step_s` is a token of a window's target step; `factor` is its time over a streamed one's in the same batch."""
    if depth == 0:
        return Single(factor, Load(1.0, 0.0))
    return _planned(kind[0], _coarse(c), depth, _coarse(kind[2] / step_s), round(conditions.spread, 1))


@lru_cache(20_000)
def _planned(alpha: float, c: float, depth: int, verdict: float, spread: float) -> Single:
    """Arguments are rounded, to be found again: the same few windows are asked for at every step."""
    return Single(*uneven_window(alpha, c, depth, verdict, spread))


def _coarse(value: float) -> float:
    """Two digits: near values are one."""
    return float(f"{value:.2g}")
