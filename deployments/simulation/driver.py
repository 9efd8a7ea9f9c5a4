"""The production session on a simulated clock, without asyncio: the same decisions as through the pipeline, several
times as fast.

Promises: commands and events are those of the pipeline over `deployments.simulation.roles`, at the same times; nothing
fails here, so retries and deadlines have no part. The same arguments give the same figures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

from actors.messages import Delta, Ending, JudgeRequest, Step, StepRequest, Verdict
from deployments.coordinator.events import (
    AddHints,
    Cancel,
    Command,
    Commit,
    DraftEnded,
    DraftStep,
    Event,
    Finish,
    Judge,
    Judged,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetProgress,
    TargetStep,
)
from deployments.coordinator.settings import SessionSettings
from deployments.generation import Committed
from deployments.simulation.batch import Batch
from deployments.simulation.clock import Clock
from deployments.simulation.costs import EngineCost
from deployments.simulation.scripts import Agreement, Script
from deployments.simulation.texts import Place, Scripts, agreement_of, num_context, text_of
from deployments.simulation.workload import (
    VOCABULARY,
    HintGain,
    Machine,
    Measured,
    Opening,
    Progress,
    part_size,
    request_settings,
)


class TimedEngine:
    """One engine: a batch on a simulated clock."""

    def __init__(self, clock: Clock, cost: EngineCost, replica: str) -> None:
        self.clock = clock
        self.cost = cost
        self.batch: Batch[str] = Batch(cost)
        self.replica = replica
        self._done: dict[str, Callable[[], None]] = {}
        self._alarm = 0

    def write(
        self,
        name: str,
        num_tokens: float,
        done: Callable[[], None],
        *,
        priority: int = 0,
        num_context: int = 0,
        speed: float = 1.0,
    ) -> None:
        """Calls `done` when `name` has its tokens, unless it is cancelled before."""
        self._done[name] = done
        self.batch.add(self.clock.now, name, num_tokens, speed=speed, priority=priority, num_context=num_context)
        self._arm()

    def cancel(self, name: str) -> None:
        """`name` writes no more; nothing happens if it does not write."""
        if self._done.pop(name, None) is not None:
            self.batch.remove(self.clock.now, name)
            self._arm()

    def set_speed(self, name: str, speed: float) -> None:
        """From now on `name` gets `speed` tokens a pass."""
        self.batch.set_speed(self.clock.now, name, speed)
        self._arm()

    def step(self, token_ids: tuple[int, ...], ending: Ending, since: float) -> Step:
        """A step that just ended here."""
        return Step(
            text_of(token_ids),
            token_ids,
            VOCABULARY,
            ending,
            self.clock.now - since,
            replica=self.replica,
            num_running=self.batch.size + 1,
        )

    def _arm(self) -> None:
        self._alarm += 1
        due = self.batch.next_done()
        if due is not None:
            self.clock.after(due - self.clock.now, partial(self._ring, self._alarm))

    def _ring(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        for name in self.batch.take_done(self.clock.now):
            done = self._done.pop(name, None)
            if done is not None:  # else one that was done at the same moment has cancelled it
                done()
        self._arm()


class _Call(ABC):
    """A call to a writing role: its start, then what the role writes."""

    def __init__(self, asker: Request, call: int, request: StepRequest, engine: TimedEngine) -> None:
        self.asker = asker
        self.call = call
        self.request = request
        self.engine = engine
        self.alive = True
        self.since = engine.clock.now
        self.place = asker.scripts.place(request.session_id, request.prefix)
        self.context = num_context(request.prefix)
        if engine.cost.call_s:
            engine.clock.after(engine.cost.call_s, self._prefill)
        else:
            self._prefill()

    def cancel(self) -> None:
        self.alive = False
        self.engine.cancel(self.request.call_id)

    @abstractmethod
    def go(self) -> None:
        """Its prefix is read: the next part is written."""

    def _prefill(self) -> None:
        if not self.alive:
            return
        passes = self.engine.cost.prefill_passes
        if passes:
            self.engine.write(self.request.call_id, passes, self.go, priority=self.request.priority)
        else:
            self.go()


class _TargetCall(_Call):
    def __init__(self, asker: Request, command: StartTarget, engine: TimedEngine, gain: HintGain) -> None:
        self._every_s = command.progress_s
        self._gain = gain
        self._written = self._part = 0
        place = asker.scripts.place(command.request.session_id, command.request.prefix)
        self._ids, self._ending = asker.scripts.target_ids(command.request.session_id, place)
        self._speed = gain.of_call(place, command.request)
        super().__init__(asker, command.call, command.request, engine)

    def hint(self, hints: tuple[tuple[int, ...], ...]) -> None:
        self._speed = max(self._speed, self._gain.of(self.place, hints))
        self.engine.set_speed(self.request.call_id, self._speed)

    def go(self) -> None:
        left = len(self._ids) - self._written
        self._part = min(left, part_size(self._every_s, self._written == 0, self.engine.cost, self.engine.batch.size))
        self.engine.write(
            self.request.call_id,
            self._part,
            self._wrote,
            priority=self.request.priority,
            num_context=self.context,
            speed=self._speed,
        )

    def _wrote(self) -> None:
        ids = self._ids[self._written : self._written + self._part]
        self._written += self._part
        if self._written < len(self._ids):
            delta = Delta(text_of(ids, False), ids, None, self.engine.replica, num_passes=len(ids) / self._speed)
            self.asker.hear(TargetProgress(self.call, delta))
            if self.alive:
                self.go()
        else:
            self.asker.hear(TargetStep(self.call, self.engine.step(self._ids, self._ending, self.since)))


class _DraftCall(_Call):
    def __init__(self, asker: Request, command: StartDraft, engine: TimedEngine) -> None:
        self._left = command.depth
        super().__init__(asker, command.call, command.request, engine)

    def go(self) -> None:
        self._ids, self._ending = self.asker.scripts.draft_ids(self.request.session_id, self.place)
        self.engine.write(self.request.call_id, len(self._ids), self._wrote, num_context=self.context)

    def _wrote(self) -> None:
        step = self.engine.step(self._ids, self._ending, self.since)
        self._left, self.since = self._left - 1, self.engine.clock.now
        self.place, self.context = Place(self.place.index + 1, 0), self.context + len(self._ids)
        self.asker.hear(DraftStep(self.call, step))
        if not self.alive:
            return
        if self._left and self._ending is not Ending.END:
            self.go()
        else:
            self.asker.hear(DraftEnded(self.call))


class _StreamCall(_Call):
    def go(self) -> None:
        self._ids, self._ending = self.asker.scripts.target_ids(self.request.session_id, self.place)
        self.engine.write(self.request.call_id, len(self._ids), self._wrote, num_context=self.context)

    def _wrote(self) -> None:
        self.place, self.context = Place(self.place.index + 1, 0), self.context + len(self._ids)
        engine = self.engine
        num_running = engine.batch.size + 1
        delta = Delta(text_of(self._ids), self._ids, self._ending, engine.replica, num_running=num_running)
        self.asker.hear(Streamed(self.call, delta))
        if self.alive and self._ending is not Ending.END:
            self.go()


class _JudgeCall:
    def __init__(self, asker: Request, command: Judge, latency_s: float) -> None:
        self.alive = True
        self._asker = asker
        self._call = command.call
        self._latency_s = latency_s
        self._request: JudgeRequest = command.request
        asker.clock.after(latency_s, self._judged)

    def cancel(self) -> None:
        self.alive = False

    def _judged(self) -> None:
        if self.alive:
            same = agreement_of(self._request.draft) is not Agreement.DIFFERENT
            verdict = Verdict(same, self._request.verifier, "as scripted", float(same), latency_s=self._latency_s)
            self._asker.hear(Judged(self._call, verdict))


class Cluster:
    """One replica of each role on a simulated clock."""

    def __init__(self, clock: Clock, machine: Machine) -> None:
        self.clock = clock
        self.machine = machine
        self.scripts = Scripts()
        self.target = TimedEngine(clock, machine.target, "target")
        self.draft = TimedEngine(clock, machine.draft, "draft")


class Request:
    """One session, driven to its end."""

    def __init__(
        self,
        cluster: Cluster,
        settings: SessionSettings,
        opening: Opening,
        progress: Progress,
        ended: Callable[[], None],
    ) -> None:
        self.clock = cluster.clock
        self.scripts = cluster.scripts
        self._cluster = cluster
        self._session, self._observers = opening(settings)
        self._progress = progress
        self._ended = ended
        self._calls: dict[int, _Call | _JudgeCall] = {}
        self._names: dict[str, int] = {}
        self._last_step = -1
        self._carry_out(self._session.start())

    def hear(self, event: Event) -> None:
        """`event` happens now."""
        if isinstance(event, TargetStep | DraftEnded | Judged):
            self._calls.pop(event.call, None)
        for observer in self._observers:
            observer.on_event(event)
        self._carry_out(self._session.handle(event))

    def _carry_out(self, commands: list[Command]) -> None:
        cluster = self._cluster
        for command in commands:
            for observer in self._observers:
                observer.on_command(command)
            if isinstance(command, StartTarget):
                self._calls[command.call] = _TargetCall(self, command, cluster.target, cluster.machine.hint_gain)
                self._names[command.request.call_id] = command.call
            elif isinstance(command, StartDraft):
                self._calls[command.call] = _DraftCall(self, command, cluster.draft)
            elif isinstance(command, StartStream):
                self._calls[command.call] = _StreamCall(self, command.call, command.request, cluster.target)
            elif isinstance(command, Judge):
                self._calls[command.call] = _JudgeCall(self, command, cluster.machine.verdict_s)
            elif isinstance(command, Cancel):
                self._cancel(command.call)
            elif isinstance(command, AddHints):
                self._hint(command)
            elif isinstance(command, Commit):
                self._commit(command.output)
            elif isinstance(command, Finish):
                self._ended()

    def _cancel(self, call: int) -> None:
        known = self._calls.pop(call, None)
        if known is not None:
            known.cancel()

    def _hint(self, command: AddHints) -> None:
        call = self._calls.get(self._names.get(command.call_id, -1))
        if isinstance(call, _TargetCall):
            call.hint(command.hints)

    def _commit(self, output: Committed) -> None:
        self._progress.add(output.num_tokens, output.step != self._last_step, self.clock.now)
        self._last_step = output.step


def measure_fast(
    machine: Machine,
    settings: SessionSettings,
    num_users: int,
    num_steps: int,
    script: Callable[[int], Script],
    opening: Callable[[Clock], Opening],
) -> Measured:
    """As `closed_loop.measure`; `opening` is made for a clock."""
    clock = Clock()
    cluster, progress, begin = Cluster(clock, machine), Progress(num_steps), opening(clock)
    num_begun = 0

    def ask(previous: str | None = None) -> None:
        nonlocal num_begun
        if previous is not None:
            cluster.scripts.close(previous)
        number, name = num_begun, f"r{num_begun}"
        num_begun += 1
        cluster.scripts.open(name, script(number))
        ended = partial(clock.after, 0.0, partial(ask, name))
        Request(cluster, request_settings(settings, name), begin, progress, ended)

    for _ in range(num_users):
        ask()
    while not progress.is_done:
        clock.tick()
    return progress.measured(cluster.target.batch, cluster.draft.batch)
