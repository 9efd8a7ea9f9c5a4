"""From committed pieces to the text a client gets: channels, stop strings, counts.

Promises: pure; every character of committed text leaves exactly once, in order, unless a stop string cuts it off;
text that may be the beginning of a stop string or of a mark is held back until it is certain.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.messages import Piece
from deployments.generation import Channel, OutputState


@dataclass(frozen=True, slots=True)
class Marks:
    """The texts around the reasoning. Without `close` everything is content."""

    open: str | None = None
    close: str | None = None
    starts_open: bool = True
    """Whether the text begins inside the reasoning, where there are marks."""

    @property
    def is_open_at_start(self) -> bool:
        """Whether there is reasoning, and the text begins inside it."""
        return self.close is not None and self.starts_open


@dataclass(frozen=True, slots=True)
class Fragment:
    """Text that may be sent now."""

    text: str
    channel: Channel


class OutputText:
    """Takes pieces as they are committed, gives fragments to send; `stopped` names the stop string once one was met."""

    def __init__(self, marks: Marks = Marks(), stop: tuple[str, ...] = (), behind: OutputState | None = None) -> None:
        """`behind`: go on where another one stood."""
        channel = Channel.REASONING if marks.is_open_at_start else Channel.CONTENT
        at = behind or OutputState(channel, awaits_open=marks.open is not None)
        self._marks = marks
        self._stop = stop
        self._held = at.held
        self.channel = at.channel
        self._at_start = at.at_start
        self._open = marks.open if at.awaits_open else None
        self.stopped = at.stopped
        self.num_tokens = at.num_tokens
        self.num_reasoning_tokens = at.num_reasoning_tokens

    @property
    def state(self) -> OutputState:
        """Where the text stands."""
        awaits_open = self._open is not None
        counts = self.num_tokens, self.num_reasoning_tokens
        return OutputState(self.channel, self._held, self._at_start, awaits_open, self.stopped, *counts)

    def add(self, piece: Piece) -> list[Fragment]:
        """Commit `piece`; what may be sent now. Nothing is added after a stop string was met."""
        if self.stopped is not None:
            return []
        self.num_tokens += len(piece.token_ids)
        if self.channel is Channel.REASONING:
            self.num_reasoning_tokens += len(piece.token_ids)
        text = self._held + piece.text
        cut = first_stop(text, self._stop)
        if cut is not None:
            text, self.stopped = text[: cut[0]], cut[1]
        keep = 0 if cut is not None else self._possible_beginning(text)
        self._held = text[len(text) - keep :]
        return self._split(text[: len(text) - keep])

    def close(self) -> list[Fragment]:
        """The text has ended: what was held back."""
        text, self._held = self._held, ""
        return self._split(text)

    def _watched(self) -> tuple[str, ...]:
        marks = [m for m in (self._open if self._at_start else None, self._marks.close) if m]
        return (*self._stop, *(marks if self.channel is Channel.REASONING else ()))

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that may be the beginning of something watched for."""
        longest = 0
        for watched in self._watched():
            for size in range(min(len(watched) - 1, len(text)), longest, -1):
                if text.endswith(watched[:size]):
                    longest = size
                    break
        return longest

    def _split(self, text: str) -> list[Fragment]:
        """`text` by channel, the marks taken out, with the blank space around them."""
        close = self._marks.close
        if close is None:
            return _fragments(text, Channel.CONTENT)
        if self.channel is Channel.CONTENT:
            if self._at_start:
                text = text.lstrip("\n")
                self._at_start = not text
            return _fragments(text, Channel.CONTENT)
        if self._at_start:
            text = self._without_open(text)
        reasoning, mark, content = text.partition(close)
        if not mark:
            return _fragments(reasoning, Channel.REASONING)
        self.channel, self._at_start = Channel.CONTENT, True
        return [*_fragments(reasoning, Channel.REASONING), *self._split(content)]

    def _without_open(self, text: str) -> str:
        text = text.lstrip("\n")
        if self._open is not None and text.startswith(self._open):
            text, self._open = text[len(self._open) :].lstrip("\n"), None
        self._at_start = not text
        return text


def first_stop(text: str, stop: tuple[str, ...]) -> tuple[int, str] | None:
    """Where in `text` the first of the strings `stop` begins, and which one it is; None if there is none."""
    found = [(text.find(one), one) for one in stop if one in text]
    return min(found) if found else None


def _fragments(text: str, channel: Channel) -> list[Fragment]:
    return [Fragment(text, channel)] if text else []
