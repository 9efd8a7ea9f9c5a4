"""What guided requests write, token by token: the target's text, and where the draft would say the same. Pure.

Promises: the same seed gives the same text on every machine; behind the target's own words the draft writes the same
token or it does not, always the same way; where it strays, what follows is of no use to the target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from actors.errors import RequestError
from actors.messages import TokenIds
from deployments.simulation.hinted_writing import END
from deployments.simulation.recorded import RecordedScript, read_traces
from deployments.simulation.replay_text import ReplayText, Vocabulary, replay_text
from deployments.simulation.scripts import Agreement, Script, StepPair, uniform

FIRST_STRAY = 10**7
NUM_STRAYED = 64
"""The draft writes on for so long, if nobody stops it: longer than it may be ahead."""


class GuidedText(Protocol):
    """One request's words. A text ends with `END`."""

    @property
    def repeats(self) -> bool:
        """Whether words come again, so that looking them up in the text is worth something."""
        ...

    @property
    def num_tokens(self) -> int:
        """Of the target's text, without its end."""
        ...

    def target_after(self, written: TokenIds) -> TokenIds:
        """What the target writes behind `written`, which it wrote itself."""
        ...

    def draft_after(self, written: TokenIds) -> TokenIds:
        """What the draft writes behind `written`, for as long as it may be ahead at least."""
        ...

    def text(self, token: int) -> str:
        """The characters of a token; a line ends where a step does."""
        ...


class RandomText:
    """Tokens that never come again, token number i being i + 1. The draft says the same as the target at a share
    `alpha` of places, drawn one by one."""

    repeats = False

    def __init__(self, script: Script, seed: int, alpha: float) -> None:
        lengths = [script.pair(index, 0).num_target_tokens for index in range(script.num_steps)]
        self.num_tokens = sum(lengths)
        self._truth = (*range(1, self.num_tokens + 1), END)
        self._ends: set[int] = set()
        at = 0
        for length in lengths:
            at += length
            self._ends.add(at)
        self._strays = [at for at in range(self.num_tokens + 1) if uniform(seed, at, 5) >= alpha]
        self._next_stray = self._ahead()

    def target_after(self, written: TokenIds) -> TokenIds:
        """As `GuidedText.target_after`."""
        return self._truth[len(written) :]

    def draft_after(self, written: TokenIds) -> TokenIds:
        """As `GuidedText.draft_after`."""
        at = len(written)
        if written and written[-1] >= FIRST_STRAY:
            return tuple(written[-1] + i for i in range(1, NUM_STRAYED))
        stray = self._next_stray[at]
        first = FIRST_STRAY + NUM_STRAYED * (stray + 1)
        return (*self._truth[at:stray], *range(first, first + NUM_STRAYED - 1))

    def text(self, token: int) -> str:
        """As `GuidedText.text`."""
        return ".\n" if token in self._ends else "."

    def _ahead(self) -> list[int]:
        """For each place the first one from there on at which the draft strays; behind the text: its end."""
        places = [self.num_tokens + 1] * (self.num_tokens + 2)
        for at in self._strays:
            places[at] = at
        for at in range(self.num_tokens, -1, -1):
            places[at] = min(places[at], places[at + 1])
        return places


class RecordedText:
    """A guided request of a benchmark."""

    repeats = True

    def __init__(self, words: ReplayText) -> None:
        self._words = words
        self.num_tokens = len(words.truth)

    def target_after(self, written: TokenIds) -> TokenIds:
        """As `GuidedText.target_after`."""
        return self._words.target_after(written)

    def draft_after(self, written: TokenIds) -> TokenIds:
        """As `GuidedText.draft_after`."""
        return self._words.draft_after(written)

    def text(self, token: int) -> str:
        """As `GuidedText.text`."""
        return self._words.vocabulary.text(token)

    def script(self) -> RecordedScript:
        """The target's text, line by line, for those who write it alone."""
        lengths, length = list[int](), 0
        for token in self._words.truth:
            length += 1
            if "\n" in self.text(token):
                lengths.append(length)
                length = 0
        lengths += [length] if length else []
        return RecordedScript(tuple(StepPair(size, size, Agreement.DIFFERENT) for size in lengths))


def recorded_texts(path: Path) -> list[RecordedText]:
    """All guided requests of a run of `lookahead bench --traces`; RequestError if there are none."""
    words = [replay_text(trace, Vocabulary()) for trace in read_traces(path)]
    found = [RecordedText(one) for one in words if one.agrees]
    if not found:
        raise RequestError(
            f"{path} holds no guided request: make it with lookahead bench --traces --modes lookahead:exact.",
            "recorded",
        )
    return found
