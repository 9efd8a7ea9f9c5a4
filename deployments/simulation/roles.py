"""Target, draft and verifier whose work is a cost model's: `actors.roles` Protocols on the running event loop's clock.

Promises: a call takes the time that its tokens take in the batch it shares, and nothing else happens; cancelling it
leaves the batch at once. Made for a virtual clock, on which a simulated hour is seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from actors.errors import RequestError
from actors.messages import Delta, Ending, JudgeRequest, Piece, Prompt, RoleInfo, Step, StepRequest, TokenIds, Verdict
from deployments.simulation.batch import Batch
from deployments.simulation.costs import EngineCost
from deployments.simulation.scripts import Agreement
from deployments.simulation.texts import PROMPT_IDS, Place, Scripts, agreement_of, num_context, text_of
from deployments.simulation.workload import NO_GAIN, VOCABULARY, HintGain, part_size

MAX_MODEL_LEN = 10**9


class SimulatedEngine:
    """One engine: a batch on the loop's clock."""

    def __init__(self, cost: EngineCost, replica: str = "") -> None:
        self.cost = cost
        self.batch: Batch[str] = Batch(cost)
        self.replica = replica
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def write(
        self, name: str, num_tokens: float, *, priority: int = 0, num_context: int = 0, speed: float = 1.0
    ) -> None:
        """Returns when `name`, which writes nothing else meanwhile, has its tokens; cancelling ends the work."""
        loop = asyncio.get_running_loop()
        waiter = self._waiters[name] = loop.create_future()
        self.batch.add(loop.time(), name, num_tokens, speed=speed, priority=priority, num_context=num_context)
        self._arm(loop)
        try:
            await waiter
        except asyncio.CancelledError:
            self._waiters.pop(name, None)
            self.batch.remove(loop.time(), name)
            self._arm(loop)
            raise

    def set_speed(self, name: str, speed: float) -> None:
        """From now on `name` gets `speed` tokens a pass."""
        loop = asyncio.get_running_loop()
        self.batch.set_speed(loop.time(), name, speed)
        self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self.batch.next_done()
        self._timer = None if due is None else loop.call_at(due, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        for name in self.batch.take_done(loop.time()):
            waiter = self._waiters.pop(name)
            if not waiter.done():
                waiter.set_result(None)
        self._arm(loop)


class SimulatedWriter:
    """What both writing roles share."""

    def __init__(self, engine: SimulatedEngine, scripts: Scripts) -> None:
        self._engine = engine
        self._scripts = scripts

    async def describe(self) -> RoleInfo:
        """As `Writer.describe`."""
        return RoleInfo("simulated", VOCABULARY, MAX_MODEL_LEN, self._engine.replica)

    async def encode(self, prompt: Prompt) -> TokenIds:
        """As `Writer.encode`: one token, whatever is asked."""
        return PROMPT_IDS

    async def render(self, *prompts: Prompt) -> tuple[RoleInfo, tuple[TokenIds, ...]]:
        """As `Writer.render`."""
        return await self.describe(), (PROMPT_IDS,) * len(prompts)

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Writer.add_hints`: they change nothing here."""

    async def speculation_stats(self) -> None:
        """As `Writer.speculation_stats`: there is no token-level speculation but by hints."""

    def home(self, session_id: str) -> str:
        """As `Writer.home`: there is one replica only."""
        return ""

    def shun(self, session_id: str, call_id: str) -> None:
        """As `Writer.shun`: nobody falls silent here."""

    async def _begin(self, request: StepRequest) -> None:
        """What a call costs before it writes."""
        cost = self._engine.cost
        if cost.call_s:
            await asyncio.sleep(cost.call_s)
        if cost.prefill_passes:
            await self._engine.write(request.call_id, cost.prefill_passes, priority=request.priority)

    def _step(self, token_ids: TokenIds, ending: Ending, elapsed_s: float) -> Step:
        num_running, replica = self._engine.batch.size + 1, self._engine.replica
        return Step(
            text_of(token_ids), token_ids, VOCABULARY, ending, elapsed_s, replica=replica, num_running=num_running
        )


class SimulatedTarget(SimulatedWriter):
    """`actors.roles.Target`."""

    def __init__(self, engine: SimulatedEngine, scripts: Scripts, gain: HintGain = NO_GAIN) -> None:
        super().__init__(engine, scripts)
        self._gain = gain
        self._speeds: dict[str, tuple[Place, float]] = {}

    async def decode(self, token_ids: TokenIds, vocabulary: str) -> str:
        """As `Target.decode`: no prompt has words here."""
        return ""

    async def step(self, request: StepRequest) -> Step:
        """As `Target.step`."""
        async for item in self.progress(request, 0.0):
            if isinstance(item, Step):
                return item
        raise AssertionError("a simulated step has an end")

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        """As `Target.progress`."""
        now = asyncio.get_running_loop().time
        started, call, prefix = now(), request.call_id, request.prefix
        place = self._scripts.place(request.session_id, prefix)
        token_ids, ending = self._scripts.target_ids(request.session_id, place)
        self._speeds[call] = (place, self._gain.of_call(place, request))
        try:
            await self._begin(request)
            written, context = 0, num_context(prefix)
            while written < len(token_ids):
                part = part_size(every_s, written == 0, self._engine.cost, self._engine.batch.size)
                part = min(part, len(token_ids) - written)
                speed = self._speeds[call][1]
                await self._engine.write(call, part, priority=request.priority, num_context=context, speed=speed)
                written += part
                if written < len(token_ids):
                    ids = token_ids[written - part : written]
                    yield Delta(text_of(ids, ends=False), ids, None, self._engine.replica, num_passes=part / speed)
        finally:
            del self._speeds[call]
        yield self._step(token_ids, ending, now() - started)

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Target.add_hints`."""
        if call_id in self._speeds:
            place, speed = self._speeds[call_id]
            speed = max(speed, self._gain.of(place, hints))
            self._speeds[call_id] = (place, speed)
            self._engine.set_speed(call_id, speed)

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        """As `Target.stream`, a delta a step."""
        await self._begin(request)
        place, context = self._scripts.place(request.session_id, request.prefix), num_context(request.prefix)
        ending = Ending.BOUNDARY
        while ending is not Ending.END:
            token_ids, ending = self._scripts.target_ids(request.session_id, place)
            await self._engine.write(request.call_id, len(token_ids), num_context=context)
            num_running, replica = self._engine.batch.size + 1, self._engine.replica
            yield Delta(text_of(token_ids), token_ids, ending, replica, num_running=num_running)
            place, context = Place(place.index + 1, 0), context + len(token_ids)

    async def label_probabilities(self, prompt: Prompt, labels: Sequence[str], session_id: str) -> tuple[float, ...]:
        """As `Target.label_probabilities`: refused, since simulated verdicts come from `SimulatedVerifier`."""
        raise RequestError("A simulated target has no probabilities; use a simulated verifier.")


class SimulatedDraft(SimulatedWriter):
    """`actors.roles.Drafter`."""

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        """As `Drafter.look_ahead`."""
        now = asyncio.get_running_loop().time
        started = now()
        await self._begin(request)
        place, context = self._scripts.place(request.session_id, request.prefix), num_context(request.prefix)
        for _ in range(depth):
            token_ids, ending = self._scripts.draft_ids(request.session_id, place)
            await self._engine.write(request.call_id, len(token_ids), num_context=context)
            yield self._step(token_ids, ending, now() - started)
            started, context, place = now(), context + len(token_ids), Place(place.index + 1, 0)
            if ending is Ending.END:
                return

    async def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[Piece | Step, None]:
        """As `Drafter.look_ahead_in_parts`, without parts: a simulated hint is worth something as a whole step only."""
        async with aclosing(self.look_ahead(request, depth)) as steps:
            async for step in steps:
                yield step


class SimulatedVerifier:
    """`actors.roles.Verifier`: sees what the script says, after `latency_s`."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self._latency_s = latency_s

    async def judge(self, request: JudgeRequest) -> Verdict:
        """As `Verifier.judge`."""
        await asyncio.sleep(self._latency_s)
        same = agreement_of(request.draft) is not Agreement.DIFFERENT
        return Verdict(same, request.verifier, "as scripted", float(same), latency_s=self._latency_s)
