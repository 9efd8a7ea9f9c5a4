"""A circuit breaker: who failed again and again is left alone for a while, then tried with one call. Pure: the clock is
handed in.

Promises: closed until `max_failures` failures in a row; then open, and nobody is let through, for a pause that doubles
each time up to `max_pause_s`; then half open: one call is let through, whose success closes it and whose failure opens
it again. A probe that was `left` gives its place to another one at once, one of which nothing is heard after a pause.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Circuit(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


@dataclass(frozen=True, slots=True)
class Fuse:
    """When a breaker opens, and for how long; seconds."""

    max_failures: int = 3
    pause_s: float = 2.0
    max_pause_s: float = 30.0


class Breaker:
    """The breaker of one role."""

    def __init__(self, fuse: Fuse = Fuse()) -> None:
        self._fuse = fuse
        self._num_failures = 0
        self._num_openings = 0
        self._until = 0.0
        self.state = Circuit.CLOSED

    def lets_through(self, now: float) -> bool:
        """Whether a call may be made at `now`; where it is the probe, no other one is until its end is told."""
        if self.state is Circuit.CLOSED:
            return True
        if now < self._until:
            return False
        self.state = Circuit.HALF_OPEN
        self._until = now + self._pause_s
        return True

    def left(self) -> None:
        """The probe ended, and said neither: another call may be made at once."""
        if self.state is Circuit.HALF_OPEN:
            self._until = 0.0

    def succeeded(self) -> None:
        """A call that was let through did what it should."""
        self._num_failures = self._num_openings = 0
        self.state = Circuit.CLOSED

    def failed(self, now: float) -> None:
        """A call that was let through failed, or was late."""
        self._num_failures += 1
        if self.state is Circuit.HALF_OPEN or (
            self.state is Circuit.CLOSED and self._num_failures >= self._fuse.max_failures
        ):
            self._num_openings += 1
            self._num_failures = 0
            self.state = Circuit.OPEN
            self._until = now + self._pause_s

    @property
    def _pause_s(self) -> float:
        doublings = min(max(self._num_openings - 1, 0), 20)
        return float(min(self._fuse.pause_s * 2.0**doublings, self._fuse.max_pause_s))
