"""What a coordinator reports of its requests, and that nobody waits for a draft that is scaled to zero."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from actors.draft import Draft
from actors.messages import Prompt, RoleInfo, TokenIds
from deployments.generation import Committed, Finished
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Bench, config, request

NOTHING = {
    "requests": 0,
    "speculating": 0,
    "waiting_requests": 0,
    "waiting_tokens": 0,
    "target_calls": 0,
    "draft_calls": 0,
    "verifier_calls": 0,
}


def test_requests_and_their_calls_are_reported_while_they_run_and_not_after() -> None:
    bench = Bench(TARGET, DRAFT)

    async def watch() -> None:
        coordinator = await bench.coordinator()
        seen = []

        async def ask(number: int, mode: str) -> None:
            one = replace(request(mode=mode, verifier="never", controller=False), request_id=str(number))
            async for output in coordinator.generate(one):
                if isinstance(output, Committed):
                    seen.append(coordinator.demand())

        assert coordinator.demand() == NOTHING
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(1, "lookahead"))
            group.create_task(ask(2, "target"))
            await asyncio.sleep(0.05)
            begun = coordinator.demand()
        assert begun["requests"] == begun["waiting_requests"] == 2
        assert begun["waiting_tokens"] > 0
        assert begun["speculating"] == 1
        assert max(one["target_calls"] for one in seen) > 2  # several positions of one request
        assert max(one["draft_calls"] for one in seen) == 1
        assert coordinator.demand() == NOTHING

    run_virtually(watch())


def test_a_client_that_leaves_takes_its_demand_with_it() -> None:
    bench = Bench()

    async def leave() -> None:
        coordinator = await bench.coordinator()
        async with aclosing(coordinator.generate(request(verifier="never"))) as outputs:
            await anext(outputs)
            assert coordinator.demand()["requests"] == 1
        assert coordinator.demand() == NOTHING

    run_virtually(leave())


def test_a_stream_counts_as_a_call_until_its_end() -> None:
    bench = Bench()

    async def watch() -> list[float]:
        coordinator = await bench.coordinator()
        outputs = coordinator.generate(request(mode="target"))
        return [coordinator.demand()["target_calls"] async for output in outputs if isinstance(output, Committed)]

    calls = run_virtually(watch())
    assert set(calls[:-1]) == {1}, "its steps' ends are not the call's"


class Away(Draft):
    """A draft without a replica: calls wait for one."""

    num_asked = 0

    async def encode(self, prompt: Prompt) -> TokenIds:
        self.num_asked += 1
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")


class Gone(Away):
    """It does not even say what it is."""

    async def describe(self) -> RoleInfo:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")


@pytest.mark.parametrize("kind", [Away, Gone])
def test_nobody_waits_for_a_draft_that_is_scaled_to_zero(kind: type[Away]) -> None:
    bench = Bench(replace(TARGET, hint_gain=2.0), DRAFT, config(draft_retry_s=2.0))
    drafter = kind(bench.draft_engine)
    bench.roles = replace(bench.roles, drafter=drafter)

    async def ask_on_and_on() -> tuple[list[float], float]:
        coordinator, loop, waits = await bench.coordinator(), asyncio.get_running_loop(), []
        for number in range(30):
            start, first = loop.time(), None
            async for output in coordinator.generate(replace(request(), request_id=str(number))):
                first = first or (loop.time() - start if isinstance(output, Committed) else None)
            assert isinstance(output, Finished)
            waits.append(first or 0.0)
        return waits, loop.time()

    waits, elapsed_s = run_virtually(ask_on_and_on())
    alone = min(waits)
    assert alone < 0.2
    assert 0.9 < waits[0] - alone < 1.1  # the first one cannot know, and waits once
    # After 0, 2, 6, 14, 30 seconds, and then one request in each 30: nobody else.
    assert sum(wait - alone > 0.1 for wait in waits) <= 5 + elapsed_s / 30


class Mum(Draft):
    """A draft that renders prompts and does not say what it is."""

    async def describe(self) -> RoleInfo:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")


def test_nobody_waits_again_at_once_for_a_draft_that_does_not_say_what_it_is() -> None:
    bench = Bench(replace(TARGET, hint_gain=2.0, num_steps=1), DRAFT, config(draft_retry_s=20.0))
    bench.roles = replace(bench.roles, drafter=Mum(bench.draft_engine))

    async def ask_on_and_on() -> list[float]:
        coordinator, loop, waits = await bench.coordinator(), asyncio.get_running_loop(), []
        for number in range(4):
            start = loop.time()
            async with aclosing(coordinator.generate(replace(request(), request_id=str(number)))) as outputs:
                await anext(outputs)
                waits.append(loop.time() - start)
        return waits

    assert run_virtually(ask_on_and_on()) == pytest.approx([1.0, 0.0, 0.0, 0.0])


def test_a_draft_that_comes_back_is_used_by_the_next_request() -> None:
    bench = Bench(TARGET, DRAFT, config(draft_retry_s=2.0))
    drafter = Away(bench.draft_engine)
    there = bench.roles
    bench.roles = replace(bench.roles, drafter=drafter)

    async def ask_twice() -> int:
        coordinator = await bench.coordinator()
        async for _ in coordinator.generate(request()):
            pass
        coordinator._roles = replace(coordinator._roles, drafter=there.drafter)
        outputs = [output async for output in coordinator.generate(replace(request(), request_id="second"))]
        assert isinstance(outputs[-1], Finished)
        return outputs[-1].summary.num_draft_steps

    assert run_virtually(ask_twice()) > 0


def test_a_request_whose_draft_refuses_it_wants_no_draft() -> None:
    bench = Bench(TARGET, replace(DRAFT, max_model_len=3))

    async def watch() -> list[float]:
        coordinator = await bench.coordinator()
        outputs = coordinator.generate(request(mode="lookahead", verifier="exact"))
        return [coordinator.demand()["speculating"] async for output in outputs if isinstance(output, Committed)]

    assert set(run_virtually(watch())) == {0}
