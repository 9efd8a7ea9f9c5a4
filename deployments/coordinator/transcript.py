"""What is committed, for ever: the path behind the window and the text on its way to the client. Pure.

Promises: every piece leaves exactly once and in order, as `Commit` commands whose token counts add up to `num_tokens`;
a part of a step that was sent before the step was decided is not sent again with the step.
"""

from __future__ import annotations

from actors.messages import Committed, Finished, Origin, Piece, SpeculationSummary
from deployments.coordinator.events import Commit, Finish
from deployments.coordinator.output import OutputText
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.window import EMPTY_PATH


class Transcript:
    """The output of one request so far."""

    def __init__(self, settings: SessionSettings) -> None:
        self._num_prompt_tokens = len(settings.target_prompt)
        self._max_tokens = settings.max_tokens
        self._output = OutputText(settings.marks, settings.stop)
        self.path = EMPTY_PATH
        self.num_tokens = 0

    @property
    def stopped(self) -> str | None:
        """The stop string that was met, if one was: nothing more is sent."""
        return self._output.stopped

    def commit(self, piece: Piece, sent: Piece, origin: Origin, step: int) -> list[Commit]:
        """Make `piece`, of step number `step`, part of the path for ever, and send what was not `sent` of it.

        In another vocabulary than `sent` a piece may have fewer tokens than were counted: then no more are, nor beyond
        the request's limit, which the tokens of the path itself keep.
        """
        if not piece.text.startswith(sent.text):
            raise AssertionError("what was sent of a step is not what it begins with")
        self.path = self.path.extended(piece)
        return self.send(piece.without(sent), origin, step)

    def send(self, piece: Piece, origin: Origin, step: int) -> list[Commit]:
        """Send `piece`, a part of step number `step` that is certain."""
        num_tokens = min(len(piece.token_ids), max(0, self._max_tokens - self.num_tokens))
        self.num_tokens += num_tokens
        commits: list[Commit] = []
        for fragment in self._output.add(piece):
            commits.append(Commit(Committed(fragment.text, fragment.channel, origin, num_tokens, step)))
            num_tokens = 0
        return commits or [Commit(Committed("", self._output.channel, origin, num_tokens, step))]

    def finish(self, reason: str, summary: SpeculationSummary) -> list[Commit | Finish]:
        """The text that was held back, and the last word."""
        step = max(summary.num_steps - 1, 0)
        commits = [
            Commit(Committed(fragment.text, fragment.channel, Origin.TARGET, 0, step))
            for fragment in self._output.close()
        ]
        finished = Finished(
            finish_reason=reason,
            num_prompt_tokens=self._num_prompt_tokens,
            num_output_tokens=self.num_tokens,
            num_reasoning_tokens=self._output.num_reasoning_tokens,
            summary=summary,
            stop_reason=self._output.stopped,
        )
        return [*commits, Finish(finished)]
