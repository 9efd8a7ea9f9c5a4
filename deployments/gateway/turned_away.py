"""How many generations would run beside those that do, had they not been refused: demand that no coordinator sees.

Promises: one that was refused counts for as long as generations take, so the number is what is refused in a second
times those seconds (Little's law) and has the unit of what runs; as long after the last refusal it is 0; what is kept
grows with that time, not with the number. No I/O: the time is handed in.
"""

from __future__ import annotations

from collections import deque

SHARE = 0.1
"""Of the mean time that each generation's makes up."""


class TurnedAway:
    """The generations that one gateway refused."""

    def __init__(self) -> None:
        self._refused: deque[tuple[int, int]] = deque()
        """Of each second in which some were: the second, and how many."""
        self._stay_s = float("inf")
        """How long generations take; until one has ended those refused would all be there still."""

    def number(self, now: float) -> float:
        """How many of them would run now."""
        return float(sum(number for second, number in self._refused if now < second + 1 + self._stay_s))

    def add(self, num_generations: int, now: float) -> None:
        """So many were refused."""
        second = int(now)
        before = self._refused.pop()[1] if self._refused and self._refused[-1][0] == second else 0
        self._refused.append((second, before + num_generations))
        while self._refused[0][0] + 1 + self._stay_s <= now:
            self._refused.popleft()

    def ended(self, seconds: float) -> None:
        """One that was let in has ended after so long."""
        unknown = self._stay_s == float("inf")
        self._stay_s = seconds if unknown else self._stay_s + SHARE * (seconds - self._stay_s)
