"""Which tokens to propose for a sequence: what follows in a hint, or what followed the same words before.

Promises: pure and deterministic; knows token ids only, no engine; a proposal is a guess that somebody else verifies, so
nothing here can change a text. Cost: the tokens that are new since the last call for each hint, and one comparison over
the context where no hint fits.

Rules, in order. A hint is followed while the sequence goes along it. After a divergence it is taken up again where its
tokens are the sequence's last 4, 3 or 2, at the place nearest to where it would stand by now. One that was written near
the place where the sequence begins, but not from there on, counts as diverged from the start. So does one that comes
when the sequence is longer than it: it begins with words that were the last ones then, so where it first fits is its
place. A hint that agreed all along wins, else the one with the longest agreement, as far as it could be realigned by;
of equals the newest one. The more a hint has agreed since its divergence, the more of it is proposed: tokens that are
refused cost time. Where none fits, the latest occurrence of the sequence's last tokens in its own context is continued
(n-gram look-up, as vLLM's). Where there is none either, nothing is proposed. Where a draft model stands behind, it is
asked instead of the look-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]

MAX_HINTS = 16
"""A sequence keeps so many hints, the newest; a request that is rejected again and again does not collect more."""


class Source(StrEnum):
    """Where a proposal comes from."""

    HINT = "hint"
    NGRAM = "ngram"
    MODEL = "model"
    """A draft model has to be asked."""
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class MatchRules:
    """How much is proposed, and on how much agreement; all in tokens."""

    num_hint_tokens: int = 16
    num_ngram_tokens: int = 4
    realign_min: int = 2
    realign_max: int = 4
    ngram_min: int = 2
    ngram_max: int = 4
    num_draft_tokens: int = 0
    """Where no hint fits, a draft model writes so many; 0: there is none, and n-grams are looked up."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """`tokens` may be the next ones of the sequence."""

    tokens: list[int]
    source: Source


NO_PROPOSAL = Proposal([], Source.NOTHING)


class HintTrack:
    """One hint and the place in it where the sequence stands."""

    def __init__(self, hint: Sequence[int], num_before: int = 0) -> None:
        """`num_before`: as in `actors.messages.Nearby`; 0: the hint begins where the sequence's own writing begins."""
        self.hint = list(hint)
        self.num_before = num_before
        self.offset = max(num_before, 0)
        """Where in the hint the sequence's next token is expected; may lie behind its end."""
        self.agreement = 0
        """The last so many tokens of the sequence are those before `offset`."""
        self.diverged = num_before != 0
        self._num_seen = 0
        self._ends: dict[int, list[int]] = {}
        for at, token in enumerate(self.hint):
            self._ends.setdefault(token, []).append(at + 1)

    def follow(self, written: Sequence[int] | Tokens, tail: Sequence[int], rules: MatchRules) -> None:
        """`written` is all that the sequence has written since the hint's beginning; `tail` its last tokens, at least
        `realign_max` where there are as many, of which the prompt may have been a part."""
        if not self._num_seen and not self.diverged and len(written) > len(self.hint):
            self.diverged, self._num_seen = True, len(written)  # it came late, for a place further on
        room = max(len(self.hint) - self.offset, 0)
        for token in written[self._num_seen : self._num_seen + room]:
            fits = self.hint[self.offset] == token
            self.agreement = self.agreement + 1 if fits else 0
            self.diverged = self.diverged or not fits
            self.offset += 1  # after a divergence one token is taken to stand for one
        num_behind = len(written) - self._num_seen - room
        if num_behind > 0:  # no token fits there, and a long text is not read again for each new hint
            self.agreement, self.diverged = 0, True
            self.offset += num_behind
        self._num_seen = len(written)
        if self.diverged and self.agreement < rules.realign_min:
            self._realign(tail, rules)

    def begins(self, num_before: int, hint: list[int]) -> bool:
        """Whether `hint` begins with this one, at the same place, and goes on."""
        size = len(self.hint)
        return num_before == self.num_before and len(hint) > size and hint[:size] == self.hint

    def fits(self, rules: MatchRules) -> bool:
        """Whether the hint has something to say here."""
        return self.offset < len(self.hint) and (not self.diverged or self.agreement >= rules.realign_min)

    def size(self, rules: MatchRules) -> int:
        """How many tokens of it are worth proposing: twice as many as have agreed, once it has been wrong."""
        return min(rules.num_hint_tokens, 2 * self.agreement) if self.diverged else rules.num_hint_tokens

    def _realign(self, tail: Sequence[int], rules: MatchRules) -> None:
        best = (0, 0, self.offset)
        for end in self._ends.get(tail[-1], ()) if tail else ():
            longest = min(rules.realign_max, end, len(tail))
            length = 1
            while length < longest and self.hint[end - length - 1] == tail[-length - 1]:
                length += 1
            if end < len(self.hint):
                best = max(best, (length, -abs(end - self.offset), end))
        if best[0] >= rules.realign_min:
            self.agreement, _, self.offset = best


