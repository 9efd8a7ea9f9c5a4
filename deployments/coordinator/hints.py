"""Which token sequences an engine may try as drafts of its own tokens: a pure policy.

Promises: a hint is only a guess, so nothing here changes what is written; sequences go only to the vocabulary they
were written in; what is kept and what is sent is bounded in sequences and in tokens.

What a call gets: the draft's step for its own position first, then what was written near its place on paths that were
left, newest first. A path that was left is one sequence from the rejected step on, since what follows a rejection often
says much the same as before, some tokens earlier or later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from actors.messages import Step, TokenIds

NUM_KEPT = 16
"""So many left sequences are remembered; older ones are far behind."""
MAX_TOKENS = 512
"""Tokens of all nearby sequences of one call: they travel with it."""
MARGIN = 64
"""A sequence helps when it covers a call's place within so many tokens: about a step, by which two paths may differ."""


@dataclass(frozen=True, slots=True)
class Left:
    """What stood on a path that was left, from token `place` of the output on."""

    place: int
    token_ids: TokenIds
    vocabulary: str

    def is_near(self, place: int) -> bool:
        """Whether `place` lies in it, or a margin before or after it."""
        return self.place - MARGIN <= place < self.place + len(self.token_ids) + MARGIN

    def from_place(self, place: int) -> TokenIds:
        """What of it is not further than a margin behind `place`."""
        return self.token_ids[max(0, place - self.place - MARGIN) :]


class Hints:
    """The rejected material of one request. `num_nearby` sequences of it go with a call; 0 keeps nothing."""

    def __init__(self, num_nearby: int) -> None:
        self._num_nearby = num_nearby
        self._left: deque[Left] = deque(maxlen=NUM_KEPT)

    def leave(self, place: int, steps: Iterable[Step]) -> None:
        """Keep `steps`, which followed one another from token `place` of the output on, as one sequence for each run of
        one vocabulary."""
        for vocabulary, run in groupby(steps, lambda step: step.vocabulary):
            token_ids = tuple(token for step in run for token in step.token_ids)
            if self._num_nearby:
                self._left.append(Left(place, token_ids, vocabulary))
            place += len(token_ids)

    def near(self, place: int, vocabulary: str) -> tuple[TokenIds, ...]:
        """Sequences of `vocabulary` that may help whoever writes from token `place` on, newest first."""
        found: list[TokenIds] = []
        room = MAX_TOKENS
        for left in reversed(self._left):
            if len(found) >= self._num_nearby or room <= 0:
                break
            if left.vocabulary != vocabulary or not left.is_near(place):
                continue
            token_ids = left.from_place(place)[:room]
            if token_ids and token_ids not in found:
                found.append(token_ids)
                room -= len(token_ids)
        return tuple(found)
