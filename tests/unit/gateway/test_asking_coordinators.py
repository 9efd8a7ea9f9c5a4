"""What a gateway gets from its coordinators, also from those that are leaving, and when Serve knows of none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from actors.errors import RoleUnavailable
from actors.messages import SpeculationStats
from deployments.app import ASK_S, COORDINATOR_METHODS, CoordinatorBackend, GatewayReplica
from deployments.config import CoordinatorConfig, load_profile
from deployments.coordinator.keeper import Keeper
from deployments.gateway.fair_queue import Wish
from deployments.gateway.rejoining import fetch
from deployments.generation import GenerationRequest, Keep, Opened, Output
from deployments.link import client
from deployments.link.frames import SECRET_BYTES, Address
from deployments.link.over_serve import LINK
from deployments.link.server import LinkServer
from deployments.telemetry.metrics import of_replica
from deployments.telemetry.trace_json import PART, json_parts
from deployments.trace_asking import AT_ONCE
from tests.unit.clock import run_virtually
from tests.unit.coordinator import bench
from tests.unit.gateway.script import until


class Reply:
    def __init__(self, say: Callable[[], Awaitable[Any]]) -> None:
        self.get_async = say


class Handle:
    """As much of a Serve handle as is used: it asks `servers`, and fails where there are none. With `is_short` no
    answer but an address is short enough for its calls."""

    def __init__(self, *servers: LinkServer) -> None:
        self.servers = list(servers)
        self.is_short = False
        self.asked: list[str] = []
        """For what."""

    def broadcast(self, method: str, *args: Any) -> Asked:
        self.asked.append(method)
        return Asked(self, method, args)


class Asked:
    """What a broadcast gives."""

    def __init__(self, handle: Handle, method: str, args: tuple[Any, ...]) -> None:
        self._handle = handle
        self._method = method
        self._args = args

    async def _fetch_replica_results_async(self) -> list[Reply]:
        if not self._handle.servers:
            raise DeploymentUnavailableError(DeploymentID(name="coordinator", app_name="lookahead"))
        return [Reply(partial(self._told, server)) for server in self._handle.servers]

    async def _told(self, server: LinkServer) -> Any:
        if self._method == LINK:
            return server.address
        if self._handle.is_short:
            raise ValueError("Received message larger than max")
        return await getattr(server.served, self._method)(*self._args)


class Brain:
    """What a coordinator's replica serves."""

    def __init__(self, coordinator: bench.Coordinator) -> None:
        self.coordinator = coordinator
        self.keeper = Keeper(coordinator.generate, 10, 10**6)

    async def trace(self, request_id: str) -> dict[str, Any] | None:
        return self.coordinator.trace(request_id)

    async def trace_began(self, request_id: str) -> float | None:
        return self.coordinator.trace_began(request_id)

    def trace_parts(self, request_id: str) -> AsyncGenerator[bytes, None]:
        return self.coordinator.trace_parts(request_id)

    async def metrics(self) -> tuple[str, str]:
        return "a", of_replica(self.coordinator.metrics(), "a")

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        return self.keeper.generate(request)

    async def hand_over(self, *asked: Any) -> list[GenerationRequest]:
        return await self.keeper.hand_over(*asked)


class Frozen:
    """A handle to replicas that never answer."""

    def broadcast(self, method: str, *args: Any) -> Frozen:
        return self

    async def _fetch_replica_results_async(self) -> list[Reply]:
        return [Reply(asyncio.Event().wait)]


