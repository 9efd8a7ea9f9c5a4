"""Resumable streams of several choices that end at different times: all of them can be fetched as long as one can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from actors.errors import ContextTooLong, RoleUnavailable
from deployments.coordinator.keeper import Keeper
from deployments.gateway.bookmarks import Mark
from deployments.gateway.generations import Generations
from deployments.gateway.rejoining import Manner, Rest, fetch
from deployments.gateway.stay import Held, Stay
from deployments.gateway.unbroken import Unbroken
from deployments.generation import Committed, GenerationRequest, Keep, Opened, Output
from deployments.lingering import Lingering
from tests.unit.clock import run_virtually
from tests.unit.coordinator import bench
from tests.unit.gateway.script import ScriptedBackend, client_of, shared_app
from tests.unit.gateway.test_rejoining import RESUMABLE, TARGET, Heard, House, all_finished, come_back, hear, house
from tests.unit.gateway.test_two_texts import Writer

NAMES = ("r-0", "r-1")
MANNER = str(Manner("r", True, 1, NAMES, 2, False))
ASKED = [
    replace(bench.request(), request_id=name, keep=Keep(1.0, "me", MANNER, "r"), timeout_s=100.0) for name in NAMES
]


class Coordinators:
    """Several; each time that a stream is asked for or fetched, another one gets it. The first choice has one word, the
    second sixty, of 0.1 s each."""

    def __init__(self) -> None:
        self.keepers = [Keeper(self._write, 10, 10**6) for _ in range(4)]
        self.now = 0

    def _write(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        return Writer("a", 0.1, 1 if request.request_id == "r-0" else 60).generate(request)

    def gateway(self) -> Lingering:
        keeper = self.keepers[self.now]
        self.now += 1
        return Lingering(Unbroken(keeper.generate).generate, self.hand_over, 10, 10**6)

    async def hand_over(self, *asked: Any) -> list[GenerationRequest]:
        return [found for keeper in self.keepers for found in await keeper.hand_over(*asked)]


async def listen(generate: Any, requests: Sequence[GenerationRequest], seconds: float) -> list[str]:
    """What a client hears of each request that leaves after so long."""
    texts = [""] * len(requests)

    async def one(at: int) -> None:
        async with aclosing(generate(requests[at])) as outputs:
            async for output in outputs:
                texts[at] += output.text if isinstance(output, Committed) else ""

    tasks = [asyncio.create_task(one(at)) for at in range(len(requests))]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return texts


def test_the_connection_may_be_lost_again_and_again_long_after_a_choice_has_ended() -> None:
    async def lose() -> None:
        coordinators = Coordinators()
        gateways = [coordinators.gateway()]
        await listen(gateways[0].generate, ASKED, 1.5)
        for lasts_s in (1.5, 1.5, 60.0):
            gateways.append(coordinators.gateway())
            _, requests, _ = await fetch(gateways[-1], "r", "me")  # type: ignore[arg-type]
            heard = await listen(Rest(gateways[-1], requests, [Mark(), Mark()]).generate, requests, lasts_s)
        assert heard[0] == "a0 "
        assert heard[1].split() == [f"a{number}" for number in range(60)]
        await asyncio.sleep(1.1)
        assert sum(keeper.num_kept for keeper in coordinators.keepers) == 0
        for each in (*gateways, *coordinators.keepers):
            await each.close()

    run_virtually(lose())


@pytest.mark.parametrize("is_fetched", [False, True])
def test_a_text_that_is_finished_is_kept_until_its_client_has_read_it_and_its_time_is_over(is_fetched: bool) -> None:
    async def read_slowly() -> None:
        coordinators = Coordinators()
        gateways = [coordinators.gateway()]
        source, requests = gateways[0].generate, ASKED
        if is_fetched:
            await listen(source, requests, 7.0)
            gateways.append(coordinators.gateway())
            _, requests, _ = await fetch(gateways[1], "r", "me")  # type: ignore[arg-type,assignment]
            source = Rest(gateways[1], requests, [Mark(), Mark()]).generate  # type: ignore[assignment]
        backend = SimpleNamespace(generate=source)
        async with Generations(backend, requests, 100.0) as generations:
            await generations.open()
            await asyncio.sleep(10.0)
            while not generations.is_done:
                await generations.receive()
        for waits_s, num_found in ((0.9, 2), (1.1, 0)):
            await asyncio.sleep(waits_s)
            assert len(await gateways[-1].hand_over("r", "me")) == num_found
        for each in (*gateways, *coordinators.keepers):
            await each.close()

    run_virtually(read_slowly())


def test_what_is_answered_with_an_error_is_not_written_on() -> None:
    """One of two prompts is too long: nobody was sent an event that he could come back with."""

    ended = asyncio.Event()

    async def generate(request: GenerationRequest) -> AsyncGenerator[Output, None]:
        if request.request_id == "r-1":
            await asyncio.sleep(0.05)
            raise ContextTooLong("The prompt has too many tokens.")
        try:
            async with aclosing(Writer("a", 0.1).generate(request)) as outputs:
                async for output in outputs:
                    yield output
        finally:
            ended.set()

    async def refuse() -> None:
        keeper, leaving, left = Keeper(generate, 10, 10**6), ExitStack(), asyncio.Event()
        gateway = Lingering(keeper.generate, keeper.hand_over, 10, 10**6)
        leaving.callback(left.set)
        held = Held(gateway, Stay(lambda *_: None, leaving, len(ASKED)))  # type: ignore[arg-type]
        with leaving, pytest.raises(ContextTooLong):
            async with Generations(held, ASKED, 100.0) as generations:
                await generations.open()
        async with asyncio.timeout(0.1):
            await asyncio.gather(left.wait(), ended.wait())
        for each in (gateway, keeper):
            await each.close()

    run_virtually(refuse())


async def test_what_is_not_whole_is_put_back() -> None:
    backend = ScriptedBackend(lambda request: [60.0])
    backend.kept = all_finished(2)[:1]
    standing = backend.kept[0].resume
    assert standing is not None
    backend.kept = [replace(backend.kept[0], resume=replace(standing, finished=None))]
    async with client_of(shared_app(backend)) as client:
        answer = await client.get("/v1/streams/r")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "stream_not_found")
    assert [(each.request_id, each.keep and each.keep.fetched_at > 0) for each in backend.requests] == [("r-0", True)]
    assert backend.ends == {"r-0": "closed"}, "nobody reads it"


async def test_where_a_coordinator_does_not_answer_the_missing_choice_may_be_there() -> None:
    class Partly(ScriptedBackend):
        async def hand_over(self, stream_id: str, owner: str) -> Sequence[GenerationRequest | Exception]:
            return [*await super().hand_over(stream_id, owner), RoleUnavailable("It says nothing.")]

    backend = Partly()
    backend.kept = all_finished(2)
    async with client_of(shared_app(backend)) as client:
        assert (await client.get("/v1/streams/r")).text.endswith("data: [DONE]\n\n"), "both are there"
        backend.requests.clear()
        backend.kept.pop()
        answer = await client.get("/v1/streams/r")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "role_unavailable")
    assert "ask again" in answer.json()["error"]["message"]
    assert [each.request_id for each in backend.requests] == ["r-0"], "what was found is put back"


@pytest.mark.parametrize(("trouble", "status"), [([], 400), ([RoleUnavailable("It says nothing.")], 503)])
async def test_where_the_client_has_more_than_was_found_that_is_not_taken_for_the_latest(
    trouble: list[Exception], status: int
) -> None:
    class Partly(ScriptedBackend):
        async def hand_over(self, stream_id: str, owner: str) -> Sequence[GenerationRequest | Exception]:
            return [*await super().hand_over(stream_id, owner), *trouble]

    backend = Partly()
    backend.kept = all_finished(2)
    async with client_of(shared_app(backend)) as client:
        answer = await client.get("/v1/streams/r", headers={"Last-Event-ID": "r/3.99"})
    assert answer.status_code == status
    put_back = [each.keep and each.keep.fetched_at for each in backend.requests]
    assert put_back == ([] if trouble else [0.0, 0.0]), "others may have gone further"


def test_of_a_stream_that_cannot_be_ended_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def hand_over(*asked: Any) -> list[Exception]:
        await asyncio.sleep(1.0)
        return [RoleUnavailable("It says nothing.")]

    async def leave() -> None:
        gateway = Lingering(Writer("a", 0.1).generate, hand_over, 10, 10**6)
        await listen(gateway.generate, ASKED, 0.5)
        await asyncio.sleep(5.0)
        await gateway.close()

    run_virtually(leave())
    said = [record.message for record in caplog.records if "without a reader" in record.message]
    assert said == ["The stream r may be written on without a reader: It says nothing."]


class Mortal:
    """Two coordinators. The first one dies when it would say the word of number `dies_at` of the second choice."""

    def __init__(self, dies_at: int) -> None:
        self.keepers = [Keeper(self._write, 10, 10**6) for _ in range(2)]
        self._dies_at = dies_at
        self.now = 0

    def _write(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        return Writer("a", 0.1, 1 if request.request_id == "r-0" else 20).generate(request)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        number, num_words = self.now, 0
        async with aclosing(self.keepers[number].generate(request)) as outputs:
            async for output in outputs:
                is_lost = number == 0 and num_words == self._dies_at and not isinstance(output, Opened)
                if is_lost and request.request_id == "r-1":
                    self.now = 1
                    raise RoleUnavailable("The coordinator died.")
                num_words += isinstance(output, Committed)
                yield output

    async def hand_over(self, *asked: Any) -> list[GenerationRequest]:
        return [found for keeper in self.keepers[self.now :] for found in await keeper.hand_over(*asked)]


@pytest.mark.parametrize("dies_at", [5, 20])
@pytest.mark.parametrize("stays_s", [0.3, 100.0])
def test_whoever_takes_a_choice_over_is_given_those_that_have_ended(dies_at: int, stays_s: float) -> None:
    """Also where nothing is left of it but its end, and whether or not the client is there."""

    async def lose() -> None:
        both = Mortal(dies_at)
        gateways = [Lingering(Unbroken(both.generate).generate, both.hand_over, 10, 10**6) for _ in range(2)]
        lasting = [replace(each, keep=Keep(3.0, "me", MANNER, "r")) for each in ASKED]
        reading = asyncio.create_task(listen(gateways[0].generate, lasting, stays_s))
        await asyncio.sleep(2.5)
        assert both.now == 1
        _, requests, _ = await fetch(gateways[1], "r", "me")  # type: ignore[arg-type]
        heard = await listen(Rest(gateways[1], requests, [Mark(), Mark()]).generate, requests, 10.0)
        assert [len(text.split()) for text in heard] == [1, 20]
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        for each in (*gateways, *both.keepers):
            await each.close()

    run_virtually(lose())


def texts_of(*parts: Heard) -> list[str]:
    choices = [c for part in parts for event in part.data if isinstance(event, dict) for c in event["choices"]]
    return ["".join(c["text"] for c in choices if c["index"] == index) for index in (0, 1)]


async def begin(at: House, body: dict[str, Any], num_events: int) -> Heard:
    headers = RESUMABLE | {"x-request-id": "r"}
    async with at.client.stream("POST", f"{at.urls[0]}/v1/completions", json=body, headers=headers) as response:
        return await hear(response, num_events)


async def test_one_choice_ends_at_once_and_the_client_comes_back_for_the_other() -> None:
    async with house(resume_s=0.1) as at:
        body = {"model": "m", "prompt": ["How many?", "Which one?"], "max_tokens": 1000, "temperature": 0}
        body |= {"speculation": {"mode": "target"}}
        answer: httpx.Response = await at.client.post(f"{at.urls[0]}/v1/completions", json=body)
        whole = [choice["text"] for choice in answer.json()["choices"]]
        stop = next(word for word in whole[0].split() if word not in whole[1])
        at.roles.target_engine._options = replace(TARGET, token_s=0.03)  # type: ignore[attr-defined]
        first = await begin(at, {**body, "stream": True, "stop": stop}, 14)  # the last ten are of the other one
        rest = await come_back(at, first.ids[-1])
        assert texts_of(first, rest) == [whole[0][: whole[0].index(stop)], whole[1]]
