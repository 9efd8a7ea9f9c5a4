"""One request's decisions: events in, commands out. No I/O, no clock, no randomness.

Promises (each one is a test):
- every draft step that arrives is accepted, rejected or cancelled exactly once;
- every committed token leaves exactly once and in order, whatever order events come in;
- with a verifier that rejects everything the output is the target's own, token for token;
- a target step that is done never waits for a draft step;
- a strategy that leaves nothing under way, or fails, is a StrategyError at once (`counsel.py`);
- after `Finish` or `Fail` every call that was started has ended or was told to `Cancel`.

A position's step is decided on its own, under the condition that all before it end as they are now: a rejection deep
in the window restarts the draft there at once, without waiting for the head.
"""

from __future__ import annotations

from collections.abc import Callable

from actors.errors import ContextTooLong
from actors.messages import Ending, Piece, Step
from deployments.coordinator.calls import Calls
from deployments.coordinator.counsel import Counsel
from deployments.coordinator.drafting import Drafting
from deployments.coordinator.events import (
    Command,
    Decision,
    DraftAvailable,
    DraftEnded,
    DraftFailed,
    DraftProgress,
    DraftRefused,
    DraftStep,
    Event,
    Fail,
    Judged,
    Outcome,
    Placed,
    Retired,
    Streamed,
    TargetFailed,
    TargetProgress,
    TargetStep,
)
from deployments.coordinator.hints import Hints
from deployments.coordinator.paths import Paths
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.stream import Stream
from deployments.coordinator.tally import Tally
from deployments.coordinator.transcript import Transcript
from deployments.coordinator.transitions import Signal, State
from deployments.coordinator.window import Position, Window
from deployments.generation import Origin, SpeculationSummary

OUTCOMES = {State.ACCEPTED: Outcome.ACCEPTED, State.RECOVERED: Outcome.RECOVERED, State.OWN: Outcome.TARGET}


