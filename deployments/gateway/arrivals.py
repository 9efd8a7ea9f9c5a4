"""Requests that are here and whose bodies may be on their way still: how many there may be. Pure.

Promises: of what a gateway takes at once, half of `ROOM` is left for probes and for what is refused here, however many
bodies do not come; whose bodies are late has no more of these than there is room left for others (alone: half of it),
and one in any case; what is counted is given back once. A body that comes at once is refused only where there is no
room to wait for it.

Why: until its body has come nobody knows what a request asks for, so that it is in no queue; and Ray Serve hands a
gateway no more than `max_ongoing_requests`, whatever they do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from actors.errors import CapacityError
from deployments.gateway_config import ROOM

LATE_S = 1.0
"""A body that has not come within this time is late. Of many that come at once none is, unless its client is slow."""


class Arrivals:
    """The requests for text of one gateway, which takes `max_ongoing_requests` of all kinds. `on_refusal` is called for
    each that is refused here."""

    def __init__(self, max_ongoing_requests: int, on_refusal: Callable[[], None] = lambda: None) -> None:
        # The other half: a request that the queue will refuse is let in here, as long as its body comes.
        self.room = max_ongoing_requests - ROOM // 2
        """For how many more there is room."""
        self.late = Counter[str]()
        """Bodies that are late, by the holder of the key."""
        self.on_refusal = on_refusal

    def come(self, holder: str) -> Arrival:
        """A request of `holder` is here, until it leaves."""
        return Arrival(self, holder)


class Arrival:
    """One of them."""

    def __init__(self, arrivals: Arrivals, holder: str) -> None:
        self._arrivals = arrivals
        self._holder = holder
        self._is_here = True
        self._is_late = False
        arrivals.room -= 1

    def check(self) -> None:
        """CapacityError where there is no room to wait for its body."""
        if self._arrivals.room < 0:
            raise self._refused("As many requests are here as it takes.")

    def be_late(self) -> CapacityError | None:
        """Its body is late. Why it is not waited for any more; None: it is."""
        late = self._arrivals.late
        if (number := late[self._holder]) and number >= self._arrivals.room:
            whose = "of requests of the same key, or of none as well,"
            refusal = self._refused(f"The body did not come at once, and {number} {whose} are waited for already.")
            self.leave()  # it will have in a moment: whose turn it is to be late next has its room
            return refusal
        late[self._holder] += 1
        self._is_late = True
        return None

    def be_read(self) -> None:
        """Its body has come, or will not."""
        if self._is_late:
            self._is_late = False
            self._arrivals.late -= Counter([self._holder])  # which forgets those of whom there are none

    def leave(self) -> None:
        """Its response has ended; a second time means nothing."""
        self.be_read()
        if self._is_here:
            self._is_here = False
            self._arrivals.room += 1

    def _refused(self, why: str) -> CapacityError:
        self._arrivals.on_refusal()
        return CapacityError(f"The server is at its capacity. {why} Try again later.")
