"""What a gateway gets from its coordinators when Serve knows of none, and when some are leaving: no failure, and no
stream is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from actors.errors import HandedOver, RoleUnavailable
from deployments import lingering
from deployments.app import ASK_S, CoordinatorBackend, GatewayReplica
from deployments.config import CoordinatorConfig
from deployments.coordinator.keeper import Keeper
from deployments.generation import Committed, Finished, GenerationRequest, Keep, Opened, Output
from deployments.link.frames import Address
from deployments.link.server import LinkServer
from tests.unit.clock import run_virtually
from tests.unit.coordinator import bench
from tests.unit.gateway.script import until

TARGET = replace(bench.TARGET, token_s=0.01)
TRUTH = bench.truth(TARGET)
KEPT = replace(bench.request(mode="target"), keep=Keep(30.0, "me", "{}", "r"))


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
        self.has_target = True

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        return self.keeper.generate(request)

    async def hand_over(self, *asked: Any) -> list[GenerationRequest]:
        return await self.keeper.hand_over(*asked)

    async def readiness(self) -> dict[str, bool]:
        return {"target": self.has_target}


class Frozen:
    """A handle to replicas that never answer."""

    def broadcast(self, method: str) -> Frozen:
        return self

    async def _fetch_replica_results_async(self) -> list[Reply]:
        return [Reply(asyncio.Event().wait)]


METHODS = {"generate", "hand_over", "readiness"}


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
    server = LinkServer(brain, METHODS, "a", 10)
    await server.start("127.0.0.1")
    handle = Handle(server)
    first, second = gateway(handle), gateway(handle)
    try:
        for backend in (first, second):
            name = f"r{backend is second}"
            async with aclosing(backend.generate(replace(KEPT, request_id=name))) as outputs:  # type: ignore[type-var]
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


@dataclass
class Rollout:
    """A coordinator that is to leave, another one that comes, and the gateway of before, which knows the first one."""

    roles: bench.Bench
    brains: list[Brain]
    servers: list[LinkServer]
    handle: Handle
    old: CoordinatorBackend

    def leave(self) -> asyncio.Task[None]:
        """Serve knows only the new one from now on; done when the old one has nothing to do any more."""
        self.handle.servers[:] = self.servers[1:]
        return asyncio.create_task(self.servers[0].drain())


@asynccontextmanager
async def rollout() -> AsyncIterator[Rollout]:
    roles = bench.Bench(TARGET)
    async with AsyncExitStack() as stack:
        brains = [Brain(await roles.coordinator()) for _ in range(2)]
        servers = [LinkServer(brain, METHODS, name, 10) for name, brain in zip("ab", brains, strict=True)]
        for brain, server in zip(brains, servers, strict=True):
            await server.start("127.0.0.1")
            stack.push_async_callback(brain.keeper.close)
            stack.push_async_callback(server.close)
        handle = Handle(servers[0])
        old = gateway(handle)
        stack.push_async_callback(old.aclose)
        yield Rollout(roles, brains, servers, handle, old)
    assert roles.target_engine.num_running() == 0


async def read(backend: CoordinatorBackend, request: GenerationRequest, into: list[Output], num: int = 10**6) -> None:
    """So many outputs at most; then the client is gone."""
    async with aclosing(backend.generate(request)) as outputs:  # type: ignore[type-var]
        async for output in outputs:
            into.append(output)
            if len(into) == num:
                return


def text(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Committed))


async def test_a_client_that_reads_while_coordinators_are_replaced_gets_every_word_once() -> None:
    async with rollout() as at:
        had: list[Output] = []
        reading = asyncio.create_task(read(at.old, KEPT, had))
        await until(lambda: len(had) > 5)
        await at.leave()
        assert not reading.done()
        assert at.brains[0].keeper.num_kept == 0
        await reading
        assert text(had) == TRUTH
        assert isinstance(had[-1], Finished)
        assert had[-1].summary.degraded == ("coordinator_resumed",)


@pytest.mark.parametrize("way", ["reads", "is away", "is away, gateway stops"])
async def test_a_gateway_that_came_later_finds_what_a_coordinator_that_leaves_was_writing(way: str) -> None:
    async with rollout() as at:
        had: list[Output] = []
        reading = asyncio.create_task(read(at.old, KEPT, had, 10**6 if way == "reads" else 5))
        await until(lambda: len(had) >= 5)
        stopping: asyncio.Future[Any] = asyncio.gather()
        if way == "is away, gateway stops":
            stopping = asyncio.ensure_future(GatewayReplica.__del__(SimpleNamespace(_backend=at.old)))  # type: ignore[arg-type]
            await asyncio.sleep(0.02)
        await at.leave()
        await until(lambda: at.brains[1].keeper.num_kept == 1)
        young = gateway(at.handle)
        (found, *_) = await young.hand_over("r", "me")
        assert found.resume is not None
        begun = "".join(written for _, written in found.resume.texts)
        assert begun.startswith(text(had[:5]))
        rest: list[Output] = []
        await read(young, replace(found, num_takeovers=0), rest)
        assert begun + text(rest) == TRUTH
        if way == "reads":
            with pytest.raises(HandedOver):
                await reading
        for backend in (young, at.old):
            await backend.aclose()
        await stopping


async def test_a_gateway_that_came_later_finds_what_had_ended_at_a_coordinator_that_leaves() -> None:
    async with rollout() as at:
        had: list[Output] = []
        await read(at.old, KEPT, had, 5)
        await until(lambda: at.roles.target_engine.num_running() == 0)
        await asyncio.sleep(0.02)
        await at.leave()
        await until(lambda: at.brains[1].keeper.num_kept == 1)
        young = gateway(at.handle)
        (found,) = await young.hand_over("r", "me")
        assert found.is_finished
        assert at.roles.target_engine.num_generations == 1
        await young.aclose()


async def test_nothing_moves_to_a_coordinator_that_cannot_write_and_whoever_asks_is_told_to_ask_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The target is replaced as well, and takes longer to start."""
    monkeypatch.setattr(lingering, "TRY_AGAIN_S", 0.01)
    async with rollout() as at:
        at.brains[1].has_target = False
        had: list[Output] = []
        reading = asyncio.create_task(read(at.old, KEPT, had))
        await until(lambda: len(had) >= 5)
        leaving = at.leave()
        await until(lambda: len(at.old._coordinators.links) == 2)
        young = gateway(at.handle)
        with pytest.raises(RoleUnavailable, match="ask again"):
            await young.hand_over("r", "me")
        assert not leaving.done()
        at.brains[1].has_target = True
        await leaving
        assert not reading.done()
        assert await young.hand_over("another", "me") == []
        await reading
        assert text(had) == TRUTH
        await young.aclose()


async def test_what_cannot_be_fetched_is_written_to_its_end_by_who_began_it() -> None:
    async with rollout() as at:
        had: list[Output] = []
        reading = asyncio.create_task(read(at.old, replace(KEPT, keep=None), had))
        await until(lambda: len(had) >= 5)
        await at.leave()
        await reading
        assert text(had) == TRUTH
        assert isinstance(had[-1], Finished)
        assert had[-1].summary.degraded == ()


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
