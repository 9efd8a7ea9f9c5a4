"""A guided request in a simulated cluster: the production `GuidedSession` over engines that write pass by pass.

Promises: session, proposer and the cutting of deltas are the server's own code; what a hint is worth follows from the
tokens that are at hand when a pass begins, not from a factor; calls, hints and results take the ways that those of
other requests take (`cluster.py`), and are lost with their engines in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from actors.engines.hint_matching import MatchRules
from actors.errors import RoleUnavailable
from actors.messages import StepRule, TokenIds
from deployments.coordinator.events import (
    AddHints,
    Cancel,
    Command,
    Commit,
    DraftAvailable,
    DraftEnded,
    DraftFailed,
    DraftStep,
    Event,
    Fail,
    Finish,
    ReviveDraft,
    StartDraft,
    StartStream,
    TargetFailed,
)
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.pipeline import FIRST_BACKOFF_S, MAX_BACKOFF_S, MAX_DRAFT_RETRY_S, Observer
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.cluster import DRAFT_RETRY_S, Cluster, Crossing, Ended
from deployments.simulation.engine import Engine
from deployments.simulation.guided_call import GuidedCall
from deployments.simulation.guided_texts import GuidedText
from deployments.simulation.workload import VOCABULARY

LINES = StepRule("line", 10**9)
PROMPT = (-1,)

GuidedOpening = Callable[[SessionSettings], tuple[GuidedSession, tuple[Observer, ...]]]
"""Makes the session of a request, and who watches it."""


@dataclass(frozen=True, slots=True)
class Guiding:
    """What guided requests have in common: how their sessions are opened, what both engines propose by."""

    max_lookahead: int
    rules: MatchRules
    opening: GuidedOpening

    def open(self, number: int) -> tuple[GuidedSession, tuple[Observer, ...]]:
        """For request `number`."""
        settings = SessionSettings(
            f"g{number}", PROMPT, PROMPT, VOCABULARY, 10**9, rule=LINES, max_lookahead=self.max_lookahead
        )
        return self.opening(settings)


class GuidedRequest:
    """One request, from its start to `ended`."""

    def __init__(
        self,
        cluster: Cluster,
        guiding: Guiding,
        number: int,
        text: GuidedText,
        num_prompt: int,
        ended: Callable[[Ended], None],
    ) -> None:
        self.cluster = cluster
        self.guiding = guiding
        self.number = number
        self.text = text
        self.num_prompt = num_prompt
        self._crossing = Crossing(num_prompt)
        self._told_end = ended
        self._calls: dict[int, GuidedCall] = {}
        self._engines: dict[bool, Engine] = {}
        """By whether it is the draft's."""
        self._cached: dict[bool, TokenIds] = {}
        """What was written there last."""
        self._num_draft_failures = 0
        self._over = False
        now = cluster.clock.now
        self._result = Ended(number, now, now, now, 0, 0, 0, 0)
        self._session, self._observers = guiding.open(number)
        self._carry_out(self._session.start())

    @property
    def is_waiting(self) -> bool:
        """Whether nothing of it is written yet."""
        return self._result.num_tokens == 0

    @property
    def roles_asked(self) -> list[str]:
        """The roles of its calls under way."""
        return [call.role for call in self._calls.values()]

    @property
    def rules(self) -> MatchRules:
        """As `Asker.rules`."""
        return self.guiding.rules

    # --- what calls say ----------------------------------------------------------------------------------------------

    def wants(self, call: GuidedCall) -> bool:
        """Whether `call` was not cancelled."""
        return call.call in self._calls

    def send(self, call: GuidedCall, event: Event) -> None:
        """`event` leaves the engine of `call`."""
        self.cluster.hear(self.number, partial(self._hear, call.call, event))

    def left(self, call: GuidedCall) -> None:
        """`call` has written all of it."""
        self._keep(call)

    def broken(self, call: GuidedCall) -> None:
        """The engine of `call` died, or there is none."""
        if self._calls.pop(call.call, None) is None:
            return
        self._cached.pop(call.depth is not None, None)
        if call.depth is None:
            self._handle(TargetFailed(call.call, RoleUnavailable("simulated")))
        else:
            self._num_draft_failures += 1
            self._handle(DraftFailed(call.call, "draft_unavailable"))

    def _hear(self, call: int, event: Event) -> None:
        if call in self._calls:
            if isinstance(event, DraftStep):
                self._num_draft_failures = 0
            if isinstance(event, DraftEnded):
                del self._calls[call]
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if self._over:
            return
        for observer in self._observers:
            observer.on_event(event)
        self._carry_out(self._session.handle(event))

    # --- what the session says ---------------------------------------------------------------------------------------

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            for observer in self._observers:
                observer.on_command(command)
            if isinstance(command, StartStream):
                back_off_s = min(FIRST_BACKOFF_S * 2.0**command.attempt, MAX_BACKOFF_S) if command.attempt else 0.0
                self._start(GuidedCall(self, command.call, command.request, None), back_off_s)
            elif isinstance(command, StartDraft):
                self._start(GuidedCall(self, command.call, command.request, command.depth), 0.0)
            elif isinstance(command, AddHints):
                self._hint(command)
            elif isinstance(command, Cancel):
                self._cancel(command.call)
            elif isinstance(command, Commit):
                self._commit(command)
            elif isinstance(command, ReviveDraft):
                self._revive()
            elif isinstance(command, Finish | Fail):
                self._end(failed=isinstance(command, Fail))

    def _start(self, call: GuidedCall, delay_s: float) -> None:
        cluster = self.cluster
        self._calls[call.call] = call
        cluster.counts.num_sent_tokens += self._crossing.of_call(call.role, len(call.written))
        delay_s += cluster.network_s + call.pool.cost.call_s
        if delay_s:
            cluster.clock.after(delay_s, lambda: self._reach(call))
        else:
            self._reach(call)

    def _reach(self, call: GuidedCall) -> None:
        """`call` is at its engine."""
        if self._calls.get(call.call) is not call:
            return
        is_draft, pool = call.depth is not None, call.pool
        engine = self._engines.get(is_draft)
        if engine is None or not engine.alive or not engine.is_open:
            engine = pool.choose(self.number)
            self._cached.pop(is_draft, None)
        if engine is not None:
            self._engines[is_draft] = engine
            call.begin(engine, _num_common(self._cached.get(is_draft, ()), call.written))
        elif is_draft:
            self.broken(call)
        else:
            pool.when_there(lambda: self._reach(call))

    def _hint(self, command: AddHints) -> None:
        stream = next((call for call in self._calls.values() if call.name == command.call_id), None)
        if stream is not None:
            delay_s = self.cluster.network_s + stream.pool.cost.call_s
            self.cluster.counts.num_sent_tokens += sum(map(len, command.hints))
            self.cluster.clock.after(delay_s, lambda: stream.add_hints(command.hints))

    def _cancel(self, number: int) -> None:
        call = self._calls.pop(number, None)
        if call is not None and call.engine is not None:
            call.engine.cancel(call)
            self._keep(call)

    def _keep(self, call: GuidedCall) -> None:
        self._cached[call.depth is not None] = call.written

    def _commit(self, command: Commit) -> None:
        output, counts = command.output, self.cluster.counts
        if not self._result.num_tokens:
            self._result.first_step_s = self.cluster.clock.now
        self._result.num_tokens += output.num_tokens
        counts.num_committed_tokens += output.num_tokens
        ended = output.seam is not None and not output.seam.is_in_step
        counts.num_committed += ended
        counts.num_executed += ended
        if self.cluster.wrote is not None:
            self.cluster.wrote(self.number, output.num_tokens)

    def _revive(self) -> None:
        """As the pipeline: ask again, at longer and longer intervals."""
        delay_s = min(DRAFT_RETRY_S * 2.0 ** min(self._num_draft_failures, 10), MAX_DRAFT_RETRY_S)
        self.cluster.clock.after(delay_s, self._ask_draft)

    def _ask_draft(self) -> None:
        if self._over:
            return
        if self.cluster.draft.is_there:
            self._handle(DraftAvailable(PROMPT))
        else:
            self._num_draft_failures += 1
            self._revive()

    def _end(self, *, failed: bool) -> None:
        self._over = True
        for call in list(self._calls):
            self._cancel(call)
        result, summary = self._result, self._session.summary()
        result.ended_s = self.cluster.clock.now
        result.num_accepted, result.num_recovered = summary.num_accepted_steps, summary.num_recovered_steps
        result.num_own, result.failed = summary.num_target_steps, failed
        for engine in self._engines.values():
            engine.forget(self.number)
        self._told_end(result)


def _num_common(one: TokenIds, other: TokenIds) -> int:
    """With how many tokens both begin."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(at for at in range(size) if one[at] != other[at])
