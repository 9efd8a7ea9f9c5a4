"""How deep each request should look ahead: predicted throughput, and who gets the target's spare places. Pure.

The speed of a request in a window is that of `replay`, over the time of a target step at the batch size that all
requests together make; that batch is the sum of their windows' loads. So a deeper window is weighed against what it
costs everybody in the batch, and the request whose next step is likeliest to be accepted gains most for its places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from deployments.coordinator.control.batch_cost import BatchCost, TargetCost
from deployments.coordinator.control.replay import Replay, expected
from deployments.coordinator.theory import sync_speed_up

ROUNDS = 4
"""The batch follows from the depths, and the draft's cost over the target's from the batch: rounds until both agree."""
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Depths to choose from."""
UNKNOWN_C = 0.25
"""The draft's token over the target's until it is known."""


Kind = tuple[float, int, bool]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One request: the acceptance rate of its steps, how deep it may look ahead, how deep it does, and whether in
    rounds (draft, then target, then verdicts) or ahead of the verdicts."""

    alpha: float
    max_depth: int
    depth: int = 0
    in_rounds: bool = False

    @property
    def kind(self) -> Kind:
        """What makes it like others."""
        return round(self.alpha, 2), self.max_depth, self.in_rounds


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the engines can do now. Sequences are those in one replica; `*_others` are those that are not ours."""

    target: TargetCost
    draft: BatchCost
    verdict_tokens_s: float = 0.0
    """Seconds of a verdict over the tokens of a step."""
    spread: float = 0.0
    """Of the steps' lengths: standard deviation of the logarithm."""
    target_others: float = 0.0
    draft_others: float = 0.0
    num_targets: int = 1
    """Replicas among which our requests are spread."""
    num_drafts: int = 1

    def draft_s(self, num_sequences: float) -> float:
        """Seconds a token of the draft."""
        if self.draft.is_known:
            return self.draft.at(num_sequences)
        return UNKNOWN_C * self.target.stream_s(1.0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a choice of depths is predicted to give."""

    tokens_per_s: float
    """Of all candidates together."""
    num_sequences: float
    """In the target's batch."""
    c: float
    verdict: float
    """Of one target step."""


def outlook(conditions: Conditions, candidates: Sequence[Candidate], depths: Sequence[int]) -> Outlook:
    """The throughput of `candidates` at `depths`, with the batches that these make."""
    alike = Counter((candidate.kind, depth) for candidate, depth in zip(candidates, depths, strict=True))
    num = conditions.target_others + len(candidates) / conditions.num_targets
    drafting = conditions.draft_others + sum(d > 0 for d in depths) / conditions.num_drafts
    found = Outlook(0.0, num, 1.0, 0.0)
    for round_number in range(ROUNDS):
        step_s = conditions.target.window_s(num)
        c = conditions.draft_s(max(drafting, 1.0)) / step_s
        verdict = conditions.verdict_tokens_s / step_s
        speed = target_load = draft_load = 0.0
        for (kind, depth), count in alike.items():
            one = _window(conditions, kind, c, depth, verdict)
            speed, target_load = speed + count * one.speed_up, target_load + count * one.target_load
            draft_load += count * one.draft_load
        found = Outlook(speed / step_s, num, c, verdict)
        new = conditions.target_others + target_load / conditions.num_targets
        new_drafting = conditions.draft_others + draft_load / conditions.num_drafts
        if abs(new - num) < 0.01 * num and abs(new_drafting - drafting) < 0.01 * drafting + 0.01:
            break
        part = 1.0 if round_number == 0 else 0.5
        num, drafting = num + part * (new - num), drafting + part * (new_drafting - drafting)
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
            if basis.num_sequences <= most_sequences and basis.tokens_per_s > best.tokens_per_s:
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
    speed = conditions.target.window_factor * len(candidates)
    num = conditions.target_others + len(candidates) / conditions.num_targets
    best, best_speed = tuple(depths), speed / conditions.target.window_s(num)
    for offer in sorted(_offers(conditions, candidates, basis), key=lambda offer: offer.eagerness, reverse=True):
        num += offer.load / conditions.num_targets
        if num > most_sequences:
            break
        speed += offer.speed
        depths[offer.who] = offer.depth
        rate = speed / conditions.target.window_s(num)
        if rate > best_speed:
            best, best_speed = tuple(depths), rate
    return best


def _offers(conditions: Conditions, candidates: Sequence[Candidate], basis: Outlook) -> list[_Offer]:
    hulls: dict[Kind, list[tuple[float, float, int]]] = {}
    offers = []
    for who, candidate in enumerate(candidates):
        kind = candidate.kind
        if kind not in hulls:
            hulls[kind] = _hull(conditions, kind, basis)
        for before, after in pairwise(hulls[kind]):
            if (slope := _slope(before, after)) > 0.0:
                eagerness = (slope, int(after[2] <= candidate.depth))
                offers.append(_Offer(who, after[2], after[1] - before[1], after[0] - before[0], eagerness))
    return offers


def _hull(conditions: Conditions, kind: Kind, basis: Outlook) -> list[tuple[float, float, int]]:
    """Load, speed and depth of the depths on the upper hull of speed over load: the gain for a place falls along it, so
    that taking the best offers first never takes a deeper one before a shallower one."""
    hull: list[tuple[float, float, int]] = []
    for depth in (0, *(depth for depth in DEPTHS if depth <= kind[1])):
        one = _window(conditions, kind, basis.c, depth, basis.verdict)
        point = (max(one.target_load, hull[-1][0] + 1e-6) if hull else one.target_load, one.speed_up, depth)
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _window(conditions: Conditions, kind: Kind, c: float, depth: int, verdict: float) -> Replay:
    """One request, its speed over that of a window's target steps alone; arguments are rounded, to be found again."""
    alpha, _, in_rounds = kind
    if depth == 0:
        return Replay(conditions.target.window_factor, 1.0, 0.0)
    if in_rounds:
        round_s = 1.0 + c * depth + verdict
        speed_up = sync_speed_up(alpha, c, depth + 1) * (1.0 + c * depth) / round_s
        return Replay(speed_up, (depth + 1) / round_s, c * depth / round_s)
    return expected(alpha, _coarse(c), depth, _coarse(verdict), round(conditions.spread * 4.0) / 4.0)


def _coarse(value: float) -> float:
    """Two digits: near values are one."""
    return float(f"{value:.2g}")
