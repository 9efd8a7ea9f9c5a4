"""The step trace of a request: when each draft step, target step and verdict ran, where, and what became of it.

Promises: an observer of a pipeline that never raises and never waits; times are seconds since the request began, by the
clock that is handed in; what is still running when a request ends is closed as cancelled, a stream only where its
answer is not whole, and one that gave way or met a stop string is the target's; without `texts` it holds no text, nor
words that may quote one: no reasons of verdicts, and of errors only the class; one that was cut or forgotten grows no
more. `as_dict` is what `/v1/traces/{id}` serves as JSON and what `lookahead trace` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from actors.messages import Delta, Piece, Step
from deployments.coordinator.events import (
    Cancel,
    Command,
    Commit,
    Continued,
    Decision,
    DraftEnded,
    DraftFailed,
    DraftStep,
    Event,
    Fail,
    Finish,
    Judge,
    Judged,
    Outcome,
    Placed,
    Promoted,
    Retired,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
    TargetStep,
)
from deployments.generation import SpeculationSummary


@dataclass(slots=True)
class Span:
    """One piece of work. `outcome` empty: still running, or not yet decided."""

    kind: str
    position: int
    start_s: float
    end_s: float | None = None
    step: int | None = None
    outcome: str = ""
    replica: str = ""
    num_tokens: int = 0
    num_cached_tokens: int = 0
    text: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def as_dict(self, now: float) -> dict[str, Any]:
        """The span as JSON values; one that still runs ends `now`. A trace has hundreds of thousands of them, for which
        `asdict` takes longer than a gateway waits."""
        told = {name: getattr(self, name) for name in SPAN_FIELDS}
        return told | {"end_s": now if self.end_s is None else self.end_s, "detail": dict(self.detail)}


SPAN_FIELDS = tuple(each.name for each in fields(Span))


class TraceRecorder:
    """Builds the trace of one request."""

    def __init__(self, request_id: str, mode: str, started_at: float, clock: Callable[[], float], texts: bool) -> None:
        self.request_id = request_id
        self._mode = mode
        self.started_at = started_at
        self._clock = clock
        self._zero = clock()
        self._texts = texts
        self._spans: list[Span] = []
        self._open: list[Span] = []
        """Those whose position has not come to its end, so that a long text's spans are not all looked at each time."""
        self._running: dict[int, Span] = {}
        self._ahead: dict[int, Piece] = {}
        self._drafted: dict[int, Span] = {}
        self._broken_off: Span | None = None
        """An answer that ended before its stream: what it has written stays if the request goes on or finishes."""
        self._commits: list[dict[str, Any]] = []
        self._decisions: list[dict[str, Any]] = []
        self._room: int | None = None
        """Tokens that may follow where the first call goes on: behind what other coordinators have sent."""
        self._num_sent = 0
        self._summary: SpeculationSummary | None = None
        self._duration_s: float | None = None
        self._error: str | None = None
        self._is_cut = False
        self.num_entries = 0
        """Spans, commits and decisions."""
        self.on_growth: Callable[[int], None] = lambda num_entries: None
        """Is told by how many they grew."""

    def on_command(self, command: Command) -> None:
        """As `Observer.on_command`."""
        now = self._now()
        if self._room is None and isinstance(command, StartDraft | StartTarget | StartStream):
            self._room = command.request.max_tokens
        if isinstance(command, StartDraft):
            self._look_ahead(command)
        elif isinstance(command, StartTarget):
            self._begin(command.call, Span("target", command.position, now))
        elif isinstance(command, StartStream):
            self._begin(command.call, Span("answer", -1, now))
        elif isinstance(command, Judge):
            self._begin(command.call, Span("verdict", command.position, now))
        elif isinstance(command, Cancel):
            self._cancel(command)
        elif isinstance(command, Decision):
            self._decide(command)
        elif isinstance(command, Continued):
            self._continue(command)
        elif isinstance(command, Placed):
            self._place(command)
        elif isinstance(command, Promoted):
            for span in self._open:
                if span.position == command.position and span.kind == "target":
                    span.position = command.by
        elif isinstance(command, Retired):
            self._retire(command)
        elif isinstance(command, Commit):
            self._commit(command)
        elif isinstance(command, Finish):
            self._summary = command.output.summary
            self.close()
        elif isinstance(command, Fail):
            self.close(command.error)

    def on_event(self, event: Event) -> None:
        """As `Observer.on_event`."""
        if isinstance(event, DraftStep):
            self._draft_step(event)
        elif isinstance(event, DraftEnded):
            self._drop(event.call)
        elif isinstance(event, DraftFailed):
            self._end(event.call, "failed", error=event.reason)
        elif isinstance(event, TargetFailed):
            self._end(event.call, "failed", error=self._words(event.error))
        elif isinstance(event, TargetStep):
            span = self._running.get(event.call)
            if span is not None:
                self._fill(span, event.step, self._ahead.pop(event.call, None))
                self._end(event.call, "")
        elif isinstance(event, Judged):
            verdict = event.verdict
            outcome = "failed" if event.degraded else "accepted" if verdict.accepted else "rejected"
            reason = {"reason": verdict.reason} if self._texts else {}  # it quotes what the two steps say
            self._end(
                event.call,
                outcome,
                accepted=verdict.accepted,
                verifier=verdict.verifier,
                score=verdict.score,
                probability=verdict.probability,
                is_cached=verdict.is_cached,
                **reason,
            )
        elif isinstance(event, Streamed):
            self._streamed(event)

    def close(self, error: Exception | None = None) -> None:
        """The request is over; what runs was cancelled. A second call changes nothing."""
        if self._duration_s is not None:
            return
        self._duration_s = self._now()
        self._error = None if error is None else self._words(error)
        if self._summary is not None:
            self._go_on()
        for call in list(self._running):
            is_whole = self._running[call].kind == "answer" and self._summary is not None
            self._end(call, "target" if is_whole else "cancelled")
        for span in self._spans:
            span.outcome = span.outcome or "cancelled"

    def cut(self) -> None:
        """Nothing new is recorded from now on; what is under way is followed to its end."""
        self._is_cut = True

    def forget(self) -> None:
        """Nobody will ask for it: nothing is held from now on."""
        self.cut()
        self.num_entries, self._broken_off = 0, None
        self._spans, self._open, self._commits, self._decisions = [], [], [], []
        self._running, self._ahead, self._drafted = {}, {}, {}

    @property
    def spans(self) -> list[Span]:
        """All spans so far, in order of their start."""
        return sorted(self._spans, key=lambda span: span.start_s)

    def as_dict(self) -> dict[str, Any]:
        """The trace as JSON values."""
        return {name: list(told) if isinstance(told, Iterator) else told for name, told in self.told().items()}

    def told(self) -> dict[str, Any]:
        """As `as_dict`, with iterators in the place of the long lists: over what there is now, made as they are read,
        since to make hundreds of thousands of entries takes a second."""
        now = self._duration_s if self._duration_s is not None else self._now()
        trace = {
            "request_id": self.request_id,
            "mode": self._mode,
            "started_at": self.started_at,
            "duration_s": now,
            "finished": self._duration_s is not None,
            "spans": (span.as_dict(now) for span in self.spans),
            "commits": iter(tuple(self._commits)),
            "decisions": iter(tuple(self._decisions)),
            "summary": summary_dict(self._summary) if self._summary is not None else None,
        }
        return trace | ({"error": self._error} if self._error else {}) | ({"cut": True} if self._is_cut else {})

    # --- building ----------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock() - self._zero

    def _words(self, error: Exception) -> str:
        """What went wrong. The message of a library, or of a chat template, may quote what it was given."""
        return str(error) if self._texts else type(error).__name__

    def _grow(self, num_entries: int) -> None:
        """The last thing that is done with an entry: it may be that all of them are forgotten because of it."""
        self.num_entries += num_entries
        self.on_growth(num_entries)

    def _begin(self, call: int, span: Span) -> None:
        self._go_on()
        if self._is_cut:
            return
        self._running[call] = span
        self._spans.append(span)
        self._open.append(span)
        self._grow(1)

    def _end(self, call: int, outcome: str, **detail: Any) -> None:
        span = self._running.pop(call, None)
        if span is not None:
            span.end_s, span.outcome = self._now(), outcome
            span.detail |= detail

    def _cancel(self, command: Cancel) -> None:
        span = self._running.get(command.call)
        if span is not None and span.kind == "answer" and span.num_tokens:
            self._broken_off = span
        self._end(command.call, "" if span is self._broken_off else "cancelled", reason=command.reason)

    def _go_on(self) -> None:
        """The request did not end in failure where its answer was broken off: the answer is the target's, so far."""
        if self._broken_off is not None:
            self._broken_off.outcome, self._broken_off = "target", None

    def _drop(self, call: int) -> None:
        """The stream ended right after its last step: the span that was opened for a next one never was work."""
        span = self._running.pop(call, None)
        if span is not None:
            _remove(span, self._spans)
            _remove(span, self._open)
            self._grow(-1)

    def _look_ahead(self, command: StartDraft) -> None:
        """A look-ahead begins: behind how many tokens, and behind how many of them that are not sent yet."""
        place = (self._room or 0) - command.request.max_tokens
        detail = {"place": place, "ahead": max(place - self._num_sent, 0)}
        self._begin(command.call, Span("draft", command.position, self._now(), detail=detail))

    def _draft_step(self, event: DraftStep) -> None:
        """One step of a look-ahead is over, the next one of the same stream begins."""
        span = self._running.get(event.call)
        if span is None:
            return
        self._fill(span, event.step)
        self._end(event.call, "")
        self._drafted[event.call] = span
        self._begin(event.call, Span("draft", span.position + 1, self._now()))

    def _place(self, command: Placed) -> None:
        """Where the step that just arrived belongs, and the one that is being written: with branches no two positions
        that follow one another need have numbers that do."""
        if (span := self._drafted.pop(command.call, None)) is not None:
            span.position = command.position
            if command.beside is not None:
                span.detail["beside"] = command.beside
        if command.following is not None and (running := self._running.get(command.call)) is not None:
            running.position = command.following

    def _continue(self, command: Continued) -> None:
        """What a call has written is a step, and the rest of the call is for another position."""
        span = self._running.get(command.call)
        if span is not None:
            self._fill(span, command.step)
            self._end(command.call, "")
            self._ahead[command.call] = command.ahead
            self._begin(command.call, Span("target", command.position, self._now()))

    def _streamed(self, event: Streamed) -> None:
        span = self._running.get(event.call)
        if span is None:
            return
        span.num_tokens += len(event.delta.token_ids)
        span.replica = event.delta.replica or span.replica
        span.num_cached_tokens = max(span.num_cached_tokens, event.delta.num_cached_tokens)
        _count_proposed(span, event.delta)
        if self._texts:
            span.text = (span.text or "") + event.delta.text

    def _fill(self, span: Span, step: Step, ahead: Piece | None = None) -> None:
        """`ahead`: what of `step` belongs to spans before this one."""
        piece = step.piece if ahead is None else step.piece.without(ahead)
        span.replica, span.num_cached_tokens = step.replica, step.num_cached_tokens
        span.num_tokens = len(piece.token_ids)
        span.text = piece.text if self._texts else None
        if ahead is None and step.elapsed_s > 0:  # of a call that went on over two positions there is no time for one
            span.detail["engine_s"] = step.elapsed_s
        _count_proposed(span, step)

    def _retire(self, command: Retired) -> None:
        """The position has its end: so have the draft step and the target step that were written for it."""
        draft = "rejected" if command.outcome is Outcome.RECOVERED else command.outcome.value
        for span in self._open:
            if span.position == command.position:
                span.step = command.step
                if not span.outcome and span.end_s is not None:
                    span.outcome = draft if span.kind == "draft" else command.outcome.value
        self._open = [span for span in self._open if span.position != command.position]

    def _commit(self, command: Commit) -> None:
        output = command.output
        self._num_sent += output.num_tokens
        if self._commits and self._commits[-1]["step"] == output.step:
            last = self._commits[-1]
            last["num_tokens"] += output.num_tokens
            last["at_s"] = self._now()
            last["text"] = last["text"] + output.text if self._texts else None
            last["origin"] = output.origin.value
            return
        if self._is_cut:
            return
        text = output.text if self._texts else None
        entry = {"step": output.step, "at_s": self._now(), "origin": output.origin.value}
        self._commits.append(entry | {"num_tokens": output.num_tokens, "text": text})
        self._grow(1)

    def _decide(self, decision: Decision) -> None:
        if not self._is_cut:
            self._decisions.append({"at_s": self._now(), **asdict(decision)})
            self._grow(1)


def _remove(span: Span, spans: list[Span]) -> None:
    """Take this one out of `spans`. It is among the last; others may be equal to it."""
    for index in reversed(range(len(spans))):
        if spans[index] is span:
            del spans[index]
            return


def _count_proposed(span: Span, written: Step | Delta) -> None:
    """What the engine proposed to itself and accepted in the work of `span`, where it says so."""
    if written.num_proposed:
        span.detail |= {"num_proposed": written.num_proposed, "num_accepted": written.num_accepted}


def summary_dict(summary: SpeculationSummary) -> dict[str, Any]:
    """The `speculation` object of the HTTP contract."""
    return asdict(summary) | {
        "degraded": list(summary.degraded),
        "accept_rate": summary.accept_rate,
        "draft_token_share": summary.draft_token_share,
    }
