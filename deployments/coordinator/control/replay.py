"""What a window gains when steps have unequal lengths: the session's own rules, played over drawn steps. Pure.

`theory.window_speed_up` takes all steps to be equally long. A long step holds up the window's head, so with unequal
ones a window needs more depth for the same speed, by much where most steps are accepted. Here the rules that lead to
that formula are followed step by step instead; with equal lengths both agree.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, log
from statistics import NormalDist
from typing import TypeVar

T = TypeVar("T")

NUM_STEPS = 256
WARM_UP = 32
"""Steps before the window is as full as it gets."""

ALPHAS = (0.0, 0.25, 0.5, 0.7, 0.85, 0.95, 1.0)
COSTS = (*(0.01 * 1.5**i for i in range(11)), 0.8, 1.0, 1.3, 2.0)
VERDICTS = (0.0, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Replay:
    """Of one request, times in target steps of mean length."""

    speed_up: float
    """Over the target alone."""
    target_load: float
    """Mean sequences in the target's batch."""
    draft_load: float


def replay(lengths: list[float], accepted: list[bool], c: float, depth: int, verdict: float) -> Replay:
    """The window over steps of these lengths, of which the draft's are `accepted` or not.

    A target step starts when its prefix is there and takes its length, a draft step `c` times that. The draft writes
    place j when place j - `depth` is committed; where the target is done first, its step stands.
    """
    window = _Window(lengths, accepted, c, depth, verdict)
    for j in range(len(lengths)):
        window.commit(j)
    commits, written = window.commits, sum(lengths[WARM_UP:])
    end = commits[-1]
    return Replay(written / (end - commits[WARM_UP - 1]), window.target_work / end, window.draft_work / end)


class _Window:
    """Times and work of a window whose places are committed one after another."""

    def __init__(self, lengths: list[float], accepted: list[bool], c: float, depth: int, verdict: float) -> None:
        self._lengths, self._accepted = lengths, accepted
        self._c, self._depth, self._verdict = c, depth, verdict
        self._start = 0.0
        self.commits: list[float] = []
        self.target_work = self.draft_work = 0.0

    def commit(self, j: int) -> None:
        """Place `j`, behind places that all stand."""
        decided, self._start = self._place(j, self._start, inf, j)
        self.commits.append(max(decided, self.commits[-1] if j else 0.0))

    def _place(self, j: int, start: float, until: float, committed: int) -> tuple[float, float]:
        """When place `j` is decided and the next one starts; its prefix is there at `start` and is left at `until`.
        Places from `committed` on are not committed before that."""
        length = self._lengths[j]
        has_room = j - self._depth < committed
        begin = max(start, self.commits[j - self._depth] if j >= self._depth else 0.0) if has_room else inf
        finish, drafted = start + length, begin + self._c * length
        self.target_work += min(finish, until) - start
        self.draft_work += max(min(drafted, finish, until) - begin, 0.0)
        if finish < drafted:
            return finish, finish
        decided = finish + self._verdict
        if self._accepted[j]:
            return decided, drafted
        behind, at = j + 1, drafted
        while behind < len(self._lengths) and at < min(decided, until):
            _, at = self._place(behind, at, min(decided, until), min(committed, j))
            behind += 1
        return decided, decided


@lru_cache(20_000)
def expected(alpha: float, c: float, depth: int, verdict: float, spread: float) -> Replay:
    """The mean window at acceptance rate `alpha`, lengths being log-normal with that `spread` (standard deviation of
    the logarithm, by quarters); ValueError without a depth or a rate.

    Played at the nodes around the arguments and interpolated: the time of a step is all but linear in each of them.
    """
    if depth < 1 or not 0.0 <= alpha <= 1.0 or min(c, verdict, spread) < 0.0:
        raise ValueError(f"there is no window for alpha={alpha}, c={c}, depth={depth}, verdict={verdict}")
    quarters = min(round(spread * 4.0), 6)
    step_s = target = draft = 0.0
    for a, share_a in _around(ALPHAS, alpha):
        for x, share_c in _around(COSTS, c):
            for v, share_v in _around(VERDICTS, verdict):
                share, node = share_a * share_c * share_v, _node(a, x, depth, v, quarters)
                step_s += share / node.speed_up
                target, draft = target + share * node.target_load, draft + share * node.draft_load
    return Replay(1.0 / step_s, target, draft)


def _around(nodes: tuple[float, ...], value: float) -> list[tuple[float, float]]:
    """The nodes on both sides of `value`, with their shares; only one where that is near enough."""
    right = bisect_right(nodes, value)
    if right in (0, len(nodes)):
        return [(nodes[max(right - 1, 0)], 1.0)]
    before, after = nodes[right - 1], nodes[right]
    part = (value - before) / (after - before)
    return [(before, 1.0)] if part < 0.02 else [(before, 1.0 - part), (after, part)]


@lru_cache(20_000)
def _node(alpha: float, c: float, depth: int, verdict: float, quarters: int) -> Replay:
    return replay(_lengths(quarters / 4.0), _accepted(alpha), c, depth, verdict)


@lru_cache(64)
def _lengths(spread: float) -> list[float]:
    normal = NormalDist()
    lengths = [exp(spread * normal.inv_cdf((i + 0.5) / NUM_STEPS)) for i in range(NUM_STEPS)]
    mean = sum(lengths) / NUM_STEPS
    return _mixed([length / mean for length in lengths])


@lru_cache(256)
def _accepted(alpha: float) -> list[bool]:
    if alpha in (0.0, 1.0):
        return [alpha == 1.0] * NUM_STEPS
    num_runs = max(round(NUM_STEPS * (1.0 - alpha)), 1)
    runs = _mixed([int(log(1.0 - (i + 0.5) / num_runs) / log(alpha)) for i in range(num_runs)])
    steps = [accepted for run in runs for accepted in [True] * run + [False]]
    return (steps + steps)[:NUM_STEPS]


def _mixed(values: list[T]) -> list[T]:
    """`values` in an order that looks random and is always the same."""
    mixed, state = list(values), 1
    for i in range(len(mixed) - 1, 0, -1):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64  # Knuth's multiplier
        j = (state >> 33) % (i + 1)
        mixed[i], mixed[j] = mixed[j], mixed[i]
    return mixed
