"""What a gateway gets from its coordinators when Serve knows of none: no failure, and what leaving ones still have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from actors.errors import RoleUnavailable
from deployments.app import ASK_S, CoordinatorBackend, GatewayReplica
from deployments.config import CoordinatorConfig, load_profile
from deployments.coordinator.keeper import Keeper
from deployments.gateway.fair_queue import Wish
from deployments.generation import GenerationRequest, Keep, Opened, Output
from deployments.link import client
from deployments.link.frames import Address
from deployments.link.server import LinkServer
from tests.unit.clock import run_virtually
from tests.unit.coordinator import bench
from tests.unit.gateway.script import until


class Reply:
    def __init__(self, say: Callable[[], Awaitable[Any]]) -> None:
        self.get_async = say


class Handle:
    """As much of a Serve handle as is used: it tells where `servers` listen, and fails where there are none."""

    def __init__(self, *servers: LinkServer) -> None:
        self.servers = list(servers)

    def broadcast(self, method: str, *args: Any) -> Handle:
        return self

    async def _fetch_replica_results_async(self) -> list[Reply]:
        if not self.servers:
            raise DeploymentUnavailableError(DeploymentID(name="coordinator", app_name="lookahead"))
        return [Reply(lambda server=server: self._where(server)) for server in self.servers]  # type: ignore[misc]

    async def _where(self, server: LinkServer) -> Address:
        return server.address


class Brain:
    """What a coordinator's replica serves."""

    def __init__(self, coordinator: bench.Coordinator) -> None:
        self.keeper = Keeper(coordinator.generate, 10, 10**6)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        return self.keeper.generate(request)

    async def hand_over(self, *asked: Any) -> list[GenerationRequest]:
        return await self.keeper.hand_over(*asked)


class Frozen:
    """A handle to replicas that never answer."""

    def broadcast(self, method: str) -> Frozen:
        return self

    async def _fetch_replica_results_async(self) -> list[Reply]:
        return [Reply(asyncio.Event().wait)]


def gateway(handle: Handle) -> CoordinatorBackend:
    return CoordinatorBackend(handle, 5.0, {}, CoordinatorConfig())  # type: ignore[arg-type]


async def test_without_a_coordinator_there_is_less_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    backend = gateway(Handle())
    assert await backend.trace("r") is None
    with pytest.raises(RoleUnavailable, match="ask again"):
        await backend.hand_over("r", "me")
    assert "lookahead_token_num_drafts_total" in await backend.metrics()
    assert all(f"could be asked for {method}" in caplog.text for method in ("trace", "hand_over", "metrics"))
    await backend.aclose()


async def test_a_coordinator_that_is_leaving_hands_over_what_it_has() -> None:
    roles = bench.Bench(replace(bench.TARGET, token_s=0.01))
    brain = Brain(await roles.coordinator())
    server = LinkServer(brain, {"generate", "hand_over"}, "a", 10)
    await server.start("127.0.0.1")
    handle = Handle(server)
    first, second = gateway(handle), gateway(handle)
    try:
        asked = replace(bench.request(mode="target"), keep=Keep(30.0, "me", "{}", "r"))
        for backend in (first, second):
            name = f"r{backend is second}"
            async with aclosing(backend.generate(replace(asked, request_id=name))) as outputs:  # type: ignore[type-var]
                assert isinstance(await anext(outputs), Opened)
                await anext(outputs)
        draining = asyncio.create_task(server.drain())
        handle.servers.clear()
        found = await second.hand_over("r", "me")
        assert {request.request_id for request in found} == {"rFalse", "rTrue"}
        await until(lambda: roles.target_engine.num_running() == 0)
        await draining
    finally:
        await first.aclose()
        await second.aclose()
        await server.close()
        await brain.keeper.close()


class LoneGateway(GatewayReplica):
    """Without Serve, which awaits its end."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


async def test_a_coordinator_that_is_to_leave_stays_for_what_waits_at_a_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "ALIVE_S", 0.02)
    server = LinkServer(object(), set(), "a", 10)
    await server.start("127.0.0.1")
    replica = LoneGateway(load_profile("scripted"), Handle(server), Handle(), None)  # type: ignore[arg-type]
    try:
        link = await replica._backend._coordinators.link("", 5.0)
        ticket = replica._queue._admission.ask(Wish("me", 1), 0.0)
        draining = asyncio.create_task(server.drain())
        await until(lambda: link.is_leaving)
        await asyncio.sleep(0.1)
        assert not draining.done()
        replica._queue._admission.leave(ticket, 1.0)
        await asyncio.wait_for(draining, 1.0)
    finally:
        await replica._backend.aclose()
        await server.close()


def test_metrics_wait_once_for_all_that_are_frozen() -> None:
    """Prometheus gives up after 10 s."""

    async def scrape() -> float:
        writers: dict[str, Any] = {"target": Frozen(), "draft": Frozen()}
        backend = CoordinatorBackend(Frozen(), 5.0, writers, CoordinatorConfig())  # type: ignore[arg-type]
        begun = asyncio.get_running_loop().time()
        assert "lookahead_token_num_drafts_total" in await backend.metrics()
        took_s = asyncio.get_running_loop().time() - begun
        await backend.aclose()
        return took_s

    assert run_virtually(scrape()) == pytest.approx(ASK_S)
