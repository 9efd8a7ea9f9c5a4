"""What is committed, for ever: the path behind the window and the text on its way to the client. Pure.

Promises: every piece leaves exactly once and in order, as `Commit` commands whose token counts add up to `num_tokens`;
a part of a step that was sent before the step was decided is not sent again with the step; each `Committed` has a seam,
so that a transcript made of the `Standing` behind it goes on with the very next character.
"""

from __future__ import annotations

from dataclasses import replace

from actors.messages import Ending, Piece, Prefix
from deployments.coordinator.events import Commit, Finish
from deployments.coordinator.output import OutputText
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.tally import Tally
from deployments.coordinator.window import EMPTY_PATH
from deployments.generation import Channel, Committed, Finished, Origin, Seam, SpeculationSummary


class Transcript:
    """The output of one request so far, from its beginning or from where another coordinator's broke off."""

    def __init__(self, settings: SessionSettings, tally: Tally) -> None:
        behind = settings.resume
        self._num_prompt_tokens = len(settings.target_prompt)
        self._max_tokens = settings.max_tokens
        self._begins_reasoning = settings.marks.is_open_at_start
        self._tally = tally
        self._told: int | None = None
        """Up to which version of the tally the counts were told."""
        self._nothing = Piece("", (), settings.vocabulary)
        self._output = OutputText(settings.marks, settings.stop, behind.output if behind is not None else None)
        self._due = behind.due if behind is not None else ()
        self.path = Prefix((), behind.pieces) if behind is not None else EMPTY_PATH
        self.num_tokens = behind.num_tokens if behind is not None else 0
        self.is_in_step = behind is not None and behind.is_in_step
        """Whether the last step goes on, as far as it is known here."""
        self.is_closed = behind is not None and behind.is_closed
        """Whether the reasoning is closed."""
        self.finish_reason = behind.finish_reason if behind is not None else None
        """Why nothing follows what is committed; None: something does."""
        if self.finish_reason is None and self.num_tokens >= self._max_tokens:
            self.finish_reason = "length"

    @property
    def is_reasoning(self) -> bool:
        """Whether the reasoning is open where the path ends."""
        return self._begins_reasoning and not self.is_closed

    @property
    def stopped(self) -> str | None:
        """The stop string that was met, if one was: nothing more is sent."""
        return self._output.stopped

    def start(self) -> list[Commit]:
        """What was due when the other coordinator broke off."""
        due, self._due = self._due, ()
        return self._commits(due, Origin.TARGET, 0, max(self._tally.num_steps - 1, 0), self._seam(self._nothing))

    def commit(self, piece: Piece, sent: Piece, origin: Origin, step: int, ending: Ending | None) -> list[Commit]:
        """Make `piece`, of step number `step`, part of the path for ever, and send what was not `sent` of it. `ending`
        is that of the step, if it ends with the piece.

        In another vocabulary than `sent` a piece may have fewer tokens than were counted: then no more are, nor beyond
        the request's limit, which the tokens of the path itself keep.
        """
        if not piece.text.startswith(sent.text):
            raise AssertionError("what was sent of a step is not what it begins with")
        self.path = self.path.extended(piece)
        self.is_in_step = ending is None
        self.is_closed |= ending is Ending.CLOSE
        whole = piece if sent.token_ids and sent.vocabulary != piece.vocabulary else None
        return self._send(piece.without(sent), origin, step, ending, is_part=False, whole=whole)

    def send(self, piece: Piece, origin: Origin, step: int) -> list[Commit]:
        """Send `piece`, a part of step number `step` that is certain."""
        self.is_in_step = True
        return self._send(piece, origin, step, None, is_part=True, whole=None)

    def finish(self, reason: str, summary: SpeculationSummary) -> list[Commit | Finish]:
        """The text that was held back, and the last word."""
        self.finish_reason = reason
        step = max(summary.num_steps - 1, 0)
        fragments = tuple((fragment.channel, fragment.text) for fragment in self._output.close())
        commits = self._commits(fragments, Origin.TARGET, 0, step, self._seam(self._nothing))
        finished = Finished(
            finish_reason=reason,
            num_prompt_tokens=self._num_prompt_tokens,
            num_output_tokens=self.num_tokens,
            num_reasoning_tokens=self._output.num_reasoning_tokens,
            summary=summary,
            stop_reason=self._output.stopped,
        )
        return [*commits, Finish(finished)]

    def _send(
        self, piece: Piece, origin: Origin, step: int, ending: Ending | None, *, is_part: bool, whole: Piece | None
    ) -> list[Commit]:
        num_tokens = min(len(piece.token_ids), max(0, self._max_tokens - self.num_tokens))
        self.num_tokens += num_tokens
        fragments = tuple((fragment.channel, fragment.text) for fragment in self._output.add(piece))
        if self.stopped is not None or ending is Ending.END:
            self.finish_reason = "stop"
        elif not is_part and self.num_tokens >= self._max_tokens:
            self.finish_reason = "length"
        seam = self._seam(whole or piece, is_part=is_part, restates=whole is not None)
        return self._commits(fragments or ((self._output.channel, ""),), origin, num_tokens, step, seam)

    def _seam(self, piece: Piece, *, is_part: bool = False, restates: bool = False) -> Seam:
        news = self._tally.summary(0) if self._tally.version != self._told else None
        self._told = self._tally.version
        return Seam(
            piece,
            self._output.state,
            is_part=is_part,
            restates=restates,
            is_in_step=self.is_in_step,
            is_closed=self.is_closed,
            finish_reason=self.finish_reason,
            counts=news,
        )

    def _commits(
        self, fragments: tuple[tuple[Channel, str], ...], origin: Origin, num_tokens: int, step: int, seam: Seam
    ) -> list[Commit]:
        """One answer a fragment; the first brings the piece and its tokens, the others were due with it."""
        commits: list[Commit] = []
        for number, (channel, text) in enumerate(fragments, 1):
            due = fragments[number:]
            at = replace(seam, due=due) if due else seam
            commits.append(Commit(Committed(text, channel, origin, num_tokens, step, at)))
            num_tokens = 0
            if due:
                seam = replace(seam, piece=self._nothing, restates=False, counts=None)
        return commits
