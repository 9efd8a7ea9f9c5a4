"""Whether a series is flat: the slope of a straight line through it, with its 95 % interval. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trend:
    """The slope for one unit of x, and the interval that holds it in 95 of 100 series if the residuals are
    independent. Neighbouring samples of memory are not quite: read the interval as narrow rather than wide."""

    slope: float
    low: float
    high: float

    @property
    def is_flat(self) -> bool:
        """Whether the interval reaches down to zero or below."""
        return self.low <= 0.0


def trend(xs: Sequence[float], ys: Sequence[float]) -> Trend:
    """Least squares. ValueError for fewer than three points or xs that are all the same."""
    n = len(xs)
    mean_x, mean_y = sum(xs) / max(n, 1), sum(ys) / max(n, 1)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if n < 3 or spread == 0:
        raise ValueError("A trend needs three points or more, at different places.")
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    half = _student(n - 2) * (rest / (n - 2) / spread) ** 0.5
    return Trend(slope, slope - half, slope + half)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, from a table, the next smaller entry."""
    table = ((1, 12.71), (2, 4.30), (3, 3.18), (4, 2.78), (5, 2.57), (7, 2.36), (10, 2.23), (15, 2.13), (20, 2.09))
    return [value for least, value in (*table, (30, 2.04), (60, 2.00)) if least <= freedom][-1]
