"""Limits of a key: what is let in, what is charged, and that a refusal says truly when to come again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import CapacityError
from deployments.gateway.api import create_app
from deployments.gateway.limits import Limits
from deployments.gateway_config import KeyLimits
from deployments.generation import GenerationRequest
from tests.unit.gateway.script import Act, ScriptedBackend, chat, client_of, completion, config, opened, said, until

CHAT = "/v1/chat/completions"


def refusal_s(limits: Limits, wished: KeyLimits, now: float) -> float:
    """After how many seconds a request should come again; 0 if it was let in."""
    try:
        limits.enter("a", wished, now)
    except CapacityError as refusal:
        return refusal.retry_after_s
    return 0.0


@given(st.integers(1, 40), st.lists(st.floats(0, 30), max_size=120))
def test_never_more_than_the_limit_and_a_refusal_is_exact(limit: int, pauses: list[float]) -> None:
    limits, wished = Limits(), KeyLimits(requests_per_minute=limit)
    now = 0.0
    for num_let_in, pause in enumerate(pauses, start=1):
        now += pause
        wait_s = refusal_s(limits, wished, now)
        if wait_s > 0:
            assert wait_s <= 60 / limit + 1e-6
            assert refusal_s(limits, wished, now + 0.99 * wait_s) > 0
            now += wait_s
            assert refusal_s(limits, wished, now) == 0
        assert num_let_in <= limit * (1 + now / 60) + 1e-6


def test_tokens_are_paid_back_before_the_next_request() -> None:
    limits, wished = Limits(), KeyLimits(tokens_per_minute=600)
    visit = limits.enter("a", wished, 0.0)
    visit.charge(1500, 0.0)
    with pytest.raises(CapacityError, match="600 tokens a minute") as refusal:
        limits.enter("a", wished, 10.0)
    assert refusal.value.retry_after_s == pytest.approx((900 - 100 + 1) / 10)
    assert limits.account("a", wished, 10.0).headers(10.0) == {
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "140.000s",
    }
    limits.enter("a", wished, 10.0 + refusal.value.retry_after_s)


def test_requests_at_once() -> None:
    limits, wished = Limits(), KeyLimits(concurrency=2)
    first, second = limits.enter("a", wished, 0.0), limits.enter("a", wished, 0.0)
    for now in (1.0, 1e6):
        with pytest.raises(CapacityError, match="2 requests at once"):
            limits.enter("a", wished, now)
    first.charge(1, 1.0)
    for _ in range(3):  # leaving again changes nothing
        first.leave(20.0)
    third = limits.enter("a", wished, 20.0)
    with pytest.raises(CapacityError) as refusal:
        limits.enter("a", wished, 20.0)
    assert refusal.value.retry_after_s == pytest.approx((0.8 * 1.0 + 0.2 * 20.0) / 2)
    second.leave(20.1)  # refused by others before it ran: it says nothing of how long requests last
    second = limits.enter("a", wished, 20.1)
    with pytest.raises(CapacityError) as refusal:
        limits.enter("a", wished, 20.1)
    assert refusal.value.retry_after_s == pytest.approx((0.8 * 1.0 + 0.2 * 20.0) / 2)
    second.leave(21.0)
    third.leave(21.0)
    assert limits.account("a", wished, 21.0).num_running == 0


def test_holders_do_not_share_and_changed_limits_count_at_once() -> None:
    limits, wished = Limits(), KeyLimits(requests_per_minute=1)
    visit = limits.enter("a", wished, 0.0)
    limits.enter("b", wished, 0.0)
    with pytest.raises(CapacityError, match="1 request a minute"):
        limits.enter("a", wished, 0.0)
    changed = KeyLimits(concurrency=2)
    limits.enter("a", changed, 0.0)
    with pytest.raises(CapacityError):  # what ran before still counts
        limits.enter("a", changed, 0.0)
    visit.leave(1.0)
    limits.enter("a", changed, 1.0)


class Timed:
    """An app with one key, whose clock the test sets."""

    def __init__(self, backend: ScriptedBackend, limits: dict[str, int]) -> None:
        self.now = 0.0
        keys = [{"key": "k", "name": "alice", "limits": limits}, {"key": "k2", "name": "alice", "limits": limits}, "o"]
        app = create_app(config(api_keys=keys), lambda: backend, clock=lambda: self.now)
        self.client = client_of(app)

    async def post(self, body: dict[str, Any], key: str = "k", path: str = CHAT) -> httpx.Response:
        return await self.client.post(path, json=body, headers={"authorization": f"Bearer {key}"})


def assert_refused(response: httpx.Response, after_s: float) -> None:
    assert response.status_code == 429
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert response.headers["retry-after"] == str(math.ceil(after_s))


async def test_requests_a_minute_over_http(backend: ScriptedBackend) -> None:
    timed = Timed(backend, {"requests_per_minute": 2})
    first = await timed.post(chat())
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "30.000s"
    assert (await timed.post(chat(n=0), "k2")).status_code == 400  # a wrong body counts too, and so do keys of one name
    refused = await timed.post(chat(stream=True))
    assert_refused(refused, 30)
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    listed = await timed.client.get("/v1/models", headers={"authorization": "Bearer k"})
    assert listed.status_code == 200
    assert (await timed.post(chat(), "o")).status_code == 200
    timed.now += int(refused.headers["retry-after"])
    assert (await timed.post(chat())).status_code == 200
    assert len(backend.requests) == 3


async def test_traces_are_counted_as_requests(backend: ScriptedBackend) -> None:
    backend.traces["r"] = {"spans": []}
    timed = Timed(backend, {"requests_per_minute": 2, "concurrency": 1})
    statuses = []
    for name in ("r", "none", "r", "none"):
        answer = await timed.client.get(f"/v1/traces/{name}", headers={"authorization": "Bearer k"})
        statuses.append((answer.status_code, answer.headers["x-ratelimit-remaining-requests"]))
    assert statuses == [(200, "1"), (404, "0"), (429, "0"), (429, "0")]
    assert_refused(answer, 30)
    assert (await timed.post(chat())).status_code == 429


@pytest.mark.parametrize(
    ("path", "body", "prompts"),
    [(CHAT, chat(n=2, stream=True), 1), ("/v1/completions", completion(prompt=["a", "b"]), 2)],
)
async def test_the_tokens_of_usage_are_charged(
    backend: ScriptedBackend, path: str, body: dict[str, Any], prompts: int
) -> None:
    timed = Timed(backend, {"tokens_per_minute": 60})
    before = await timed.post(body, path=path)
    assert before.headers["x-ratelimit-remaining-tokens"] == "60"
    used = prompts * 7 + 2 * 12
    timed.now += 0.5
    after = await timed.post(completion(), path="/v1/completions")
    assert after.headers["x-ratelimit-remaining-tokens"] == str(int(60 - used + 0.5))


async def test_a_stream_that_is_broken_off_is_paid_for_and_makes_room(backend: ScriptedBackend) -> None:
    def endless(request: GenerationRequest) -> Sequence[Act]:
        return [opened(request), said("word", 0), said("word", 0), 60.0]

    backend.script = endless
    timed = Timed(backend, {"tokens_per_minute": 12, "concurrency": 1})
    running = asyncio.create_task(timed.post(chat()))
    await until(lambda: len(backend.requests) == 1)
    await asyncio.sleep(0.01)
    assert_refused(await timed.post(chat()), 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: not backend.running)
    refused = await timed.post(chat())
    assert "12 tokens a minute" in refused.json()["error"]["message"]
    assert_refused(refused, (7 + 3 + 3 - 12 + 1) * 5)


@pytest.mark.parametrize("end", ["answered", "bad", "failed", "unknown"])
async def test_every_end_makes_room(backend: ScriptedBackend, end: str) -> None:
    timed = Timed(backend, {"concurrency": 1})
    body = {"bad": chat(n=0), "unknown": {**chat(), "model": "none"}}.get(end, chat())
    if end == "failed":
        backend.script = lambda request: [RuntimeError("broken")]
    wanted = {"answered": 200, "bad": 400, "failed": 500, "unknown": 404}[end]
    assert [(await timed.post(body)).status_code for _ in range(3)] == [wanted] * 3


async def test_limits_without_keys_are_for_all_together(backend: ScriptedBackend) -> None:
    app = create_app(config(key_limits={"requests_per_minute": 1}), lambda: backend, clock=lambda: 0.0)
    async with client_of(app) as client:
        assert [(await client.post(CHAT, json=chat())).status_code for _ in range(2)] == [200, 429]


@pytest.fixture
async def pages(backend: ScriptedBackend) -> AsyncIterator[httpx.AsyncClient]:
    made = config(api_keys=["k"], cors_origins=["https://app.example.com"], key_limits={"requests_per_minute": 9})
    async with client_of(create_app(made, lambda: backend)) as client:
        yield client


ASKING = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


async def test_a_page_of_a_named_origin_may_ask(pages: httpx.AsyncClient) -> None:
    origin = {"origin": "https://app.example.com"}
    before = await pages.options(CHAT, headers={**origin, **ASKING})
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == origin["origin"]
    assert "authorization" in before.headers["access-control-allow-headers"]
    for key, wanted in (("k", 200), ("wrong", 401)):
        answer = await pages.post(CHAT, json=chat(), headers={**origin, "authorization": f"Bearer {key}"})
        assert answer.status_code == wanted
        assert answer.headers["access-control-allow-origin"] == origin["origin"]
        assert "x-ratelimit-remaining-requests" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers


async def test_pages_of_other_origins_may_not(pages: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    other = {"origin": "https://evil.example.com"}
    for each in (pages, client):  # `client` is of an app without the switch
        assert (await each.options(CHAT, headers={**other, **ASKING})).status_code in (400, 405)
        assert "access-control-allow-origin" not in (await each.get("/health", headers=other)).headers


@pytest.mark.parametrize("headers", [[("x-a", "b")] * 101, [("x-a", "b" * 33_000)]])
async def test_too_many_headers(client: httpx.AsyncClient, headers: list[tuple[str, str]]) -> None:
    response = await client.get("/health", headers=headers)
    assert response.status_code == 431
    assert response.json()["error"]["code"] == "headers_too_large"
