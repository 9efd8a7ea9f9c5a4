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
from typing import Protocol

MAX_SESSIONS = 20_000
"""So many sessions are remembered."""
SPILL_LOAD = 1.5
"""A session leaves its replica at this load (1: full), if another one has half of it or less."""
SPILL_SHARE = 0.5


class Candidate(Protocol):
    """A replica that could be called."""

    @property
    def replica(self) -> str:
        """Its name."""
        ...

    @property
    def load(self) -> float:
        """How full it is; 1: every further call waits there."""
        ...

    @property
    def is_leaving(self) -> bool:
        """Whether it takes nothing new."""
        ...

    @property
    def is_silent(self) -> bool:
        """Whether it takes calls and answers none, for all that is known."""
        ...


class Balance:
    """The choices of one caller."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._shunned: dict[str, frozenset[str]] = {}

    def home(self, session_id: str) -> str:
        """The replica that the last call of `session_id` went to; empty: none is known."""
        return self._homes.get(session_id, "")

    def stays(self, session_id: str, home: Candidate, avoid: frozenset[str] = frozenset()) -> bool:
        """Whether calls of `session_id` go to its `home` again while there is room."""
        is_left = home.replica in avoid or home.replica in self._shunned.get(session_id, ())
        return not (is_left or home.is_leaving or home.is_silent)

    def choose(self, session_id: str, candidates: Sequence[Candidate], avoid: frozenset[str] = frozenset()) -> str:
        """The replica for a call of `session_id` (empty: of nobody in particular), one of `candidates`.

        Replicas in `avoid`, those that the session shuns, those that are silent and those that are leaving are taken
        only where there is no other, the leaving ones first.
        """
        known = self.home(session_id)
        home = next((c for c in candidates if c.replica == known), None)
        if home is not None and home.load < SPILL_LOAD and self.stays(session_id, home, avoid):
            self._homes.move_to_end(session_id)
            return known  # without weighing the others: this is asked for every call
        avoid |= self._shunned.get(session_id, frozenset())
        if all(c.replica in avoid for c in candidates):
            avoid = frozenset()
            self._shunned.pop(session_id, None)
        usable = [c for c in candidates if c.replica not in avoid]
        usable = [c for c in usable if not c.is_silent] or usable
        usable = [c for c in usable if not c.is_leaving] or usable
        if not usable:
            raise ValueError("there is no replica to choose")
        least = min(round(c.load, 2) for c in usable)
        best = min((c for c in usable if round(c.load, 2) == least), key=lambda c: _rank(session_id, c.replica))
        if not session_id:
            return best.replica
        if home is not None and home in usable and (home.load < SPILL_LOAD or best.load > home.load * SPILL_SHARE):
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
