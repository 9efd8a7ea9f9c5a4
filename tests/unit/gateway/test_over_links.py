"""Coordinators behind real links of this machine: the road of production, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from actors.errors import RoleUnavailable
from deployments.coordinator.keeper import Keeper
from deployments.coordinator.pools import Pool
from deployments.gateway.unbroken import Perseverance, Unbroken
from deployments.generation import Committed, Finished, GenerationRequest, Keep, Opened, Output
from deployments.link.members import Members
from deployments.link.server import LinkServer
from tests.unit.coordinator import bench
from tests.unit.gateway.script import until

TARGET = replace(bench.TARGET, num_steps=5, words=4, token_s=0.004)
DRAFT = replace(TARGET, role="draft", token_s=0.0005, agree=0.5)
TRUTH = bench.truth(TARGET)


class Brain:
    """What a coordinator's replica serves."""

    def __init__(self, roles: bench.Bench, coordinator: bench.Coordinator) -> None:
        self.roles = roles
        self.keeper = Keeper(coordinator.generate, 10, 10**6)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        return self.keeper.generate(request)

    @property
    def num_running(self) -> int:
        return self.roles.target_engine.num_running() + self.roles.draft_engine.num_running()


@dataclass
class Two:
    """Two coordinators, their servers, and the gateway's end."""

    brains: list[Brain]
    servers: list[LinkServer]
    unbroken: Unbroken


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        brains, servers = [], []
        for name in "ab":
            roles = bench.Bench(TARGET, DRAFT)
            brain = Brain(roles, await roles.coordinator())
            server = LinkServer(brain, {"generate"}, name, 10)
            await server.start("127.0.0.1")
            stack.push_async_callback(brain.keeper.close)
            stack.push_async_callback(server.close)
            brains.append(brain)
            servers.append(server)

        async def announce() -> list[object]:
            return [server.address for server in servers]

        members = Members("coordinator", announce)  # type: ignore[arg-type]
        stack.push_async_callback(members.aclose)
        pool = Pool(members, 5.0)
        yield Two(brains, servers, Unbroken(lambda r: pool.items("generate", r.request_id, r)))
        await until(lambda: all(not brain.num_running for brain in brains))


@pytest.mark.parametrize("mode", ["target", "lookahead"])
async def test_a_server_that_is_gone_costs_no_word(mode: str) -> None:
    async with two() as both:
        outputs: list[Output] = []
        async with aclosing(both.unbroken.generate(bench.request(mode=mode, verifier="exact"))) as answers:
            async for output in answers:
                outputs.append(output)
                if len(outputs) == 5:
                    used = next(server for server in both.servers if server.num_calls)
                    await used.close()
        assert "".join(o.text for o in outputs if isinstance(o, Committed)) == TRUTH
        assert [type(o) for o in outputs].count(Opened) == 1
        assert isinstance(outputs[-1], Finished)
        assert outputs[-1].summary.degraded == ("coordinator_resumed",)


async def test_what_a_gateway_leaves_behind_is_written_on_and_handed_over() -> None:
    async with two() as both:
        asked = replace(bench.request(mode="target"), keep=Keep(30.0, "me", "{}", "r"))
        had: list[Output] = []
        async with aclosing(both.unbroken.generate(asked)) as answers:
            async for output in answers:
                had.append(output)
                if len(had) == 5:
                    break
        await asyncio.sleep(0.1)
        assert sum(brain.num_running for brain in both.brains) == 1, "the link's end has not ended it"
        (found,) = [request for brain in both.brains for request in await brain.keeper.hand_over("r", "me")]
        assert found.resume is not None
        begun = "".join(text for _, text in found.resume.texts)
        assert begun.startswith("".join(o.text for o in had if isinstance(o, Committed)))
        async with aclosing(both.unbroken.generate(found)) as answers:
            rest = [output async for output in answers]
        assert begun + "".join(o.text for o in rest if isinstance(o, Committed)) == TRUTH


async def test_what_a_coordinators_defect_says_stays_in_its_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: Brain, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        raise ValueError("secret")
        yield

    monkeypatch.setattr(Brain, "generate", broken)
    async with two() as both:
        unbroken = Unbroken(both.unbroken._generate, Perseverance(max_attempts=1))
        with pytest.raises(RoleUnavailable, match="generate failed inside the server") as caught:
            async with aclosing(unbroken.generate(bench.request())) as answers:
                await anext(answers)
    assert "secret" not in str(caught.value)
    assert "secret" in caplog.text
