"""One generation over known words, pass by pass: what is guessed for the next pass, and what the pass gives. Pure.

Promises: guesses are those of the code that proposes in the real engine (`actors.engines.hint_matching`); a pass gives
the guesses that are right and one token of its own. As in that engine, hints that come during a pass are in the next
one's guesses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from actors.engines.hint_matching import HintedSequence, MatchRules, cut_after
from actors.messages import Ending, Nearby, TokenIds

END = 0
"""The token that ends a text."""


class HintedWriting:
    """A generation that writes `coming`, behind `before`, `max_tokens` at most."""

    def __init__(
        self,
        before: TokenIds,
        coming: TokenIds,
        max_tokens: int,
        rules: MatchRules | None,
        *,
        speculation: str = "hints",
        stops: frozenset[int] = frozenset(),
    ) -> None:
        """`rules` None: the engine has no proposer of ours. `speculation` is a request's own wish: ``hints`` (and
        look-up where none fits), ``ngram``, ``hints_only`` (no look-up: words that never repeat) or ``none``. Behind
        one of `stops` the engine ends by itself, so nothing is guessed."""
        self.coming = coming
        self.num_to_read = 0
        """Tokens of the prompt that the next pass reads."""
        self.num_written = self.num_proposed = self.num_accepted = 0
        self._num_before = len(before)
        self._max_tokens = max_tokens
        self._stops = stops
        self._tokens = np.array((*before, *coming), dtype=np.int64)
        self._guess: list[int] | None = None
        """For the pass that comes next, or runs; None before the first one."""
        self._arrived: list[Sequence[int]] = []
        """Hints that came during the pass that runs, the newest first."""
        self.was_told = False
        """Whether hints came during the last pass that is over."""
        self._hinted = HintedSequence(
            rules or MatchRules(),
            uses_hints=rules is not None and speculation in ("hints", "hints_only"),
            uses_ngrams=rules is not None and speculation in ("hints", "ngram"),
        )

    @property
    def is_over(self) -> bool:
        """Whether all is written."""
        return self.num_written >= min(len(self.coming), self._max_tokens)

    @property
    def num_context(self) -> int:
        """Tokens that stand before the next one."""
        return self._num_before + self.num_written

    @property
    def read(self) -> TokenIds:
        """What has been read once a pass is over: all that stands there but the last token that was written."""
        return tuple(self._tokens[: self._num_before + max(self.num_written - 1, 0)].tolist())

    def add_hints(self, hints: Collection[Sequence[int]], nearby: Collection[Nearby] = ()) -> None:
        """As `HintedSequence.add`: those of the call itself before its first pass, others while a pass runs. No
        hints: those before count no more."""
        if not hints and not nearby:
            self._hinted.forget()
            self._arrived = []
        elif self._guess is None:
            self._hinted.add(hints, [(near.num_before, near.token_ids) for near in nearby])
        else:
            self._arrived = [*hints, *self._arrived]

    def begin_pass(self) -> int:
        """A pass begins; how many guessed tokens it checks."""
        if self._guess is None:
            self._guess = self._propose()
        self.num_proposed += len(self._guess)
        return len(self._guess)

    def advance(self) -> tuple[TokenIds, Ending | None]:
        """The pass is over: what it gave, and whether the text or the room for it ended."""
        self.was_told = bool(self._arrived)
        at, num, guess = self.num_written, 1, self._guess or []
        left = min(len(self.coming), self._max_tokens) - at
        while num <= len(guess) and num < left and guess[num - 1] == self.coming[at + num - 1]:
            num += 1
        ids = self.coming[at : at + min(num, left)]
        self.num_accepted += len(ids) - 1
        self.num_written += len(ids)
        self.num_to_read = 0
        if END in ids:
            return tuple(token for token in ids if token != END), Ending.END
        if self.num_written >= self._max_tokens:
            return ids, Ending.CAP
        self._hinted.add(self._arrived)
        self._arrived = []
        self._guess = self._propose()
        return ids, None

    def _propose(self) -> list[int]:
        room = max(self._max_tokens - self.num_written - 1, 0)
        found = self._hinted.propose(self._tokens[: self.num_context], self.num_written, room)
        return cut_after(found.tokens, self._stops)