class Engine:
    """What the replica of a draft or a target tells over Serve."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def speculation_stats(self) -> tuple[str, SpeculationStats]:
        return self.name, SpeculationStats(num_drafts=7)


def gateway(handle: Handle) -> CoordinatorBackend:
    return CoordinatorBackend(handle, 5.0, {}, CoordinatorConfig())  # type: ignore[arg-type]


@asynccontextmanager
async def one_coordinator() -> AsyncIterator[tuple[bench.Bench, LinkServer, Handle]]:
    roles = bench.Bench(replace(bench.TARGET, token_s=0.05))
    brain = Brain(await roles.coordinator())
    server = LinkServer(brain, COORDINATOR_METHODS, "a", 10)
    await server.start("127.0.0.1")
    try:
        yield roles, server, Handle(server)
    finally:
        await server.close()
        await brain.keeper.close()


async def test_without_a_coordinator_there_is_less_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    backend = gateway(Handle())
    with pytest.raises(RoleUnavailable, match="ask again"):
        await backend.trace("r")
    with pytest.raises(RoleUnavailable, match="ask again"):
        await fetch(backend, "r", "me")
    assert "lookahead_token_num_drafts_total" in await backend.metrics()
    assert all(f"could be asked for {method}" in caplog.text for method in ("trace", "hand_over", "metrics"))
    await backend.aclose()


async def test_a_coordinator_that_is_leaving_hands_over_what_it_has() -> None:
    async with one_coordinator() as (roles, server, handle):
        first, second = gateway(handle), gateway(handle)
        try:
            asked = replace(bench.request(mode="target"), keep=Keep(30.0, "me", "{}", "r"))
            for backend in (first, second):
                asking = replace(asked, request_id=f"r{backend is second}")
                async with aclosing(backend.generate(asking)) as outputs:  # type: ignore[type-var]
                    assert isinstance(await anext(outputs), Opened)
                    await anext(outputs)
            draining = asyncio.create_task(server.drain())
            handle.servers.clear()
            told = await second.hand_over("r", "me")
            assert {each.request_id for each in told if isinstance(each, GenerationRequest)} == {"rFalse", "rTrue"}
            assert sum(isinstance(each, RoleUnavailable) for each in told) == 1, "and Serve could ask nobody"
            await until(lambda: roles.target_engine.num_running() == 0)
            await draining
        finally:
            await first.aclose()
            await second.aclose()


async def tells_all(backend: CoordinatorBackend) -> None:
    """All that there is of the request that runs, and of nothing twice."""
    assert "\nlookahead_requests_in_flight 1.0\n" in await backend.metrics()
    assert '\nlookahead_time_to_first_step_seconds_count{replica="a"} 1.0\n' in await backend.metrics()
    assert json.loads(await backend.trace("r") or b"{}")["request_id"] == "r"


async def test_a_coordinator_that_is_leaving_tells_of_the_requests_that_it_finishes() -> None:
    async with one_coordinator() as (_, server, handle):
        backend = gateway(handle)
        try:
            async with aclosing(backend.generate(bench.request(mode="target"))) as outputs:  # type: ignore[type-var]
                assert isinstance(await anext(outputs), Opened)
                await anext(outputs)
                await tells_all(backend)
                handle.is_short = True
                await tells_all(backend)
                draining = asyncio.create_task(server.drain())
                handle.servers.clear()
                await tells_all(backend)
            await draining
        finally:
            await backend.aclose()


async def test_of_several_traces_of_an_id_the_latest_is_told() -> None:
    class Told(Brain):
        async def trace(self, request_id: str) -> dict[str, Any] | None:
            return {"request_id": request_id, "started_at": self.started_at}

        started_at = 1.0

        async def trace_began(self, request_id: str) -> float | None:
            return self.started_at

        async def trace_parts(self, request_id: str) -> AsyncGenerator[bytes, None]:
            yield json.dumps(await self.trace(request_id)).encode()

    roles = bench.Bench()
    brains = [Told(await roles.coordinator()) for _ in range(3)]
    linked = [LinkServer(brain, COORDINATOR_METHODS, name, 10) for brain, name in zip(brains, "ab", strict=False)]
    unlinked: Any = SimpleNamespace(served=brains[2], address=Address("c", "127.0.0.1", 1, b"-" * SECRET_BYTES, 10))
    for server in linked:
        await server.start("127.0.0.1")
    handle = Handle(*linked)
    backend = gateway(handle)
    try:
        for latest in (1, 0):  # before there is a link
            await tells_the_latest(backend, brains, latest)
        await backend._coordinators.link("", 5.0)
        await until(lambda: len(backend._coordinators.links) == 2)
        handle.asked.clear()
        for latest in (0, 1):
            await tells_the_latest(backend, brains, latest)
        assert "trace" not in handle.asked, "Serve's calls bring all of a trace at once"
        handle.servers.append(unlinked)
        for latest in (2, 0, 2, 1):
            await tells_the_latest(backend, brains, latest)
        assert "trace" in handle.asked
        handle.servers.pop(0)  # one that is leaving
        await tells_the_latest(backend, brains, 0)
    finally:
        await backend.aclose()
        for server in linked:
            await server.close()


async def tells_the_latest(backend: CoordinatorBackend, brains: Sequence[Any], latest: int) -> None:
    brains[latest].started_at = max(brain.started_at for brain in brains) + 1.0
    told = json.loads(await backend.trace("r") or b"null")
    assert told == {"request_id": "r", "started_at": brains[latest].started_at}


class Long(Brain):
    """Has one long trace."""

    num_reading = most_reading = 0

    def told(self) -> dict[str, Any]:
        return {"request_id": "r", "started_at": 1.0, "spans": [{"position": at} for at in range(60 * PART)], "n": None}

    async def trace_began(self, request_id: str) -> float | None:
        return 1.0 if request_id == "r" else None

    async def trace_parts(self, request_id: str) -> AsyncGenerator[bytes, None]:
        self.num_reading += 1
        self.most_reading = max(self.most_reading, self.num_reading)
        try:
            async for part in json_parts(self.told()):
                yield part
        finally:
            self.num_reading -= 1


async def test_a_long_trace_holds_nobody_up_and_few_are_read_at_a_time() -> None:
    roles = bench.Bench()
    brain = Long(await roles.coordinator())
    server = LinkServer(brain, COORDINATOR_METHODS, "a", 10)
    await server.start("127.0.0.1")
    backend = gateway(Handle(server))
    num_turns = 0

    async def others() -> None:
        nonlocal num_turns
        while True:
            num_turns += 1
            await asyncio.sleep(0)

    await backend._coordinators.link("", 5.0)
    working = asyncio.create_task(others())
    try:
        found = json.loads(await backend.trace("r") or b"null")
        assert found == brain.told()
        assert num_turns > 60, "others went on at each part"
        told = await asyncio.gather(*(backend.trace("r") for _ in range(5)), backend.trace("other"))
        assert [each is None for each in told] == [False] * 5 + [True]
        assert brain.most_reading == AT_ONCE
    finally:
        working.cancel()
        await backend.aclose()
        await server.close()


async def test_a_coordinator_that_stops_in_a_trace_is_an_error() -> None:
    class Stops(Long):
        async def trace_parts(self, request_id: str) -> AsyncGenerator[bytes, None]:
            if request_id == "r":
                yield b"{"
                await asyncio.Event().wait()

        async def trace_began(self, request_id: str) -> float | None:
            return 1.0

    roles = bench.Bench()
    server = LinkServer(Stops(await roles.coordinator()), COORDINATOR_METHODS, "a", 10)
    await server.start("127.0.0.1")
    backend = gateway(Handle(server))
    backend._traces._within_s = 0.2
    try:
        await backend._coordinators.link("", 5.0)
        with pytest.raises(RoleUnavailable, match="stopped telling it; ask again"):
            await backend.trace("r")
        with pytest.raises(RoleUnavailable, match="ask again"):
            await backend.trace("forgotten meanwhile")
    finally:
        await backend.aclose()
        await server.close()


def test_what_a_frozen_coordinator_may_have_is_not_said_to_be_nowhere() -> None:
    async def ask() -> None:
        backend = CoordinatorBackend(Frozen(), 5.0, {}, CoordinatorConfig())  # type: ignore[arg-type]
        with pytest.raises(RoleUnavailable, match="ask again"):
            await backend.trace("r")
        with pytest.raises(RoleUnavailable, match="ask again"):
            await fetch(backend, "r", "me")
        await backend.aclose()

    run_virtually(ask())


async def test_what_engines_count_is_told_with_their_names() -> None:
    engines = Handle(*(LinkServer(Engine(name), (), name, 10) for name in "ab"))
    writers: dict[str, Any] = {"target": engines}
    backend = CoordinatorBackend(Handle(), 5.0, writers, CoordinatorConfig())  # type: ignore[arg-type]
    for names in ("ab", "b"):
        text = await backend.metrics()
        for name in "ab":
            told = f'lookahead_token_num_drafts_total{{replica="{name}",role="target"}} 7.0\n' in text
            assert told == (name in names)
        engines.servers.pop(0)
    await backend.aclose()


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
