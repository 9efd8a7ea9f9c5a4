"""Coordinators and gateways that are replaced while streams can be fetched: none is lost, and no word twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from actors.errors import HandedOver, RoleUnavailable
from deployments import lingering
from deployments.app import COORDINATOR_METHODS, CoordinatorBackend, CoordinatorReplica, GatewayReplica
from deployments.gateway.rejoining import Manner, fetch
from deployments.generation import Committed, Finished, GenerationRequest, Keep, Output
from deployments.link.server import LinkServer
from tests.unit.coordinator import bench
from tests.unit.gateway.script import until
from tests.unit.gateway.test_asking_coordinators import Brain, Handle, gateway

TARGET = replace(bench.TARGET, token_s=0.01)
TRUTH = bench.truth(TARGET)
MANNER = str(Manner("r", True, 1, ("r",), 1, False))
KEPT = replace(bench.request(mode="target"), keep=Keep(30.0, "me", MANNER, "r"))


class Able(Brain):
    """What a coordinator's replica serves that has a target, or waits for one."""

    has_target = True

    async def can_write(self) -> bool:
        return self.has_target


@dataclass
class Rollout:
    """A coordinator that is to leave and another one that comes, and the gateway of before, which knows the first."""

    roles: bench.Bench
    brains: list[Able]
    servers: list[LinkServer]
    handle: Handle
    old: CoordinatorBackend

    def leave(self) -> asyncio.Task[None]:
        """Serve knows only the new one from now on; done when the former one has ended."""
        self.handle.servers[:] = self.servers[1:]
        brain = self.brains[0]
        replica: Any = SimpleNamespace(
            _server=self.servers[0], _keeper=brain.keeper, _coordinator=brain.coordinator, _roles={}
        )
        return asyncio.create_task(CoordinatorReplica.__del__(replica))


@asynccontextmanager
async def rollout() -> AsyncIterator[Rollout]:
    roles = bench.Bench(TARGET)
    async with AsyncExitStack() as stack:
        brains = [Able(await roles.coordinator()) for _ in range(2)]
        servers = [LinkServer(brain, COORDINATOR_METHODS, name, 10) for name, brain in zip("ab", brains, strict=True)]
        for brain, server in zip(brains, servers, strict=True):
            await server.start("127.0.0.1")
            stack.push_async_callback(brain.keeper.close)
            stack.push_async_callback(server.close)
        handle = Handle(servers[0])
        old = gateway(handle)
        stack.push_async_callback(old.aclose)
        yield Rollout(roles, brains, servers, handle, old)
    await asyncio.sleep(0)
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


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_client_that_reads_meanwhile_gets_every_word_once(is_kept: bool) -> None:
    """What cannot be fetched is written to its end by who began it."""
    async with rollout() as at:
        had: list[Output] = []
        reading = asyncio.create_task(read(at.old, KEPT if is_kept else replace(KEPT, keep=None), had))
        await until(lambda: len(had) > 5)
        await at.leave()
        assert at.brains[0].keeper.num_kept == 0
        await reading
        assert text(had) == TRUTH
        assert isinstance(had[-1], Finished)
        assert had[-1].summary.degraded == (("coordinator_resumed",) if is_kept else ())


@pytest.mark.parametrize("way", ["reads", "is away", "is away, and its gateway stops"])
async def test_a_gateway_that_came_later_finds_what_was_being_written(way: str) -> None:
    async with rollout() as at:
        had: list[Output] = []
        reading = asyncio.create_task(read(at.old, KEPT, had, 10**6 if way == "reads" else 5))
        await until(lambda: len(had) >= 5)
        stopping = None
        if way == "is away, and its gateway stops":
            replica: Any = SimpleNamespace(_backend=at.old)
            stopping = asyncio.create_task(GatewayReplica.__del__(replica))
            await asyncio.sleep(0.02)
        await at.leave()
        await until(lambda: at.brains[1].keeper.num_kept == 1)
        young = gateway(at.handle)
        _, (found,), _ = await fetch(young, "r", "me")
        assert found.resume is not None
        begun = "".join(written for _, written in found.resume.texts)
        assert begun.startswith(text(had[:5]))
        rest: list[Output] = []
        await read(young, found, rest)
        assert begun + text(rest) == TRUTH
        if way == "reads":
            with pytest.raises(HandedOver):
                await reading
        for backend in (young, at.old):
            await backend.aclose()
        if stopping is not None:
            await stopping


async def test_a_gateway_that_came_later_finds_what_had_ended() -> None:
    async with rollout() as at:
        await read(at.old, KEPT, [], 5)
        await until(lambda: at.roles.target_engine.num_running() == 0)
        await asyncio.sleep(0.02)
        await at.leave()
        await until(lambda: at.brains[1].keeper.num_kept == 1)
        young = gateway(at.handle)
        _, (found,), _ = await fetch(young, "r", "me")
        assert found.resume is not None
        assert "".join(written for _, written in found.resume.texts) == TRUTH
        assert at.roles.target_engine.num_generations == 1
        await young.aclose()


async def test_nothing_moves_to_one_that_cannot_write_and_whoever_asks_is_told_to_ask_again(
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
            await fetch(young, "r", "me")
        assert not leaving.done()
        at.brains[1].has_target = True
        await leaving
        assert not reading.done()
        assert await young.hand_over("another", "me") == []
        await reading
        assert text(had) == TRUTH
        await young.aclose()


async def test_a_gateway_that_stops_waits_as_long_as_a_client_may_come_back() -> None:
    async with rollout() as at:
        keep = Keep(0.1, "me", MANNER, "r")
        await read(at.old, replace(KEPT, keep=keep), [], 5)
        begun = asyncio.get_running_loop().time()
        await at.old.drain()
        assert asyncio.get_running_loop().time() - begun > 0.09
        assert at.roles.target_engine.num_running() == 0, "the coordinator knows that nobody has come"
        assert at.brains[0].keeper.num_kept == 0
