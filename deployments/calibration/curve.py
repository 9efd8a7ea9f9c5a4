"""How good a threshold is: precision and recall, with intervals, and the probability that a score stands for.

Promises: pure; the same pairs give the same numbers in any order; a share is never shown without its interval; a
threshold is only said to reach a precision if the lower end of its 95 % interval does.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Z95 = 1.959964
MAX_POINTS = 12
"""Of a calibration: more would be read as more than was measured."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A pair of steps: what the check gave it, and whether the label says that both mean the same."""

    score: float
    same: bool


@dataclass(frozen=True, slots=True)
class Threshold:
    """What accepting every score of `threshold` or more would have done. `low` and `high` are the ends of the 95 %
    interval of `precision` (the share of same pairs among the accepted); `recall` is the share of same pairs that were
    accepted, `accepted` the share of all."""

    threshold: float
    num_accepted: int
    num_right: int
    precision: float
    low: float
    high: float
    recall: float
    accepted: float


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927); 0 to 1 of nothing. ValueError for counts that cannot be."""
    if not 0 <= num_right <= num:
        raise ValueError(f"{num_right} of {num} is no share")
    if num == 0:
        return 0.0, 1.0
    share, square = num_right / num, Z95**2
    middle = (share + square / (2 * num)) / (1 + square / num)
    half = Z95 / (1 + square / num) * math.sqrt(share * (1 - share) / num + square / (4 * num**2))
    return (0.0 if num_right == 0 else middle - half), (1.0 if num_right == num else middle + half)


def num_for(precision: float) -> int:
    """So many accepted pairs, all of them right, show that `precision` is reached: below 1, at least 0."""
    return math.ceil(Z95**2 * precision / (1 - precision) - 1e-9)


def thresholds(pairs: Sequence[Scored]) -> list[Threshold]:
    """One for each score that occurs, from the lowest."""
    ordered = sorted(pairs, key=lambda pair: pair.score)
    scores = [pair.score for pair in ordered]
    right_from = [0]
    for pair in reversed(ordered):
        right_from.append(right_from[-1] + pair.same)
    right_from.reverse()
    found = []
    for score in sorted(set(scores)):
        first = bisect_left(scores, score)
        num, right = len(ordered) - first, right_from[first]
        low, high = wilson(right, num)
        recall = right / right_from[0] if right_from[0] else 0.0
        found.append(Threshold(score, num, right, right / num, low, high, recall, num / len(ordered)))
    return found


def choose(found: Sequence[Threshold], precision: float) -> Threshold | None:
    """The lowest threshold that is shown to reach `precision`; None if none is."""
    return next((one for one in found if one.low >= precision), None)


def calibration(pairs: Sequence[Scored]) -> list[tuple[float, float]]:
    """Points ``(score, probability)`` of the best rising steps through the labels (isotonic regression by pooling
    adjacent violators; Ayer et al., 1955), at most `MAX_POINTS`; nothing for no pairs.

    No probability is 0 or 1: with n pairs it lies between 1 / (n + 2) and (n + 1) / (n + 2), Laplace's rule for the
    case that all labels are equal.
    """
    blocks: list[_Block] = []
    for scores in _bins(pairs):
        blocks.append(scores)
        while len(blocks) > 1 and blocks[-2].share >= blocks[-1].share:
            last = blocks.pop()
            blocks[-1] = blocks[-1].joined(last)
    least = 1 / (len(pairs) + 2)
    return [(float(block.total / block.num), min(max(block.share, least), 1 - least)) for block in blocks]


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring scores: their sum (exact, so that the means of two blocks are never the same), their number, how
    many are of same pairs."""

    total: Fraction
    num: int
    num_same: int

    @property
    def share(self) -> float:
        return self.num_same / self.num

    def joined(self, other: _Block) -> _Block:
        return _Block(self.total + other.total, self.num + other.num, self.num_same + other.num_same)


def _bins(pairs: Sequence[Scored]) -> list[_Block]:
    """The pairs in the order of their scores, in at most `MAX_POINTS` bins; equal scores are never divided."""
    bins: list[_Block] = []
    size = math.ceil(len(pairs) / MAX_POINTS)
    last = math.nan
    for pair in sorted(pairs, key=lambda pair: pair.score):
        block = _Block(Fraction(pair.score), 1, int(pair.same))
        if bins and (pair.score == last or bins[-1].num < size):
            bins[-1] = bins[-1].joined(block)
        else:
            bins.append(block)
        last = pair.score
    return bins
