"""What was received of one generation, kept so that it can go on elsewhere. Pure; standard library and messages only.

Promises: takes outputs in order, refuses nothing, and gives the `Standing` behind the last of them; holds each text
and each token once, in a few growing lists, so that an hour's answer costs kilobytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.messages import Piece
from deployments.generation import Channel, Committed, Finished, Opened, Output, Seam, SpeculationSummary, Standing

BYTES_A_TOKEN = 100
"""A token id in a list, its number, and the string in which its text came; measured."""
BYTES_A_CHAR = 3
"""A character of that text."""


@dataclass(slots=True)
class _Run:
    """Neighbouring pieces of one vocabulary."""

    vocabulary: str
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def piece(self) -> Piece:
        return Piece("".join(self.texts), tuple(self.token_ids), self.vocabulary)


class Ledger:
    """The outputs of one generation so far; `behind` is what others had received before."""

    def __init__(self, behind: Standing | None = None) -> None:
        self._opened = behind is not None
        self._num_prompt_tokens = behind.num_prompt_tokens if behind is not None else 0
        self._texts: list[tuple[Channel, list[str]]] = []
        self._runs: list[_Run] = []
        self._parts: list[Piece] = []
        """Of a step that is not decided: these are replaced where the step is told in another vocabulary."""
        self._num_tokens = behind.num_tokens if behind is not None else 0
        self._num_chars = 0
        self._seam: Seam | None = None
        self._behind = behind
        self._counts: SpeculationSummary | None = behind.counts if behind is not None else None
        self._finished = behind.finished if behind is not None else None
        self._is_whole = True
        self.num_takeovers = 0
        """Of the last output's coordinator, as far as it was told."""
        if behind is not None:
            for channel, text in behind.texts:
                self._add_text(channel, text)
            for piece in behind.pieces:
                self._add_piece(piece)

    @property
    def is_open(self) -> bool:
        """Whether `Opened` was received."""
        return self._opened

    @property
    def is_finished(self) -> bool:
        """Whether `Finished` was received."""
        return self._finished is not None

    @property
    def can_go_on(self) -> bool:
        """Whether all that was received says how to go on behind it."""
        return self._is_whole

    @property
    def num_bytes(self) -> int:
        """About so much memory is held."""
        return self._num_tokens * BYTES_A_TOKEN + self._num_chars * BYTES_A_CHAR

    def take(self, output: Output) -> None:
        """Receive `output`."""
        if isinstance(output, Opened):
            self._opened = True
            self._num_prompt_tokens = output.num_prompt_tokens
        elif isinstance(output, Finished):
            self._finished = output
            self.num_takeovers = output.num_takeovers
        else:
            self._take_committed(output)

    def standing(self, elapsed_s: float = 0.0) -> Standing | None:
        """Where the generation stands, `elapsed_s` after this ledger was begun; None before it was opened."""
        if not self._opened:
            return None
        runs = [_Run(run.vocabulary, list(run.texts), list(run.token_ids)) for run in self._runs]
        for part in self._parts:
            _append(runs, part)
        at = self._seam or self._behind
        return Standing(
            num_prompt_tokens=self._num_prompt_tokens,
            texts=tuple((channel, "".join(texts)) for channel, texts in self._texts),
            pieces=tuple(run.piece() for run in runs),
            num_tokens=self._num_tokens,
            output=at.output if at is not None else None,
            due=at.due if at is not None else (),
            is_in_step=at is not None and at.is_in_step,
            is_closed=at is not None and at.is_closed,
            finish_reason=at.finish_reason if at is not None else None,
            counts=self._counts,
            finished=self._finished,
            elapsed_s=elapsed_s + (self._behind.elapsed_s if self._behind is not None else 0.0),
        )

    def _take_committed(self, output: Committed) -> None:
        self._add_text(output.channel, output.text)
        self._num_tokens += output.num_tokens
        self.num_takeovers = output.num_takeovers
        seam = output.seam
        if seam is None:
            self._is_whole = False
            return
        self._seam = seam
        self._counts = seam.counts or self._counts
        if seam.restates:
            self._parts.clear()
        if seam.is_part:
            self._parts.append(seam.piece)
            return
        for part in self._parts:
            self._add_piece(part)
        self._parts.clear()
        self._add_piece(seam.piece)

    def _add_text(self, channel: Channel, text: str) -> None:
        if not text:
            return
        self._num_chars += len(text)
        if not self._texts or self._texts[-1][0] is not channel:
            self._texts.append((channel, []))
        self._texts[-1][1].append(text)

    def _add_piece(self, piece: Piece) -> None:
        _append(self._runs, piece)


def _append(runs: list[_Run], piece: Piece) -> None:
    if not piece.token_ids and not piece.text:
        return
    if not runs or runs[-1].vocabulary != piece.vocabulary:
        runs.append(_Run(piece.vocabulary))
    if piece.text:
        runs[-1].texts.append(piece.text)
    runs[-1].token_ids += piece.token_ids
