"""A number of users who ask one request after another, over simulated engines, through the production pipeline.

Promises: `measure` runs on the clock of a fresh event loop, which begins at 0, until so many steps are committed, then
ends everything and says what was written in what time; the same arguments give the same figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from actors.messages import Prompt
from deployments.coordinator.pipeline import Patience, Pipeline, Roles
from deployments.coordinator.settings import SessionSettings
from deployments.generation import Committed
from deployments.simulation.roles import SimulatedDraft, SimulatedEngine, SimulatedTarget, SimulatedVerifier
from deployments.simulation.scripts import Script
from deployments.simulation.texts import Scripts
from deployments.simulation.workload import Machine, Measured, Opening, Progress, request_settings

FOR_EVER_S = 1e12


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
    scripts, progress, begun = Scripts(), Progress(num_steps), iter(range(10**9))
    target, draft = SimulatedEngine(machine.target, "target"), SimulatedEngine(machine.draft, "draft")
    roles = Roles(
        SimulatedTarget(target, scripts, machine.hint_gain),
        SimulatedDraft(draft, scripts),
        SimulatedVerifier(machine.verdict_s),
    )
    reached = asyncio.Event()

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
                    progress.add(output.num_tokens, output.step != last, loop.time())
                    last = output.step
                    if progress.is_done:
                        reached.set()
        scripts.close(name)

    async def user() -> None:
        while True:
            await ask()

    users = [asyncio.create_task(user()) for _ in range(num_users)]
    stop = asyncio.create_task(reached.wait())
    try:
        done, _ = await asyncio.wait([stop, *users], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (stop, *users):
            task.cancel()
        await asyncio.gather(stop, *users, return_exceptions=True)
    return progress.measured(target.batch, draft.batch)
