"""The simulated clock: seconds that pass only where something is due.

Promises: what is due happens in order of time, and what is due at once in the order in which it was asked for; nothing
waits, and the time of the machine is never read.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count


class Clock:
    """Seconds since the run began, and what is to happen when; of what is due at once, the earliest asked for first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls `then` after so many seconds."""
        heappush(self._agenda, (self.now + max(seconds, 0.0), next(self._order), then))

    def tick(self) -> None:
        """Goes to the next thing that is due, and lets it happen; IndexError if there is none."""
        self.now, _, then = heappop(self._agenda)
        then()

    def run_until(self, at_s: float) -> None:
        """Lets all happen that is due until `at_s`, which is then the time."""
        while self._agenda and self._agenda[0][0] <= at_s:
            self.now, _, then = heappop(self._agenda)
            then()
        self.now = at_s