class HintedSequence:
    """What is known of one running sequence: its hints, the likeliest first."""

    def __init__(self, rules: MatchRules, *, uses_hints: bool = True, uses_ngrams: bool = True) -> None:
        self._rules = rules
        self._uses_hints = uses_hints
        self._uses_ngrams = uses_ngrams
        self._tracks: list[HintTrack] = []

    def add(self, hints: Iterable[Sequence[int]], nearby: Iterable[tuple[int, Sequence[int]]] = ()) -> None:
        """Put `hints`, then those `nearby`, before those that are there. A hint begins where the sequence's own writing
        begins; with one that is nearby comes the number of its tokens that stand before that. One that goes on where
        another ends takes its place, in whichever order they come."""
        if not self._uses_hints:
            return
        known = [(track.num_before, track.hint) for track in self._tracks]
        new = [(before, list(hint)) for before, hint in (*((0, hint) for hint in hints), *nearby) if hint]
        said = [*known, *new]
        unsaid = [one for at, one in enumerate(new, len(known)) if one not in said[:at]]
        fresh = [HintTrack(hint, before) for before, hint in unsaid]
        fresh = [track for track in fresh if not any(track.begins(*other) for other in said)]
        kept = [track for track in self._tracks if not any(track.begins(*other) for other in new)]
        self._tracks = [*fresh, *kept][:MAX_HINTS]

    def forget(self) -> None:
        """Hints that were added count no more."""
        self._tracks = []

    def propose(self, context: Tokens, num_written: int, room: int) -> Proposal:
        """At most `room` tokens after `context` (shape ``(num_tokens,)``), the last `num_written` of which the sequence
        wrote itself since its hints' beginning."""
        if self._tracks:
            written = context[len(context) - num_written :]
            tail = context[-self._rules.realign_max :].tolist()
            for track in self._tracks:
                track.follow(written, tail, self._rules)
            fitting = [track for track in self._tracks if track.fits(self._rules)]
            if fitting:
                most = self._rules.realign_max
                best = max(fitting, key=lambda track: (not track.diverged, min(track.agreement, most)))
                size = min(best.size(self._rules), room)
                return Proposal(best.hint[best.offset : best.offset + size], Source.HINT)
        if self._uses_hints and self._rules.num_draft_tokens and room > 0:
            return Proposal([], Source.MODEL)
        if self._uses_ngrams:
            found = look_up(context, self._rules, min(self._rules.num_ngram_tokens, room))
            if found:
                return Proposal(found, Source.NGRAM)
        return NO_PROPOSAL


def look_up(context: Tokens, rules: MatchRules, num_tokens: int) -> list[int]:
    """The tokens that followed the latest occurrence of the longest ending of `context` that occurs in it before."""
    if len(context) < 2 or num_tokens < 1:
        return []
    ends = np.flatnonzero(context[:-1] == context[-1])
    length = 1
    while length < rules.ngram_max and ends.size:
        longer = ends[ends >= length]
        longer = longer[context[longer - length] == context[-1 - length]]
        if not longer.size:
            break
        ends, length = longer, length + 1
    if length < rules.ngram_min or not ends.size:
        return []
    start = int(ends[-1]) + 1
    return context[start : start + num_tokens].tolist()  # type: ignore[no-any-return]  # numpy says Any


def cut_after(tokens: list[int], stops: frozenset[int]) -> list[int]:
    """`tokens` up to and with the first that ends the sequence: what follows it would be verified for nothing."""
    for at, token in enumerate(tokens):
        if token in stops:
            return tokens[: at + 1]
    return tokens
