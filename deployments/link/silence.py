"""Whether a replica that takes calls still answers any: its process may live and its engine hang. Pure: times are
handed in, in seconds.

Promises: a replica counts as silent when a call there is given up and neither that call nor any other has heard of it
since; then one call after each pause tries it, and the pauses double; with the first item of any call the silence ends.
"""

from __future__ import annotations

FIRST_PAUSE_S = 30.0
MAX_PAUSE_S = 300.0
"""One call in so long waits in vain for a replica that never comes back."""


class Silence:
    """The silence of one replica, as one caller knows it."""

    def __init__(self) -> None:
        self._heard_at = float("-inf")
        self._pause_s = 0.0
        self._until = float("-inf")

    def lasts(self, now: float) -> bool:
        """Whether calls had better go elsewhere."""
        return now < self._until

    def tried(self, now: float) -> None:
        """A call is made there: where it is the first after a pause, the others wait for what it hears."""
        if self._pause_s and not self.lasts(now):
            self._until = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def heard(self, now: float) -> None:
        """An item of a call has come."""
        self._heard_at = now
        self._pause_s, self._until = 0.0, float("-inf")

    def given_up(self, since: float, now: float) -> bool:
        """A call was given up that has heard nothing since `since`. Whether a silence begins with that."""
        if self._heard_at > since:
            return False
        begins = not self._pause_s
        self._pause_s = self._pause_s or FIRST_PAUSE_S
        self._until = now + self._pause_s
        return begins