class Session:
    """The state machine of one request. `start()` once, then `handle(event)` for every event."""

    def __init__(self, settings: SessionSettings, decide: Callable[[], Decision] | None = None) -> None:
        """`decide` says how deep to look ahead from now on; without it that is `settings.max_lookahead`."""
        self._settings = settings
        self._decide = decide
        self._decision = Decision(settings.max_lookahead, "as asked for")
        self._tally = Tally(settings.mode, settings.resume, settings.num_takeovers)
        self._transcript = Transcript(settings, self._tally)
        self._hints = Hints(settings.num_nearby_hints if settings.token_speculation == "hints" else 0)
        self._calls = Calls(settings, self._hints)
        self._drafting = Drafting(settings, self._calls)
        self._stream = Stream(settings, self._calls, self._transcript, self._tally)
        self._window = Window(settings.vocabulary, settings.max_tokens, settings.stop)
        self._counsel = Counsel(settings, self._window, self._calls, self._drafting, self._tally)
        self._out: list[Command] = []
        self._paths = Paths(settings, self._window, self._calls, self._drafting, self._hints, self._tally, self._out)
        self.finished = False

    # --- what the driver calls ---------------------------------------------------------------------------------------

    def start(self) -> list[Command]:
        """The first commands."""
        self._out += self._transcript.start()
        if self._transcript.finish_reason is not None:
            self._finish_here(self._transcript.finish_reason)
            return self._flush()
        if self._counsel.speculates and not self._drafting.is_possible:
            self._lose_draft(*self._drafting.absence)
        if self._may_speculate():
            self._window.open(self._transcript.path, self._transcript.num_tokens)
            self._start_wishes()
        else:
            self._out.append(self._stream.start())
        return self._flush()

    def handle(self, event: Event) -> list[Command]:
        """The commands that `event` leads to; an event of a call that has ended is ignored."""
        if self.finished:
            return []
        if isinstance(event, DraftAvailable):
            self._drafting.revive(event)
        elif isinstance(event, DraftRefused):
            self._lose_draft("draft_refused", permanent=True)
        elif event.call not in self._calls:
            return []
        elif isinstance(event, DraftStep):
            self._on_draft(event)
        elif isinstance(event, DraftProgress):
            self._on_draft_progress(event)
        elif isinstance(event, DraftEnded):
            self._end_look_ahead(event.call)
        elif isinstance(event, DraftFailed):
            self._end_look_ahead(event.call)
            self._lose_draft(event.reason, event.permanent)
        elif isinstance(event, TargetProgress):
            self._on_progress(event)
        elif isinstance(event, TargetStep):
            self._on_target(event)
        elif isinstance(event, TargetFailed):
            self._on_target_failed(event)
        elif isinstance(event, Judged):
            self._on_verdict(event)
        else:
            self._on_streamed(event)
        if not self.finished:
            self._paths.prune()
            self._commit_heads()
        if not self.finished and self._window:
            self._send_certain(self._window.head)
            self._paths.prune()
        if not self.finished and not self._stream.is_running and self._window:
            self._start_wishes()
        return self._flush()

    @property
    def num_live_calls(self) -> int:
        """Calls that were started and have neither ended nor been cancelled."""
        return len(self._calls)

    def summary(self) -> SpeculationSummary:
        """The counts so far."""
        return self._tally.summary(self._transcript.num_tokens)

    # --- events ------------------------------------------------------------------------------------------------------

    def _on_draft(self, event: DraftStep) -> None:
        branch = self._window.written_by(event.call)
        tail = branch.tail if branch is not None else self._window.tail
        if tail.state is not State.OPEN:
            self._paths.end_look_ahead(branch, "more steps than were asked for")
            return
        tail.take(Signal.DRAFT)
        tail.draft = event.step
        self._drafting.take(event)
        other = branch.beside if branch is not None and tail is branch.first else None
        if branch is not None and other is not None and not self._paths.is_new(branch):
            self._paths.merge(branch)
            return
        self._tally.drafted(event.step, is_other=other is not None)
        self._window.open_after(tail)
        beside = other.serial if other is not None else None
        self._out.append(Placed(tail.serial, event.call, event.step, beside, self._window.num_opened - 1))
        if (hints := self._calls.hints_for(other or tail, event.step)) is not None:
            self._out.append(hints)
        self._paths.cut_where_it_strays(tail)

    def _on_draft_progress(self, event: DraftProgress) -> None:
        """The draft's words are hints as they come: the target, which started at the same time, is not far yet."""
        branch = self._window.written_by(event.call)
        tail = branch.tail if branch is not None else self._window.tail
        if tail.state is State.OPEN:
            tail.drafted = tail.drafted.joined(event.part) if tail.drafted is not None else event.part
            if (hints := self._calls.hints_for(tail, tail.drafted)) is not None:
                self._out.append(hints)

    def _on_progress(self, event: TargetProgress) -> None:
        position = self._calls.owner(event.call)
        if position.writing is not None:
            position.writing.parts.append(Piece(event.delta.text, event.delta.token_ids, self._settings.vocabulary))
        self._paths.cut_where_it_strays(position)

    def _on_target(self, event: TargetStep) -> None:
        position = self._calls.owner(event.call)
        self._calls.end(event.call)
        writing, draft = position.writing, position.draft
        target = writing.whole(event.step) if writing is not None else event.step
        position.target, position.writing = target, None
        if position.state is State.REJECTED:
            position.take(Signal.TARGET)
            self._window.open_after(position)
        elif draft is None:
            self._paths.decide_for_target(position, Signal.TARGET)
        elif draft.equals(target):
            position.take(Signal.EQUAL)
        elif (branch := self._paths.equal(position)) is not None:
            self._paths.promote(branch).take(Signal.EQUAL)
        else:
            self._paths.judge(position)
            self._compare(position, draft, target)

    def _compare(self, position: Position, draft: Step, target: Step) -> None:
        """The target's step differs from the draft's."""
        if self._settings.verifier is not None and self._window.end_alike(position, draft, target):
            position.take(Signal.DIFFERENT)
            self._out.append(self._calls.judge(position, self._settings.verifier, draft, target))
        elif self._paths.ask_about_span(position):
            position.take(Signal.DIFFERENT)
        elif not self._paths.promote_next(position):
            self._paths.decide_for_target(position, Signal.UNLIKE)

    def _on_verdict(self, event: Judged) -> None:
        position = self._calls.owner(event.call)
        self._calls.end(event.call)
        position.verdict, position.judge_call = event.verdict, None
        if event.degraded:
            self._tally.degraded(event.degraded)
        branch = self._window.branch_of(position)
        is_other = branch is not None and position is branch.first
        if event.verdict.accepted and all(p.has_draft_on_path for p in position.spanned):
            if branch is not None and is_other:
                self._paths.promote(branch)
            self._paths.accept(position)
        elif position.state is State.SCORING:
            self._paths.abandon(position, Signal.REJECT)
        elif branch is not None and is_other:
            self._paths.drop(branch, "not the same")
        elif event.degraded is None and self._paths.ask_about_span(position):
            return
        elif not self._paths.promote_next(position):
            self._paths.decide_for_target(position, Signal.REJECT)

    def _on_target_failed(self, event: TargetFailed) -> None:
        position = self._calls.end(event.call)
        if position is None:
            self._stream.fail()
            attempts = self._stream.num_failures
        else:
            position.writing = None
            position.attempts += 1
            attempts = position.attempts
        if isinstance(event.error, ContextTooLong):
            if position is None:
                self._end_of_context(event.error)
            else:
                position.refusal = event.error  # it may never be the head
            return
        if not event.retryable or attempts >= self._settings.max_attempts:
            self._end(Fail(event.error))
            return
        self._tally.degraded("target_retried")
        if position is None:
            self._out.append(self._stream.start())

    def _on_streamed(self, event: Streamed) -> None:
        commits, reason = self._stream.take(event)
        self._out += commits
        if reason is not None:
            self._finish(reason)
            return
        if event.delta.ending is not None and self._may_speculate() and self._depth() > 0:
            self._out += self._calls.cancel(event.call, "steps are speculated from here on")
            self._stream.end()
            self._window.open(self._transcript.path, self._transcript.num_tokens)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _commit_heads(self) -> None:
        while self._window and self._window.head.is_decided:
            head = self._window.pop_head()
            step = head.step
            if step is None:
                raise AssertionError("a decided position has a step")
            outcome = OUTCOMES[head.state]
            head.take(Signal.COMMIT)
            self._out.append(Retired(head.serial, outcome, self._tally.num_steps, head.basis))
            number = self._tally.num_steps
            self._tally.committed(outcome, head.draft)  # first: its counts go with the piece
            self._out += self._transcript.commit(step.piece, head.sent, Origin(outcome.value), number, step.ending)
            if self._transcript.stopped is not None or step.ending is Ending.END:
                self._finish("stop")
                return
            if self._transcript.num_tokens >= self._settings.max_tokens:
                self._finish("length")
                return
            if step.ending is Ending.CLOSE:
                self._out += self._drafting.cancel("the reasoning is closed")
                self._out.append(self._stream.start())
                return
        if self._window and self._window.head.refusal is not None:
            self._end_of_context(self._window.head.refusal)

    def _send_certain(self, head: Position) -> None:
        """Send what of the head's step is in the output whichever of the two stands."""
        stands = self._settings.verifier is None or head.state is State.REJECTED
        certain = head.take_certain(all_is_certain=stands)
        if certain is not None:
            self._out += self._transcript.send(certain, Origin.TARGET, self._tally.num_steps)
        if self._transcript.stopped is not None:
            self._tally.committed(Outcome.TARGET)
            self._finish("stop")

    def _end_of_context(self, refusal: ContextTooLong) -> None:
        """The target has no room behind what is committed."""
        if self._transcript.num_tokens:
            self._finish_here("length")
        else:
            self._end(Fail(refusal))

    def _finish_here(self, reason: str) -> None:
        """Nothing follows what was sent, be it in the middle of a step."""
        if self._transcript.is_in_step:
            self._tally.committed(Outcome.TARGET)
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        self._end(None)
        self._out += self._transcript.finish(reason, self.summary())

    def _end(self, last: Fail | None) -> None:
        """Nothing runs any more after this."""
        for position in self._window:
            self._paths.discard(position, "the request ended")
        self._window.clear()
        for call in self._calls.live:
            self._out += self._calls.cancel(call, "the request ended")
        self.finished = True
        if last is not None:
            self._out.append(last)

    # --- the window --------------------------------------------------------------------------------------------------

    def _may_speculate(self) -> bool:
        return self._counsel.speculates and (self._transcript.is_reasoning or self._settings.speculate_content)

    def _depth(self) -> int:
        """How deep to look ahead now; each change of the decision is told once."""
        if self._decide is not None and (decision := self._decide()) != self._decision:
            self._decision = decision
            self._out.append(decision)
        return 0 if self._drafting.is_gone else self._decision.depth

    # --- starting and ending calls -----------------------------------------------------------------------------------

    def _start_wishes(self) -> None:
        depth, tail = self._depth(), self._window.tail
        if depth == 0:
            why = "the draft cannot serve this request" if self._drafting.is_gone else "the target is faster alone"
            self._out += self._drafting.cancel(why)
            self._paths.drop_all(why)
            if tail is self._window.head and tail.is_untouched:
                self._window.clear()
                self._out.append(self._stream.start())
                return
        only_head = self._decision.watches or depth == 0
        wishes = self._counsel.wishes(depth, only_head=only_head, is_reasoning=self._transcript.is_reasoning)
        for position in wishes.targets:
            self._out.append(self._calls.target(position, self._window.index(position)))
        for position in wishes.scores:
            self._score(position)
        if wishes.draft_depth > 0:
            self._out.append(self._drafting.start(tail, wishes.draft_depth))
        for position in wishes.branches:
            branch = self._window.open_beside(position)
            start = self._drafting.branch(branch.first, wishes.branch_depth, position.num_branches)
            branch.call = start.call
            self._out.append(start)

    def _end_look_ahead(self, call: int) -> None:
        """A look-ahead is over by itself."""
        branch = self._window.written_by(call)
        if branch is None:
            self._drafting.end()
            return
        self._calls.end(call)
        branch.call = None
        if branch.first.draft is None:
            self._paths.drop(branch, "the draft did not write it")

    def _score(self, position: Position) -> None:
        verifier = self._settings.verifier
        if verifier is None or position.draft is None:
            raise AssertionError("only a draft step can be scored, and only by a verifier")
        position.take(Signal.SCORE)
        self._out.append(self._calls.judge(position, verifier, position.draft, None))

    def _lose_draft(self, reason: str, permanent: bool) -> None:
        self._tally.degraded(reason)
        self._out.append(self._drafting.lose(permanent))

    def _flush(self) -> list[Command]:
        out = list(self._out)
        self._out.clear()
        return out
