"""A number of users who ask one request after another, over simulated engines, through the production pipeline.

Promises: `measure` runs on the running event loop's clock until so many steps are committed, then ends everything and
says what was written in what time; the same arguments give the same figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from actors.messages import Committed, Prompt
from deployments.coordinator.pipeline import Observer, Patience, Pipeline, Roles
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.costs import EngineCost
from deployments.simulation.roles import (
    NO_GAIN,
    VOCABULARY,
    HintGain,
    SimulatedDraft,
    SimulatedEngine,
    SimulatedTarget,
    SimulatedVerifier,
)
from deployments.simulation.scripts import Script
from deployments.simulation.texts import PROMPT_IDS, Scripts

FOR_EVER_S = 1e12


@dataclass(frozen=True, slots=True)
class Machine:
    """One replica of each role. `verdict_s` is the time of a verdict."""

    target: EngineCost
    draft: EngineCost
    verdict_s: float = 0.0
    hint_gain: HintGain = NO_GAIN


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run did."""

    num_steps: int
    num_tokens: int
    elapsed_s: float
    target_load: float
    """Mean sequences in the target's batch."""
    draft_load: float

    @property
    def tokens_per_s(self) -> float:
        """Committed tokens a second, of all users together."""
        return self.num_tokens / self.elapsed_s


Opening = Callable[[SessionSettings], tuple[Session, tuple[Observer, ...]]]
"""Makes the session of a request, and who watches it."""


@dataclass(slots=True)
class _Count:
    """Committed so far, by all users."""

    limit: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    steps: int = 0
    tokens: int = 0
    at_s: float = 0.0

    def add(self, output: Committed, new_step: bool) -> None:
        if self.reached.is_set():
            return
        self.steps += new_step
        self.tokens += output.num_tokens
        if self.steps >= self.limit:
            self.at_s = asyncio.get_running_loop().time()
            self.reached.set()


async def measure(
    machine: Machine,
    settings: SessionSettings,
    num_users: int,
    num_steps: int,
    script: Callable[[int], Script],
    opening: Opening,
) -> Measured:
    """Runs until `num_steps` steps are committed. `script` gives the text of request number 0, 1, ...; `settings` are
    those of every request but for its name."""
    loop = asyncio.get_running_loop()
    scripts = Scripts()
    target, draft = SimulatedEngine(machine.target, "target"), SimulatedEngine(machine.draft, "draft")
    roles = Roles(
        SimulatedTarget(target, scripts, machine.hint_gain),
        SimulatedDraft(draft, scripts),
        SimulatedVerifier(machine.verdict_s),
    )
    count, begun, started = _Count(num_steps), iter(range(10**9)), loop.time()

    async def ask() -> None:
        number = next(begun)
        name = f"r{number}"
        scripts.open(name, script(number))
        session, observers = opening(request_settings(settings, name))
        pipeline = Pipeline(session, roles, Prompt(text=""), Patience(verdict_s=FOR_EVER_S), observers)
        last = -1
        async with aclosing(pipeline.run()) as outputs:
            async for output in outputs:
                if isinstance(output, Committed):
                    count.add(output, new_step=output.step != last)
                    last = output.step
        scripts.close(name)

    async def user() -> None:
        while True:
            await ask()

    users = [asyncio.create_task(user()) for _ in range(num_users)]
    stop = asyncio.create_task(count.reached.wait())
    try:
        done, _ = await asyncio.wait([stop, *users], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (stop, *users):
            task.cancel()
        await asyncio.gather(stop, *users, return_exceptions=True)
    elapsed = count.at_s - started
    loads = [engine.batch.sequence_seconds / elapsed for engine in (target, draft)]
    return Measured(count.steps, count.tokens, elapsed, loads[0], loads[1])


def request_settings(settings: SessionSettings, name: str) -> SessionSettings:
    """`settings` for one request of this simulation."""
    return replace(settings, session_id=name, target_prompt=PROMPT_IDS, draft_prompt=PROMPT_IDS, vocabulary=VOCABULARY)
