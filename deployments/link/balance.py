"""Which replica a call goes to. Pure.

Promises: the calls of a session stay on one replica, so that its prefix cache is hit, until that replica is lost, is
leaving, is silent, has failed the session, or is so full that waiting there costs more than reading the text again
elsewhere; a new session goes where the wait is shortest; equals are told apart by a hash of session and replica, so
that another coordinator chooses the same.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SESSIONS = 20_000
"""So many sessions are remembered."""
SPILL_LOAD = 1.5
"""A session leaves its replica at this load (1: full), if another one has half of it or less."""
SPILL_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that could be called. `load` 1: every further call waits there."""

    replica: str
    load: float
    is_leaving: bool = False
    is_silent: bool = False
    """Whether it takes calls and answers none, for all that is known."""


class Balance:
    """The choices of one caller."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._shunned: dict[str, frozenset[str]] = {}

    def choose(self, session_id: str, candidates: Sequence[Candidate], avoid: frozenset[str] = frozenset()) -> str:
        """The replica for a call of `session_id` (empty: of nobody in particular), one of `candidates`.

        Replicas in `avoid`, those that the session shuns, those that are silent and those that are leaving are taken
        only where there is no other, the leaving ones first.
        """
        avoid |= self._shunned.get(session_id, frozenset())
        if all(c.replica in avoid for c in candidates):
            avoid = frozenset()
            self._shunned.pop(session_id, None)
        usable = [c for c in candidates if c.replica not in avoid]
        usable = [c for c in usable if not c.is_silent] or usable
        usable = [c for c in usable if not c.is_leaving] or usable
        if not usable:
            raise ValueError("there is no replica to choose")
        best = min(usable, key=lambda c: (round(c.load, 2), _rank(session_id, c.replica)))
        if not session_id:
            return best.replica
        home = next((c for c in usable if c.replica == self._homes.get(session_id)), None)
        if home is not None and not (home.load >= SPILL_LOAD and best.load <= home.load * SPILL_SHARE):
            best = home
        self._homes[session_id] = best.replica
        self._homes.move_to_end(session_id)
        while len(self._homes) > MAX_SESSIONS:
            self._shunned.pop(self._homes.popitem(last=False)[0], None)
        return best.replica

    def shun(self, session_id: str, replica: str) -> None:
        """`replica` has failed `session_id`, which goes elsewhere from now on, until all others have failed it too.

        Where it is not there any more, that was a call from before, and nothing follows."""
        if replica == self._homes.get(session_id):
            self._shunned[session_id] = self._shunned.get(session_id, frozenset()) | {replica}


def _rank(session_id: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{session_id}\0{replica}".encode(), digest_size=8).digest()
