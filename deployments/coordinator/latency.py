"""How long a call may take before it is given up, from how long such calls took lately. Pure: times are handed in.

Promises: a limit is never below its floor nor above its ceiling; until enough is known it is the ceiling; one slow call
among many does not move it. Only calls that were answered count: a role that hangs never makes its limit longer. Each
attempt after one that was given up may take twice as long, so that a role that has become slower altogether is heard
again, and takes its limit along.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

NUM_RECENT = 128
"""So many calls are remembered."""
MIN_KNOWN = 8
"""With fewer, the ceiling is the limit."""
QUANTILE = 0.95
MAX_DOUBLINGS = 30
REFRESH_EVERY = 8
"""The limit is worked out anew after so many calls; sorting for each token would cost more than it tells."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a limit, in seconds; `factor` is how many times a call may take what all but the slowest ones take."""

    min_s: float
    max_s: float
    factor: float = 5.0


class TimeLimit:
    """The limit for calls of one kind."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._recent: deque[float] = deque(maxlen=NUM_RECENT)
        self._num_new = 0
        self._limit_s = bounds.max_s

    def limit_s(self, attempt: int = 0) -> float:
        """Seconds that a call may take now, after so many that were given up."""
        return min(self._bounds.max_s, self._limit_s * 2.0 ** min(attempt, MAX_DOUBLINGS))

    def took(self, seconds: float) -> None:
        """A call was answered after so many seconds."""
        self._recent.append(seconds)
        self._num_new += 1
        if len(self._recent) >= MIN_KNOWN and (self._num_new >= REFRESH_EVERY or seconds > self._limit_s):
            self._num_new = 0
            self._limit_s = min(self._bounds.max_s, max(self._bounds.min_s, self._bounds.factor * self._high()))

    def typical_s(self) -> float | None:
        """The median; None where too little is known."""
        if len(self._recent) < MIN_KNOWN:
            return None
        return sorted(self._recent)[len(self._recent) // 2]

    def _high(self) -> float:
        """The quantile, by the nearest rank."""
        return sorted(self._recent)[math.ceil(QUANTILE * len(self._recent)) - 1]
