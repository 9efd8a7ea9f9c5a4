"""Token ids of simulated steps: they say which step they belong to and who wrote them. Pure.

Promises: every place in a text is found again from the ids before it, also in the middle of a step, like a model finds
it; two steps are equal exactly where the script says so.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from actors.messages import Ending, Prefix, Step, TokenIds
from deployments.simulation.scripts import Agreement, Script

KINDS = tuple(Agreement)
PROMPT_IDS: TokenIds = (-len(KINDS),)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a text: step `index`, of which the target's first `num_written` tokens stand already."""

    index: int
    num_written: int


class Scripts:
    """The texts of all requests under way, by session id."""

    def __init__(self) -> None:
        self._scripts: dict[str, Script] = {}
        self._attempts: defaultdict[tuple[str, int], int] = defaultdict(int)

    def open(self, session_id: str, script: Script) -> None:
        """`session_id` writes `script`."""
        self._scripts[session_id] = script

    def close(self, session_id: str) -> None:
        """The request is over."""
        del self._scripts[session_id]
        for key in [key for key in self._attempts if key[0] == session_id]:
            del self._attempts[key]

    def place(self, session_id: str, prefix: Prefix) -> Place:
        """What follows `prefix`."""
        written = tuple(chain.from_iterable(piece.token_ids for piece in prefix.pieces[-2:]))
        ids = written or prefix.prompt_ids
        index = ids[-1] // len(KINDS)
        if ids[-1] % len(KINDS) == 0 and index >= 0:
            num_written = _trailing(ids)
            if num_written < self._scripts[session_id].pair(index, 0).num_target_tokens:
                return Place(index, num_written)
        return Place(index + 1, 0)

    def target_ids(self, session_id: str, place: Place) -> tuple[TokenIds, Ending]:
        """What the target writes from `place` to the step's end."""
        script = self._scripts[session_id]
        num_tokens = script.pair(place.index, 0).num_target_tokens - place.num_written
        return (len(KINDS) * place.index,) * num_tokens, _ending(script, place.index)

    def draft_ids(self, session_id: str, place: Place) -> tuple[TokenIds, Ending]:
        """What the draft writes from `place` to the step's end, this time."""
        script, key = self._scripts[session_id], (session_id, place.index)
        pair = script.pair(place.index, self._attempts[key])
        self._attempts[key] += 1
        kind, first = KINDS.index(pair.agreement), len(KINDS) * place.index
        num_tokens = max(pair.num_draft_tokens - place.num_written, 1)
        num_common = min(max(pair.num_common - place.num_written, 0), num_tokens - 1)
        return (first,) * num_common + (first + kind,) * (num_tokens - num_common), _ending(script, place.index)


def agreement_of(draft: Step) -> Agreement:
    """What a draft's step is to the target's; of several steps joined, what the worst of them is."""
    return KINDS[max(token % len(KINDS) for token in set(draft.token_ids))]


def text_of(token_ids: TokenIds, ends: bool = True) -> str:
    """A text for `token_ids`, a character each: texts begin alike where ids do. A step `ends` in a blank line."""
    return "".join(_letter(token) for token in token_ids) + ("\n\n" if ends else "")


def num_context(prefix: Prefix) -> int:
    """Tokens that stand before a call's first."""
    return len(prefix.prompt_ids) + sum(len(piece.token_ids) for piece in prefix.pieces)


@lru_cache(4096)
def _letter(token: int) -> str:
    return chr(0x4E00 + token % 0x5000)


def _trailing(ids: TokenIds) -> int:
    """How often the last id stands at the end."""
    num = 0
    for token in reversed(ids):
        if token != ids[-1]:
            break
        num += 1
    return num


def _ending(script: Script, index: int) -> Ending:
    return Ending.END if index >= script.num_steps - 1 else Ending.BOUNDARY
