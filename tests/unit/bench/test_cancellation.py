"""The measurement of cancellation, against the HTTP side and scripted engines in this process: it must see a leak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from actors.draft import Draft
from actors.engines.control_folder import read_logs
from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.messages import Delta, StepRequest
from actors.target import TargetModel
from deployments.bench import cancellation
from deployments.bench.cancellation import Trial, rows, run_trials
from deployments.bench.cancelled_calls import Generation
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.gateway.api import create_app
from deployments.generation import GenerationRequest, Output

LEAK_S = 1.5
"""Half of it is more than a full machine holds a task back, and far less than what leaks."""


class InProcess:
    """A `Backend` without Ray."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def generate(self, request: GenerationRequest) -> AsyncIterator[Output]:
        return self._coordinator.generate(request)

    async def readiness(self) -> dict[str, bool]:
        return {"target": True}

    async def trace(self, request_id: str) -> bytes | None:
        return b"".join([part async for part in self._coordinator.trace_parts(request_id)]) or None

    async def metrics(self) -> str:
        return self._coordinator.metrics()


class Leaking(TargetModel):
    """A target whose streams go on for a while after they were closed, as some transports let them."""

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        deltas: asyncio.Queue[Delta | None] = asyncio.Queue()

        async def write() -> None:
            async with aclosing(super(Leaking, self).stream(request)) as written:
                async for delta in written:
                    deltas.put_nowait(delta)
            deltas.put_nowait(None)

        writer = asyncio.create_task(write())
        try:
            while (delta := await deltas.get()) is not None:
                yield delta
        finally:
            asyncio.get_running_loop().call_later(LEAK_S, writer.cancel)


@asynccontextmanager
async def serving(folder: Path, target: type[TargetModel]) -> AsyncIterator[str]:
    config = cancellation.settings(folder)
    engines = [
        ScriptedEngine(ScriptOptions(**writer.engine.options)) for writer in (config.target, config.draft) if writer
    ]
    coordinator = Coordinator(config, Roles(target(engines[0]), Draft(engines[1])))
    app = create_app(config, lambda: InProcess(coordinator))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def measured(folder: Path, target: type[TargetModel], causes: Any, num_trials: int = 2) -> list[dict[str, Any]]:
    async with serving(folder, target) as url:
        trials: list[Trial] = await run_trials(url, num_trials, causes)
    return rows(trials, [Generation.of(entry) for entry in read_logs(folder)])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "AT_ONCE", 6)  # on a full machine more are in each other's way, and held back
    monkeypatch.setattr(cancellation, "SETTLE_S", LEAK_S + 0.5)


async def test_every_way_to_cancel_is_measured(tmp_path: Path) -> None:
    found = await measured(tmp_path, TargetModel, cancellation.CAUSES)
    assert [(row["cause"], row["mode"]) for row in found] == list(cancellation.CAUSES)
    assert all(row["num_measured"] >= 1 for row in found), found
    assert all(row["max_ms"] < 1000 * LEAK_S / 2 for row in found), found  # in one process it takes no time


async def test_a_leak_is_seen(tmp_path: Path) -> None:
    causes = [("client gone, streaming", "target"), ("stop string", "target"), ("deadline", "target")]
    found = await measured(tmp_path, Leaking, causes)
    assert all(row["p50_ms"] > 1000 * LEAK_S / 2 for row in found), found
    assert all(row["tokens_after"] > 10 for row in found), found
