"""Requests that wait at the gateway: their turn, their time limit, their refusal; over a scripted backend."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from actors.errors import ConfigError
from deployments.config import load_profile, profile_names, validate_config
from deployments.gateway.api import create_app
from deployments.gateway.front_queue import FrontQueue, bounds_of
from deployments.generation import GenerationRequest
from tests.unit.gateway.script import Act, ScriptedBackend, chat, client_of, completion, config, finished, opened, until

CHAT = "/v1/chat/completions"
SLOW_S = 0.15


def slow(request: GenerationRequest) -> Sequence[Act]:
    return [opened(request), SLOW_S, finished()]


@pytest.fixture
async def slow_backend() -> AsyncIterator[ScriptedBackend]:
    backend = ScriptedBackend(slow)
    yield backend
    assert backend.running == set()


def client(backend: ScriptedBackend, *, keys: Sequence[Any] = (), **admission: Any) -> httpx.AsyncClient:
    return client_of(create_app(config(admission=admission, api_keys=list(keys)), lambda: backend))


def posts(client: httpx.AsyncClient, *bodies: dict[str, Any], key: str = "none") -> list[asyncio.Task[httpx.Response]]:
    headers = {"Authorization": f"Bearer {key}"}
    return [asyncio.create_task(client.post(CHAT, json=body, headers=headers)) for body in bodies]


async def sample(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0] == name)


async def waiting(client: httpx.AsyncClient, number: int) -> None:
    for _ in range(1000):
        if await sample(client, "lookahead_queue_requests") == number:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError(f"never {number} in the queue")


async def test_who_waits_gets_its_turn_and_less_time(slow_backend: ScriptedBackend) -> None:
    async with client(slow_backend, max_concurrent=1) as asking:
        answers = await asyncio.gather(*posts(asking, *[chat(timeout=5)] * 3))
        assert [answer.status_code for answer in answers] == [200] * 3
        limits = [request.timeout_s or 0.0 for request in slow_backend.requests]
        assert limits[0] == 5
        assert 5 - 4 * SLOW_S < limits[2] < limits[1] < 5 - 0.5 * SLOW_S
        assert await sample(asking, "lookahead_admitted_generations") == 0


async def test_a_priority_goes_before_what_came_earlier(slow_backend: ScriptedBackend) -> None:
    async with client(slow_backend, max_concurrent=1) as asking:
        first = posts(asking, chat(user="first"))
        await until(lambda: len(slow_backend.running) == 1)
        rest = []
        for place, priority in enumerate((5, 0, -5)):
            rest += posts(asking, chat(priority=priority, max_tokens=100 + priority))
            await waiting(asking, place + 1)
        await asyncio.gather(*first, *rest)
    assert [request.max_tokens for request in slow_backend.requests] == [None, 95, 100, 105]


async def test_a_key_goes_before_others_only_as_far_as_its_own_priority_says(slow_backend: ScriptedBackend) -> None:
    keys = [{"key": "usual"}, {"key": "batch", "priority": 10}, {"key": "urgent", "priority": -1}]
    async with client(slow_backend, keys=keys, max_concurrent=1) as asking:
        tasks = posts(asking, chat(), key="usual")
        await until(lambda: len(slow_backend.running) == 1)
        # The batch key asks for the front, and gets only the front of its own requests.
        wishes = [("batch", 10, 1), ("batch", -9, 2), ("usual", 0, 3), ("usual", -9, 4), ("urgent", -1, 5)]
        for place, (key, priority, number) in enumerate(wishes):
            headers = {"Authorization": f"Bearer {key}"}
            body = chat(priority=priority, max_tokens=number)
            tasks.append(asyncio.create_task(asking.post(CHAT, json=body, headers=headers)))
            await waiting(asking, place + 1)
        await asyncio.gather(*tasks)
    assert [request.max_tokens for request in slow_backend.requests][1:] == [5, 4, 3, 2, 1]


async def test_a_client_that_goes_leaves_the_queue(slow_backend: ScriptedBackend) -> None:
    async with client(slow_backend, max_concurrent=1) as asking:
        first = posts(asking, chat())
        await until(lambda: len(slow_backend.running) == 1)
        (second,) = posts(asking, chat())
        await waiting(asking, 1)
        second.cancel()
        await waiting(asking, 0)
        await asyncio.gather(*first)
        assert len(slow_backend.requests) == 1


async def test_a_time_limit_that_passes_while_waiting_is_a_408(slow_backend: ScriptedBackend) -> None:
    async with client(slow_backend, max_concurrent=1) as asking:
        first = posts(asking, chat())
        await until(lambda: len(slow_backend.running) == 1)
        answer = await asking.post(CHAT, json=chat(timeout=0.05, stream=True))
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "deadline_exceeded")
        assert "before it could begin" in answer.json()["error"]["message"]
        await asyncio.gather(*first)
        assert await sample(asking, "lookahead_refused_requests_total") == 1
    assert len(slow_backend.requests) == 1


async def test_what_may_not_wait_is_a_429_in_openai_s_form(slow_backend: ScriptedBackend) -> None:
    async with client(slow_backend, max_concurrent=1, max_waiting=2) as asking:
        tasks = posts(asking, chat(), chat())
        await waiting(asking, 1)
        answer = await asking.post(CHAT, json=chat())
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert error["message"].startswith("The server is at its capacity.")
        text = (await asking.get("/metrics")).text
        assert 'reason="share"} 1.0' in text
        await asyncio.gather(*tasks)


async def test_many_choices_count_as_many(slow_backend: ScriptedBackend) -> None:
    async with client(slow_backend, max_concurrent=2) as asking:
        tasks = [asyncio.create_task(asking.post("/v1/completions", json=completion(n=2))), *posts(asking, chat())]
        await until(lambda: len(slow_backend.running) == 2)
        await waiting(asking, 1)
        answers = await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_choices_that_have_ended_keep_nobody_waiting() -> None:
    """Of four choices one is written for long still."""
    backend = ScriptedBackend(
        lambda request: [opened(request), 30.0 if request.request_id == "four-0" else 0.0, finished()]
    )
    async with client(backend, max_concurrent=2) as asking:
        path, headers = "/v1/completions", {"x-request-id": "four"}
        four = asyncio.create_task(asking.post(path, json=completion(n=4), headers=headers))
        await until(lambda: len(backend.requests) == 4 and backend.running == {"four-0"})
        assert await sample(asking, "lookahead_admitted_generations") == 1
        answer = await asyncio.wait_for(asking.post(CHAT, json=chat()), 5.0)
        assert answer.status_code == 200
        four.cancel()
        await asyncio.gather(four, return_exceptions=True)
        assert await sample(asking, "lookahead_admitted_generations") == 0
    assert backend.running == set()


async def test_at_twenty_times_its_capacity_the_server_keeps_its_pace() -> None:
    """Two at once, each for so long that what a busy machine adds to each, a tenth of a second at worst, counts little:
    of generations of 0.15 s a full machine once took half of the pace."""
    slow_s = 0.75
    capacity = 2 / slow_s
    slow_backend = ScriptedBackend(lambda request: [opened(request), slow_s, finished()])
    statuses: Counter[int] = Counter()
    refusals_s: list[float] = []

    async def ask(asking: httpx.AsyncClient) -> None:
        began = time.perf_counter()
        answer = await asking.post(CHAT, json=chat())
        statuses[answer.status_code] += 1
        if answer.status_code == 429:
            refusals_s.append(time.perf_counter() - began)

    async with client(slow_backend, max_concurrent=2, max_waiting=16, max_wait_s=2.0) as asking:
        await ask(asking)  # the first request of an app takes longer
        began, tasks = time.perf_counter(), []
        while (now := time.perf_counter() - began) < 4.0:
            tasks += [asyncio.create_task(ask(asking)) for _ in range(round(20 * capacity * now) - len(tasks))]
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        took_s = time.perf_counter() - began
    assert slow_backend.running == set()
    assert set(statuses) == {200, 429}
    assert statuses[200] / took_s >= 0.8 * capacity  # 0.95 and more where nothing else runs on the machine
    assert statistics.median(refusals_s) < 0.1  # 3 ms where nothing else runs


async def test_what_is_held_back_for_want_of_room_is_demand_and_what_a_key_s_limits_refuse_is_not(
    slow_backend: ScriptedBackend,
) -> None:
    keys = [{"key": "free"}, {"key": "bound", "limits": {"concurrency": 1}}]
    settings = config(admission={"max_concurrent": 1, "max_waiting": 2}, api_keys=keys)
    queue = FrontQueue(settings, time.monotonic)
    async with client_of(create_app(settings, lambda: slow_backend, queue=queue)) as asking:
        tasks = posts(asking, chat(), key="bound")
        await until(lambda: len(slow_backend.running) == 1)
        own = await asyncio.gather(*posts(asking, *[chat()] * 3, key="bound"))
        assert [answer.status_code for answer in own] == [429] * 3
        assert queue.held_back() == {"waiting_generations": 0, "refused_generations": 0}
        tasks += posts(asking, chat(n=2), key="free")
        await waiting(asking, 1)
        (refused,) = await asyncio.gather(*posts(asking, chat(n=3), key="free"))
        assert refused.status_code == 429
        assert queue.held_back() == {"waiting_generations": 2, "refused_generations": 3}
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("name", profile_names())
def test_what_may_run_and_wait_fits_what_serve_lets_in(name: str) -> None:
    profile = load_profile(name)
    bounds = bounds_of(profile)
    assert bounds.least_running <= bounds.first_running <= bounds.most_running
    assert bounds.most_running + bounds.max_waiting < profile.gateway.placement.max_ongoing_requests


@pytest.mark.parametrize(
    ("coordinators", "gateways", "most"),
    [
        ({}, {}, 100),
        (
            {"coordinator": {"max_replicas": 8, "load": 80}},
            {},
            680,
        ),  # 800, but Serve lets only so many into one gateway
        ({"coordinator": {"max_replicas": 4, "load": 80}}, {}, 400),
        ({}, {"gateway": {"max_replicas": 4, "load": 80}}, 25),
        ({"coordinator": {"max_replicas": 8, "load": 80}}, {"gateway": {"max_replicas": 4, "load": 80}}, 200),
    ],
)
def test_a_gateway_lets_in_its_share_of_what_there_may_be(
    coordinators: dict[str, Any], gateways: dict[str, Any], most: int
) -> None:
    settings = load_profile("scripted").model_dump()
    settings["coordinator"]["placement"]["max_ongoing_requests"] = 100
    settings["autoscaling"] = coordinators | gateways
    assert bounds_of(validate_config(settings, "test")).most_running == most


def test_more_than_serve_lets_in_is_an_error_of_the_config() -> None:
    settings = load_profile("scripted").model_dump()
    settings["gateway"]["admission"]["max_concurrent"] = 900
    with pytest.raises(ConfigError, match=r"gateway\.admission: 900 running and 256 waiting"):
        validate_config(settings, "test")
