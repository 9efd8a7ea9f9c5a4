"""How fast a generation goes when so many run beside it: measured, so that what cannot end in time is not begun.

Promises: nothing is foretold before something was measured; what was measured fades, but for how much they are in each
other's way, which is known until it is found to be otherwise. As long as only one number at once was seen one more, and
fewer, are expected to take as long, so that it is tried out; many more are expected to share what there is. No I/O: the
time is handed in.

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
        self._share: float | None = None
        """Of the time a token takes, what is due to the others: 0 where an engine has room, 1 where they share one that
        is full. None until different numbers were seen; then what was found last."""

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
        share = self._share
        if share is None:
            share = 0.0 if num_running <= n + max(1.0, SPREAD * n) else 1.0
        return t + share * t / n * (num_running - n)

    def _learn(self) -> None:
        if self._tokens:
            n, t = self._crowded_s / self._generation_s, self._generation_s / self._tokens
            self._weight = KEPT * self._weight + 1.0
            self._n = KEPT * self._n + n
            self._t = KEPT * self._t + t
            self._nn = KEPT * self._nn + n * n
            self._nt = KEPT * self._nt + n * t
            self._look_for_line()
        self._lasted_s = self._generation_s = self._crowded_s = 0.0
        self._tokens = self._heard = 0

    def _look_for_line(self) -> None:
        n, t = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - n * n
        if spread >= (SPREAD * n) ** 2:
            slope = (self._nt / self._weight - n * t) / spread
            self._share = min(1.0, max(0.0, slope * n / t))
