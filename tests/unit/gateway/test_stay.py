"""What a resumable stream holds of its key's limits and of the gateway's places, with and without its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from actors.errors import HandedOver
from deployments.coordinator.keeper import Keeper
from deployments.gateway.stay import Stay
from deployments.generation import Committed, GenerationRequest, Opened, Output
from deployments.lingering import Lingering
from tests.unit.clock import run_virtually
from tests.unit.gateway.script import chat, until
from tests.unit.gateway.test_rejoining import RESUMABLE, TARGET, House, ask, come_back, hear, house
from tests.unit.gateway.test_two_texts import ASKED, Writer

MINE = {"Authorization": "Bearer k"}
TARGET_ALONE = {"mode": "target"}


def key(**limits: int) -> list[dict[str, Any]]:
    return [{"key": "k", "name": "alice", "limits": limits}]


def slowly(at: House, token_s: float) -> None:
    at.roles.target_engine._options = replace(TARGET, token_s=token_s, num_steps=20)  # type: ignore[attr-defined]


async def begin(at: House, name: str = "r") -> str:
    """A stream whose client leaves after two events; the id of the last one."""
    heard = await ask(at, 2, {**MINE, "x-request-id": name}, speculation=TARGET_ALONE)
    return heard.ids[-1]


async def post(at: House, gate: int = 0, **more: Any) -> httpx.Response:
    body = {**chat(**more), "model": "m", "speculation": TARGET_ALONE, "max_tokens": 1}
    return await at.client.post(f"{at.urls[gate]}/v1/chat/completions", json=body, headers=MINE)


async def tokens_left(at: House, gate: int = 0) -> int:
    refused = await at.client.post(f"{at.urls[gate]}/v1/chat/completions", json={}, headers=MINE)
    return int(refused.headers["x-ratelimit-remaining-tokens"])


async def sample(at: House, gate: int, name: str) -> int:
    lines = (await at.client.get(f"{at.urls[gate]}/metrics")).text.splitlines()
    return round(float(next(line for line in lines if line.startswith(f"{name}{{")).split()[-1]))


async def num_admitted(at: House, gate: int) -> int:
    return await sample(at, gate, "lookahead_admitted_generations")


async def until_sample(at: House, gate: int, name: str, number: int) -> None:
    for _ in range(200):
        if await sample(at, gate, name) == number:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError(f"{name} of gateway {gate} was never {number}")


async def until_admitted(at: House, gate: int, number: int) -> None:
    """A response is over a moment after its last byte."""
    await until_sample(at, gate, "lookahead_admitted_generations", number)


async def test_a_stream_that_its_client_has_left_counts_until_it_ends() -> None:
    async with house(api_keys=key(concurrency=1)) as at:
        slowly(at, 0.01)
        await begin(at)
        for _ in range(3):
            assert (await post(at)).status_code == 429
        assert (at.num_running(), await num_admitted(at, 0)) == (1, 1)
        slowly(at, 0.0)
        await until(lambda: at.num_running() == 0)
        assert (await post(at)).status_code == 200
        await until_admitted(at, 0, 0)


async def test_nobody_comes_back_and_all_is_given_back() -> None:
    async with house(api_keys=key(concurrency=1), resume_s=0.1) as at:
        slowly(at, 1.0)
        await begin(at)
        assert (await post(at)).status_code == 429
        await until(lambda: at.num_running() == 0)
        slowly(at, 0.0)
        assert (await post(at)).status_code == 200
        await until_admitted(at, 0, 0)


async def test_whoever_takes_a_stream_over_frees_the_gateway_before() -> None:
    async with house(api_keys=key(concurrency=1)) as at:
        slowly(at, 0.02)
        last_id = await begin(at)
        url = f"{at.urls[1]}/v1/streams/r"
        async with at.client.stream("GET", url, headers={**MINE, "Last-Event-ID": last_id}) as response:
            await hear(response, 2)
            await until_admitted(at, 0, 0)
            await until_admitted(at, 1, 1)
            assert (await post(at, 1)).status_code == 429
            slowly(at, 0.0)
            assert (await post(at, 0)).status_code == 200


async def test_a_stream_that_its_client_comes_back_to_goes_on_whoever_waits() -> None:
    async with house(admission={"max_concurrent": 1, "max_waiting": 4}) as at:
        slowly(at, 0.01)
        last_id = await begin(at)
        body = {**chat(), "model": "m", "speculation": TARGET_ALONE}
        url = f"{at.urls[0]}/v1/chat/completions"
        waiting = [asyncio.create_task(at.client.post(url, json=body)) for _ in range(2)]
        await until_sample(at, 0, "lookahead_queue_requests", 2)
        assert (await at.client.post(url, json=body)).status_code == 429, "the queue is full"
        rest = await come_back(at, last_id, gate=0)
        assert rest.data[-1] == "[DONE]"
        assert not any(task.done() for task in waiting)
        slowly(at, 0.0)
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
        await until_admitted(at, 0, 0)


@pytest.mark.parametrize(("last_id", "status"), [("r/99999", 400), ("r/1.1", 400), (None, 429)])
async def test_a_stream_whose_fetch_is_refused_is_written_on_and_counts(last_id: str | None, status: int) -> None:
    async with house(api_keys=key(concurrency=1)) as at, httpx.AsyncClient() as other:
        heard = await ask(at, None, {**MINE, "x-request-id": "whole"}, speculation=TARGET_ALONE)
        at.roles.target_engine._options = replace(TARGET, token_s=0.05)  # type: ignore[attr-defined]
        await begin(at)
        url = f"{at.urls[1]}/v1/streams/r"
        body = {**chat(stream=True), "model": "m", "speculation": TARGET_ALONE, "max_tokens": 1000}
        running = other.stream("POST", f"{at.urls[1]}/v1/chat/completions", json=body, headers=MINE)
        async with running if status == 429 else AsyncExitStack():
            refused = await at.client.get(url, headers=MINE | ({"Last-Event-ID": last_id} if last_id else {}))
            assert refused.status_code == status, refused.text
        await until(lambda: at.num_running() == 1)
        await until_admitted(at, 0, 0)
        await until_admitted(at, 1, 1)
        assert (await post(at, 1)).status_code == 429, "it runs on"
        at.roles.target_engine._options = replace(TARGET, token_s=0.0)  # type: ignore[attr-defined]
        await until(lambda: at.num_running() == 0)
        rest = await come_back(at, None, **MINE)
        assert rest.text() == heard.text()
        await until_admitted(at, 1, 0)


@pytest.mark.parametrize("token_s", [0.02, 0.0])
async def test_ones_own_dead_connection_keeps_nobody_out(token_s: float) -> None:
    """The network is gone, and nobody has told the server."""
    async with house(api_keys=key(concurrency=1)) as at, httpx.AsyncClient() as old:
        slowly(at, token_s)
        body = {**chat(stream=True), "model": "m", "speculation": TARGET_ALONE, "temperature": 0}
        headers = {**MINE, **RESUMABLE, "x-request-id": "r"}
        async with old.stream("POST", f"{at.urls[0]}/v1/chat/completions", json=body, headers=headers) as lost:
            first = await hear(lost, 3)
            slowly(at, 0.0)
            rest = await come_back(at, first.ids[-1], gate=0, **MINE)
            assert rest.data[-1] == "[DONE]"


async def test_each_token_is_charged_once_whoever_reads_it() -> None:
    async with house(clock=lambda: 0.0, api_keys=key(tokens_per_minute=10_000)) as at:
        heard = await ask(at, None, {**MINE, "x-request-id": "whole"}, speculation=TARGET_ALONE)
        used = heard.data[-2]["usage"]["total_tokens"]
        assert 10_000 - await tokens_left(at) == used
        await begin(at)
        await until(lambda: at.num_running() == 0)
        assert 10_000 - await tokens_left(at) == 2 * used, "what nobody has read is charged"
        for _ in range(2):
            await come_back(at, None, gate=0, **MINE)
        assert 10_000 - await tokens_left(at) == 2 * used, "what is fetched again is not"


async def test_what_is_written_after_a_fetch_is_charged_there() -> None:
    async with house(clock=lambda: 0.0, api_keys=key(tokens_per_minute=10_000)) as at:
        heard = await ask(at, None, {**MINE, "x-request-id": "whole"}, speculation=TARGET_ALONE)
        used = heard.data[-2]["usage"]["total_tokens"]
        at.roles.target_engine._options = replace(TARGET, token_s=0.01)  # type: ignore[attr-defined]
        await come_back(at, await begin(at), **MINE)
        first, second = 10_000 - await tokens_left(at, 0) - used, 10_000 - await tokens_left(at, 1)
        assert 0 < second < used
        assert first + second == pytest.approx(used, abs=2), "an output that is on its way is lost"


async def test_who_has_overdrawn_may_come_back_but_not_too_often() -> None:
    async with house(clock=lambda: 0.0, api_keys=key(tokens_per_minute=5, requests_per_minute=3)) as at:
        last_id = await begin(at)
        assert (await post(at)).status_code == 429
        for _ in range(2):
            assert (await come_back(at, last_id, gate=0, **MINE)).data[-1] == "[DONE]"
        refused = await at.client.get(f"{at.urls[0]}/v1/streams/r", headers=MINE)
        assert refused.status_code == 429
        assert "requests a minute" in refused.json()["error"]["message"]


async def read_to_the_end(reading: AsyncGenerator[Output, None]) -> None:
    async for _ in reading:
        pass


@pytest.mark.parametrize("is_same_gateway", [True, False])
def test_who_reads_nothing_and_comes_back_is_charged_what_was_written(is_same_gateway: bool) -> None:
    """What waits on its way for a slow reader is counted where the stream was read, before it is handed over."""

    async def come_back() -> None:
        keeper, charged = Keeper(Writer("a", 0.1, 1000).generate, 10, 10**6), 0

        def count(request: GenerationRequest, output: Output) -> None:
            nonlocal charged
            charged += output.num_tokens if isinstance(output, Committed) else 0

        gateways = [Lingering(keeper.generate, keeper.hand_over, 10, 10**6) for _ in range(2)]
        reading = gateways[0].generate(ASKED, Stay(count, ExitStack(), 1))
        assert isinstance(await anext(reading), Opened)
        await asyncio.sleep(60.0)
        (found, *_) = await gateways[not is_same_gateway].hand_over("r", "me")
        assert isinstance(found, GenerationRequest)
        with pytest.raises(HandedOver):
            await read_to_the_end(reading)
        await asyncio.sleep(0.1)
        assert found.resume is not None
        assert found.resume.num_tokens > 120
        assert charged == pytest.approx(found.resume.num_tokens, abs=3)
        for each in (*gateways, keeper):
            await each.close()

    run_virtually(come_back())
