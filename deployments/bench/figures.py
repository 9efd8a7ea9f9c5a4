"""The numbers of a report that are not about requests: quantiles, intervals, lengths of time.

Promises: every interval comes from a seed, so that the same requests give the same report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

_NUM_RESAMPLES = 4000
_LEVEL = 0.95
_Z95 = 1.959964


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of the values lie, between neighbours in proportion; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def bootstrap_ci(
    values: Sequence[float], seed: int, of_mean: bool = False, blocks: Sequence[int] | None = None
) -> tuple[float, float] | None:
    """95 % percentile interval of the median, or of the mean. One value a pair makes it a paired interval: prompts are
    drawn, both answers of each together. Values that share what moves them are drawn as one: `blocks` says for each
    which others it belongs to. None for fewer than three of what is drawn, which say nothing of their spread."""
    of = np.arange(len(values)) if blocks is None else np.unique(np.asarray(blocks, dtype=int), return_inverse=True)[1]
    num = int(of.max()) + 1 if len(of) else 0
    if num < 3:
        return None
    draws = np.random.default_rng(seed).integers(num, size=(_NUM_RESAMPLES, num))
    cells = (draws + num * np.arange(_NUM_RESAMPLES)[:, None]).ravel()
    times_drawn = np.bincount(cells, minlength=num * _NUM_RESAMPLES).reshape(_NUM_RESAMPLES, num)
    order = np.argsort(values, kind="stable")
    ordered, weights = np.asarray(values, dtype=float)[order], times_drawn[:, of[order]]
    centres = weights @ ordered / weights.sum(axis=1) if of_mean else _medians(ordered, weights)
    low, high = np.quantile(centres, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(low), float(high)


def _medians(ordered: npt.NDArray[np.float64], weights: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    """Of `ordered` values, each there as often as a row of `weights` says: a median a row."""
    reached = np.cumsum(weights, axis=1)
    num = reached[:, -1:]
    low, high = (np.argmax(reached > place, axis=1) for place in ((num - 1) // 2, num // 2))
    found: npt.NDArray[np.float64] = (ordered[low] + ordered[high]) / 2
    return found


def share_ci(num_hits: int, num_tries: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a share; None of no tries."""
    if not num_tries:
        return None
    share, z2 = num_hits / num_tries, _Z95**2
    middle = (share + z2 / (2 * num_tries)) / (1 + z2 / num_tries)
    spread = math.sqrt(share * (1 - share) / num_tries + z2 / (4 * num_tries**2)) * _Z95 / (1 + z2 / num_tries)
    return max(0.0, middle - spread), min(1.0, middle + spread)


def sign_test(num_up: int, num_down: int) -> float:
    """Probability that signs which are as likely up as down differ by so many or more (exact, two-sided); 1 of none."""
    num = num_up + num_down
    tail = sum(math.comb(num, k) for k in range(min(num_up, num_down) + 1))
    chance: float = 2 * tail / 2**num
    return min(1.0, chance)


def busy_s(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of the intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
