"""How fast a generation goes when so many run beside it: measured, so that what cannot end in time is not begun.

Promises: nothing is foretold before something was measured; what was measured fades; where only one number at once was
seen, twice as many are expected to take twice as long, fewer no less, and one more no longer: so it is tried out. No
I/O: the time is handed in.

Time a token is taken for a straight line over the number that run: level where an engine has room for more, through
zero where they share one that is full, and between the two for a batch that slows down bit by bit.
"""

from __future__ import annotations

MEASURE_S = 0.5
"""One measurement lasts so long at least, and until as many outputs came as run."""
LEAST_HEARD = 4
KEPT = 0.8
"""Of the weight of a measurement when the next one is made."""
SPREAD = 0.1
"""By so much of their mean the numbers that ran must differ for a slope to be believed."""


class Pace:
    """Seconds a written token in one generation, by how many run."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._lasted_s = 0.0
        self._generation_s = 0.0
        """Seconds of all that ran, together; and the same, times how many ran."""
        self._crowded_s = 0.0
        self._tokens = 0
        self._heard = 0
        self._weight = self._n = self._t = self._nn = self._nt = 0.0
        """Sums for the line: of numbers at once, of seconds a token, and of their products."""

    def advance(self, now: float, num_running: int) -> None:
        """Time has passed, in which so many ran."""
        if self._at is not None and num_running and now > self._at:
            passed = now - self._at
            self._lasted_s += passed
            self._generation_s += passed * num_running
            self._crowded_s += passed * num_running**2
            if self._lasted_s >= MEASURE_S and self._heard >= max(LEAST_HEARD, num_running):
                self._learn()
        self._at = now

    def add(self, num_tokens: int) -> None:
        """One of those that run wrote so many."""
        self._tokens += num_tokens
        self._heard += 1

    def token_s(self, num_running: int) -> float | None:
        """Seconds from token to token while so many run; None before anything was measured."""
        if not self._weight:
            return None
        n, t = self._n / self._weight, self._t / self._weight
        steepest = t / n  # a line through zero: they share what they get
        if not self._is_line():
            near = num_running <= n + max(1.0, SPREAD * n)
            return t if near else t + steepest * (num_running - n)
        slope = (self._nt / self._weight - n * t) / (self._nn / self._weight - n * n)
        return t + min(steepest, max(0.0, slope)) * (num_running - n)

    def alone_s(self) -> float | None:
        """Seconds a token for one that runs alone, at the least: where only one number at once was seen nobody knows
        whether they were in each other's way."""
        found = self.token_s(1)
        if found is None or self._is_line():
            return found
        return self._t / max(self._weight, self._n)

    def _is_line(self) -> bool:
        n = self._n / self._weight
        return self._nn / self._weight - n * n >= (SPREAD * n) ** 2

    def _learn(self) -> None:
        if self._tokens:
            n, t = self._crowded_s / self._generation_s, self._generation_s / self._tokens
            self._weight = KEPT * self._weight + 1.0
            self._n = KEPT * self._n + n
            self._t = KEPT * self._t + t
            self._nn = KEPT * self._nn + n * n
            self._nt = KEPT * self._nt + n * t
        self._lasted_s = self._generation_s = self._crowded_s = 0.0
        self._tokens = self._heard = 0
