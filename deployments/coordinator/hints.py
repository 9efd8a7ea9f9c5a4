"""Which token sequences an engine may try as drafts of its own tokens: a pure policy.

Promises: a hint is only a guess, so nothing here changes what is written; sequences go only to the vocabulary they
were written in; what is kept and what is sent is bounded in sequences and in tokens.

What a call gets: the draft's step for its own position first, then what was written near its place on paths that were
left, newest first, with the number of its tokens that stood before that place. A path that was left is one sequence
from the rejected step on (in a guided request from behind the token that the target wrote otherwise), since what
follows a rejection often says much the same as before, some tokens earlier or later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from actors.messages import Nearby, Step, TokenIds

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

    def seen_from(self, place: int, num_tokens: int) -> Nearby:
        """At most `num_tokens` of it, from a margin before `place` on."""
        num_before = place - self.place
        cut = max(0, num_before - MARGIN)
        return Nearby(self.token_ids[cut : cut + num_tokens], num_before - cut)


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
            if self._num_nearby and token_ids:
                self._left.append(Left(place, token_ids, vocabulary))
            place += len(token_ids)

    def near(self, place: int, vocabulary: str) -> tuple[Nearby, ...]:
        """Sequences of `vocabulary` that may help whoever writes from token `place` on, newest first."""
        found: list[Nearby] = []
        room = MAX_TOKENS
        for left in reversed(self._left):
            if len(found) >= self._num_nearby or room <= 0:
                break
            if left.vocabulary != vocabulary or not left.is_near(place):
                continue
            near = left.seen_from(place, room)
            if near.token_ids and all(near.token_ids != other.token_ids for other in found):
                found.append(near)
                room -= len(near.token_ids)
        return tuple(found)
