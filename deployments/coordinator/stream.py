"""The target's text, streamed: the answer phase, and wherever nothing is speculated. One call at a time. Pure.

Promises: every delta is committed as it comes; steps are counted, never cut; a call that breaks off is followed by one
that goes on behind what was committed.
"""

from __future__ import annotations

from actors.messages import Ending, Piece
from deployments.coordinator.calls import Calls
from deployments.coordinator.events import Commit, Outcome, StartStream, Streamed
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.tally import Tally
from deployments.coordinator.transcript import Transcript
from deployments.generation import Origin


class Stream:
    """The target alone, from the end of the transcript on."""

    def __init__(self, settings: SessionSettings, calls: Calls, transcript: Transcript, tally: Tally) -> None:
        self._settings = settings
        self._calls = calls
        self._transcript = transcript
        self._tally = tally
        self._in_step = transcript.is_in_step
        self._is_running = False
        self.num_failures = 0
        """Calls that broke off since the last delta."""

    @property
    def is_running(self) -> bool:
        """Whether a call streams."""
        return self._is_running

    def start(self) -> StartStream:
        """The next call."""
        self._is_running = True
        return self._calls.stream(self._transcript.path, self._transcript.num_tokens, self.num_failures)

    def end(self) -> None:
        """The call was cancelled, between two steps."""
        self._is_running = False

    def fail(self) -> None:
        """The call has broken off."""
        self._is_running = False
        self.num_failures += 1

    def take(self, event: Streamed) -> tuple[list[Commit], str | None]:
        """What to send of a delta, and the finish reason if nothing follows it."""
        delta, transcript = event.delta, self._transcript
        self.num_failures = 0
        ended = delta.ending is Ending.END
        over = delta.ends_stream or transcript.num_tokens + len(delta.token_ids) >= self._settings.max_tokens
        if over:
            self._calls.end(event.call)
            self._is_running = False
        commits: list[Commit] = []
        if delta.token_ids or delta.text:
            piece = Piece(delta.text, delta.token_ids, self._settings.vocabulary)
            step, self._in_step = self._tally.num_steps, True
            if over or delta.ending is not None:
                self._count_step()  # first, so that the counts that go with the piece are right
            commits = transcript.commit(piece, piece.without(piece), Origin.TARGET, step, delta.ending)
        stopped = transcript.stopped is not None
        if over or stopped or delta.ending is not None:
            self._count_step()
        reason = "stop" if stopped or ended else "length" if over else None
        return commits, reason

    def _count_step(self) -> None:
        if self._in_step:
            self._tally.committed(Outcome.TARGET)
        self._in_step = False
