"""However a request ends, its work ends with it: client gone, deadline, slow upload, server's own cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping, Sequence
from typing import Any

import httpx
import pytest

from actors.messages import Prompt
from deployments.gateway import replies
from deployments.gateway.api import create_app
from deployments.gateway.generations import QUEUE_SIZE, Generations
from deployments.generation import GenerationRequest, Output
from tests.unit.gateway.script import (
    Act,
    ScriptedBackend,
    chat,
    client_of,
    config,
    events_of,
    finished,
    listening,
    opened,
    said,
    shared_app,
    until,
)

CHAT = "/v1/chat/completions"


def slow(request: GenerationRequest) -> Sequence[Act]:
    """Says something, then nothing for a minute."""
    return [opened(request), said("x", 0), 60.0, finished()]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_takes_its_work_with_it(backend: ScriptedBackend, stream: bool, n: int) -> None:
    backend.script = slow
    async with listening(shared_app(backend)) as url, httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(url + CHAT, json=chat(stream=stream, n=n)))
        await until(lambda: len(backend.running) == n)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not backend.running, within_s=3.0)
    assert set(backend.ends.values()) == {"closed"}


async def test_a_client_that_goes_before_the_first_answer(backend: ScriptedBackend) -> None:
    backend.script = lambda request: [60.0]
    async with listening(shared_app(backend)) as url, httpx.AsyncClient() as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(url + CHAT, json=chat(stream=True), timeout=0.5)
        await until(lambda: not backend.running and len(backend.ends) == 1, within_s=3.0)


async def test_a_client_that_goes_while_it_sends(backend: ScriptedBackend) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"model": '
        await asyncio.sleep(60)

    async with listening(shared_app(backend)) as url, httpx.AsyncClient() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.post(url + CHAT, content=half(), headers={"content-type": "application/json"})
        assert (await client.get(url + "/health")).status_code == 200
    assert backend.requests == []


async def test_the_deadline_of_a_whole_answer_is_a_408(backend: ScriptedBackend) -> None:
    backend.script = slow
    async with client_of(create_app(config(request_timeout_s=0.1), lambda: backend)) as client:
        response = await client.post(CHAT, json=chat())
    assert response.status_code == 408
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert response.json()["error"]["message"] == "The time limit of 0.1 seconds passed.", "nothing was sent"
    assert backend.requests[0].timeout_s == 0.1


async def test_the_deadline_counts_before_the_first_answer_too(backend: ScriptedBackend) -> None:
    backend.script = lambda request: [60.0]
    async with client_of(create_app(config(request_timeout_s=0.1), lambda: backend)) as client:
        response = await client.post(CHAT, json=chat(stream=True))
    assert response.status_code == 408
    assert response.json()["error"]["message"] == "The time limit of 0.1 seconds passed."


async def test_the_deadline_inside_a_stream_is_an_event(backend: ScriptedBackend) -> None:
    backend.script = slow
    async with client_of(create_app(config(request_timeout_s=0.5), lambda: backend)) as client:
        response = await client.post(CHAT, json=chat(stream=True))
    events = events_of(response.text)
    assert response.status_code == 200
    assert events[-1]["error"]["code"] == "deadline_exceeded"
    message = "The time limit of 0.5 seconds passed. What was sent before is valid."
    assert events[-1]["error"]["message"] == message
    assert events[-2]["choices"][0]["delta"]["content"] == "x"


async def test_a_body_that_does_not_come_is_a_408(backend: ScriptedBackend) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with client_of(create_app(config(request_timeout_s=0.1), lambda: backend)) as client:
        response = await client.post(CHAT, content=half(), headers={"content-type": "application/json"})
    assert response.status_code == 408


async def test_cancelling_the_server_side_closes_the_work(backend: ScriptedBackend) -> None:
    backend.script = slow
    async with client_of(shared_app(backend)) as client:
        asking = asyncio.create_task(client.post(CHAT, json=chat(n=2)))
        await until(lambda: len(backend.running) == 2)
        asking.cancel()
        await asyncio.wait([asking])
    assert backend.running == set()


async def test_a_cancellation_behind_the_backend_does_not_hang_the_client() -> None:
    class Cancelled(ScriptedBackend):
        async def generate(self, request: GenerationRequest) -> AsyncIterator[Output]:
            yield opened(request)
            raise asyncio.CancelledError

    async with client_of(create_app(config(), Cancelled)) as client:
        response = await client.post(CHAT, json=chat())
    assert response.status_code == 503


async def test_a_finished_generation_ends_by_itself_and_is_not_closed(backend: ScriptedBackend) -> None:
    backend.script = lambda request: [opened(request), finished(), 0.05]
    async with client_of(shared_app(backend)) as client:
        await client.post(CHAT, json=chat())
    assert set(backend.ends.values()) == {"finished"}


async def test_a_client_that_reads_nothing_is_given_up(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "SLOW_CLIENT_S", 0.1)
    backend.script = lambda request: [opened(request), said("x", 0), said("y", 0), finished()]
    app = create_app(config(request_timeout_s=0.2), lambda: backend)
    bodies = [{"type": "http.request", "body": json.dumps(chat(stream=True)).encode(), "more_body": False}]
    sent = []

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        return await asyncio.Future()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Future()

    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    async with asyncio.timeout(5):
        await app(scope, receive, send)
    assert sent == ["http.response.start", "http.response.body"]


async def test_a_slow_reader_holds_the_backend_back(backend: ScriptedBackend) -> None:
    given = 0

    def script(request: GenerationRequest) -> Sequence[Act]:
        return [opened(request), *(said("x", 0) for _ in range(1000)), finished()]

    class Counting(ScriptedBackend):
        async def generate(self, request: GenerationRequest) -> AsyncIterator[Output]:
            nonlocal given
            async for output in super().generate(request):
                given += 1
                yield output

    request = GenerationRequest("r", Prompt(text="x"))
    async with Generations(Counting(script), [request], 60.0, lambda *_: None) as generations:
        await generations.open()
        await asyncio.sleep(0.05)
        assert given <= QUEUE_SIZE + 2
        while not generations.is_done:
            await generations.receive()
    assert given == 1002
