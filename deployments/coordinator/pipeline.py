"""The driver: runs a session's commands against the roles, and the roles' results into the session.

Promises: every task has an owner and is cancelled and awaited before `run` returns, whatever ends it; commands that
start or cancel work go before text is handed out, so that a slow reader never delays an engine; an error of the draft
or the verifier never ends a request. The same code runs over engines in this process and over Ray Serve handles.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from actors.errors import DeadlineExceeded, LookaheadError, OtherVocabulary, RequestError, RoleSilent, RoleUnavailable
from actors.messages import JudgeRequest, Prompt, Step, TokenIds, Verdict
from actors.roles import Drafter, Target, Verifier
from deployments.coordinator.breaker import Circuit
from deployments.coordinator.events import (
    AddHints,
    Cancel,
    Command,
    Commit,
    DraftAvailable,
    DraftRefused,
    Event,
    Fail,
    Finish,
    Judge,
    Judged,
    ReviveDraft,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
    TargetProgress,
    TargetStep,
)
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.listening import HasRead, Hearing, T, hearing, in_time, report
from deployments.coordinator.look_aheads import LookAheads
from deployments.coordinator.session import Session
from deployments.coordinator.vigilance import Vigilance, unlimited
from deployments.generation import Committed, Finished

logger = logging.getLogger(__name__)

MAX_DRAFT_RETRY_S = 30.0
MAX_BACKOFF_S = 2.0
FIRST_BACKOFF_S = 0.05
MAX_WAITING = 256
"""Events that may wait for a slow reader before a stream is read on."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Whom the pipeline asks."""

    target: Target
    drafter: Drafter | None = None
    verifier: Verifier | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds."""

    verdict_s: float = 2.0
    draft_retry_s: float = 2.0
    request_s: float | None = None
    """Time limit of the whole request."""
    is_rest: bool = False
    """The request began elsewhere, and that is what is left of its time."""


class Observer(Protocol):
    """Sees all that goes through a pipeline, for traces and metrics. Must not raise and must not wait."""

    def on_command(self, command: Command) -> None:
        """`command` is about to be carried out."""
        ...

    def on_event(self, event: Event) -> None:
        """`event` is about to be handled."""
        ...


class Pipeline:
    """One request under way."""

    def __init__(
        self,
        session: Session | GuidedSession,
        roles: Roles,
        prompt: Prompt,
        patience: Patience = Patience(),
        observers: tuple[Observer, ...] = (),
        vigilance: Vigilance | None = None,
    ) -> None:
        """`vigilance` is shared with other requests; without it nothing but `patience` bounds a call."""
        self._session = session
        self._roles = roles
        self._prompt = prompt
        self._patience = patience
        self._observers = observers
        self._vigilance = vigilance or unlimited(patience.verdict_s)
        self._clock = asyncio.get_running_loop().time
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._look_aheads = LookAheads(roles.drafter, self._vigilance, self._events.put_nowait)
        self._has_room = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._errands: set[asyncio.Task[None]] = set()
        """Tasks whose result nobody waits for: calls that end, one that is still listened to, hints on their way."""
        self._revival: asyncio.Task[None] | None = None
        self._target_has_read = HasRead(roles.target)
        self._hints_due: dict[str, list[TokenIds]] = {}
        """Hints that leave at the end of this turn of the event loop, by the call that they are for."""
        self._hints_failed = False

    async def run(self) -> AsyncGenerator[Committed | Finished, None]:
        """What is certain, as it becomes certain; the last item is a `Finished`.

        Raises the target's error when no attempt helped. Close the iterator (`contextlib.aclosing`) to end early.
        """
        now = asyncio.get_running_loop().time
        deadline = None if self._patience.request_s is None else now() + self._patience.request_s
        try:
            commands = self._session.start()
            while True:
                for command in commands:
                    self._carry_out(command)
                for command in commands:
                    if isinstance(command, Commit | Finish):
                        yield command.output
                    elif isinstance(command, Fail):
                        raise command.error
                if self._session.finished:
                    return
                event = await self._next_event(deadline)
                for observer in self._observers:
                    observer.on_event(event)
                commands = self._session.handle(event)
        finally:
            await self._end_tasks()

    async def _next_event(self, deadline: float | None) -> Event:
        try:
            async with asyncio.timeout_at(deadline):
                event = await self._events.get()
        except TimeoutError:
            limit = "its time limit" if self._patience.is_rest else f"{self._patience.request_s:g} s"
            raise DeadlineExceeded(
                f"The request was not done within {limit}; ask for fewer tokens or more time."
            ) from None
        if self._events.qsize() < MAX_WAITING:
            self._has_room.set()
        return event

    async def _room(self) -> None:
        """Wait until few events wait: a stream must not run ahead of a slow reader without bound. All other work does
        so by its nature: no more than the window is written before the next event is handled."""
        while self._events.qsize() >= MAX_WAITING:
            self._has_room.clear()
            await self._has_room.wait()

    # --- commands ----------------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        for observer in self._observers:
            observer.on_command(command)
        if isinstance(command, StartDraft):
            self._start(command.call, self._look_aheads.run(command))
        elif isinstance(command, StartTarget):
            self._start(command.call, self._target(command))
        elif isinstance(command, StartStream):
            self._start(command.call, self._stream(command))
        elif isinstance(command, Judge):
            self._start(command.call, self._judge(command))
        elif isinstance(command, AddHints):
            self._hint(command)
        elif isinstance(command, Cancel):
            self._cancel(command.call)
        elif isinstance(command, ReviveDraft) and self._revival is None:
            self._revival = asyncio.create_task(self._revive_draft())

    def _start(self, call: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[call] = task
        task.add_done_callback(lambda _: self._tasks.pop(call, None))

    def _cancel(self, call: int) -> None:
        task = self._tasks.pop(call, None)
        if task is not None:
            if not self._look_aheads.listens_on(call, task):
                task.cancel()
            self._keep(task)

    def _hint(self, command: AddHints) -> None:
        """Hints for one call that come in one turn leave together, the newest first; one of none stands for itself."""
        due = self._hints_due.get(command.call_id)
        if due and command.hints:
            due[:0] = command.hints
        else:
            due = self._hints_due[command.call_id] = list(command.hints)
            self._keep(asyncio.create_task(self._add_hints(command.call_id, command.session_id, due)))

    def _keep(self, errand: asyncio.Task[None]) -> None:
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)

    async def _end_tasks(self) -> None:
        tasks = [*self._tasks.values(), *self._errands, *([self._revival] if self._revival else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- work --------------------------------------------------------------------------------------------------------

    async def _target(self, command: StartTarget) -> None:
        await _back_off(command.attempt)
        try:
            if command.progress_s <= 0:
                step = await in_time(
                    "target", self._roles.target.step(command.request), self._vigilance.step, command.attempt
                )
                self._events.put_nowait(TargetStep(command.call, step))
                return
            begun = self._clock()
            items = self._roles.target.progress(command.request, command.progress_s)
            async with self._hearing(command, items) as timely:
                async for item in timely:
                    self._target_has_read.heard(command.request, len(item.token_ids))
                    if isinstance(item, Step):
                        self._vigilance.step.took(self._clock() - begun)
                        self._events.put_nowait(TargetStep(command.call, item))
                        return
                    self._events.put_nowait(TargetProgress(command.call, item))
            raise RoleUnavailable("The target's call broke off before its step ended.")
        except Exception as error:
            self._target_broke(command, error)

    async def _add_hints(self, call_id: str, session_id: str, hints: list[TokenIds]) -> None:
        if self._hints_due.get(call_id) is hints:
            del self._hints_due[call_id]
        try:
            await self._roles.target.add_hints(call_id, session_id, tuple(hints))
        except Exception as error:
            if not self._hints_failed:
                self._hints_failed = True
                logger.debug("Hints do not reach the target, which goes on without: %s", error)

    async def _stream(self, command: StartStream) -> None:
        await _back_off(command.attempt)
        ended, num_written = False, 0
        try:
            async with self._hearing(command, self._roles.target.stream(command.request)) as timely:
                async for delta in timely:
                    num_written += len(delta.token_ids)
                    self._target_has_read.heard(command.request, num_written)
                    ended = delta.ends_stream
                    self._events.put_nowait(Streamed(command.call, delta))
                    await self._room()
            if not ended:
                raise RoleUnavailable("The target's stream broke off before the text ended.")
        except Exception as error:
            self._target_broke(command, error)

    def _hearing(self, command: StartTarget | StartStream, items: AsyncGenerator[T, None]) -> Hearing[T]:
        first = self._vigilance.first(self._target_has_read.num_unread(command.request))
        return hearing("target", items, first, self._vigilance.item, command.attempt)

    def _target_broke(self, command: StartTarget | StartStream, error: Exception) -> None:
        self._target_has_read.lost()
        if isinstance(error, RoleSilent):
            self._roles.target.shun(command.request.session_id, command.request.call_id)
        self._events.put_nowait(_target_failed(command.call, error))

    async def _judge(self, command: Judge) -> None:
        name, breaker = command.request.verifier, self._vigilance.verdict_breaker
        if not breaker.lets_through(self._clock()):
            verdict = Verdict(False, name, "the verifier failed again and again, and is left alone for a while")
            self._events.put_nowait(Judged(command.call, verdict, "verifier_left_alone"))
            return
        is_probe = breaker.state is Circuit.HALF_OPEN
        wait_s, hearing_s = self._vigilance.verdict_s(name), self._vigilance.hearing_s(name)
        call = asyncio.create_task(self._verdict(command.request))
        try:
            await asyncio.wait((call,), timeout=wait_s)
            if call.done():
                self._events.put_nowait(Judged(command.call, *call.result()))
                return
            late = Verdict(False, name, f"no verdict within {wait_s:.3g} s", None, wait_s)
            self._events.put_nowait(Judged(command.call, late, "verifier_late"))
            await asyncio.wait((call,), timeout=hearing_s - wait_s)  # what a probe says later still counts for others
            if not call.done():
                breaker.failed(self._clock())
        finally:
            if is_probe:
                breaker.left()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    async def _verdict(self, request: JudgeRequest) -> tuple[Verdict, str | None]:
        """The verifier's answer to `request`, or a rejection with the reason why there is none."""
        verifier, begun = self._roles.verifier, self._clock()
        breaker = self._vigilance.verdict_breaker
        try:
            if verifier is None:
                raise RoleUnavailable("This deployment has no verifier.")
            verdict = await verifier.judge(request)
            if not isinstance(verdict, Verdict) or not isinstance(verdict.accepted, bool):
                raise RoleUnavailable("The verifier answered what is no verdict.")  # "no" would count as a yes
        except Exception as error:
            report("verifier", error)
            breaker.failed(self._clock())
            return Verdict(False, request.verifier, f"the verifier failed: {error}"), "verifier_failed"
        self._vigilance.judged(request.verifier, verdict, self._clock() - begun)
        if verdict.has_failed:
            breaker.failed(self._clock())
        else:
            breaker.succeeded()
        return verdict, "verifier_failed" if verdict.has_failed else None

    async def _revive_draft(self) -> None:
        """Ask the draft for the prompt, at longer and longer intervals, until it answers."""
        drafter = self._roles.drafter
        while drafter is not None:
            delay = self._patience.draft_retry_s * 2.0 ** min(max(self._look_aheads.num_failures - 1, 0), 10)
            await asyncio.sleep(min(delay, MAX_DRAFT_RETRY_S))
            try:
                info, (prompt,) = await drafter.render(self._prompt)
            except (RequestError, OtherVocabulary) as error:
                logger.info("The draft cannot serve a request: %s", error)
                self._events.put_nowait(DraftRefused())
                break
            except Exception as error:
                report("draft", error)
                self._look_aheads.num_failures += 1
            else:
                self._events.put_nowait(DraftAvailable(prompt, info.vocabulary))
                break
        self._revival = None


async def _back_off(attempt: int) -> None:
    if attempt:
        await asyncio.sleep(min(FIRST_BACKOFF_S * 2.0**attempt, MAX_BACKOFF_S))


def _target_failed(call: int, error: Exception) -> TargetFailed:
    if isinstance(error, LookaheadError):
        return TargetFailed(call, error, retryable=not isinstance(error, RequestError | OtherVocabulary))
    report("target", error)
    return TargetFailed(call, RoleUnavailable("The target failed inside the server; the log says how."))
