"""How near to their time limits answers come: each holder as one, whatever he sends and whatever limits he sets.

Promises: for a holder counts what his own answers took, and what had no answer when its time was over; all who have
something running, or had it in the last `RECENT_S`, count alike, so that nobody moves the mean by more than his part of
it; nothing grows with the number of requests. No I/O: the time is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 0.1
"""Of a holder's mean that each new answer makes up."""
RECENT_S = 60.0


@dataclass(slots=True)
class _Holder:
    """What is known of one."""

    used: float = 0.0
    """Of their time limits, what his answers took of late."""
    num_running: int = 0
    heard_at: float = 0.0


class Lateness:
    """What part of their time limits answers take."""

    def __init__(self) -> None:
        self._holders: dict[str, _Holder] = {}
        self.num_answers = 0
        """That have counted."""

    def mean(self) -> float:
        """Of all holders that count; 0 if there are none."""
        return sum(holder.used for holder in self._holders.values()) / max(1, len(self._holders))

    def began(self, name: str, now: float) -> None:
        """A request of the holder `name` runs."""
        holder = self._holders.setdefault(name, _Holder())
        holder.num_running += 1
        holder.heard_at = now
        self._forget(now)

    def answered(self, name: str, used: float) -> None:
        """A request of `name` that runs has its answer, or will have none in time, after the share `used` of its time
        limit (however late, it counts as late: 1). What is broken off for any other reason says nothing."""
        holder = self._holders[name]
        holder.used += SHARE * (min(used, 1.0) - holder.used)
        self.num_answers += 1

    def left(self, name: str, now: float) -> None:
        """A request of `name` runs no more."""
        holder = self._holders[name]
        holder.num_running -= 1
        holder.heard_at = now

    def _forget(self, now: float) -> None:
        gone = [
            name
            for name, holder in self._holders.items()
            if not holder.num_running and now - holder.heard_at > RECENT_S
        ]
        for name in gone:
            del self._holders[name]
