"""Streams: every text exactly once and in order, marks and reports where they belong, [DONE] at every end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from actors.errors import RoleUnavailable
from deployments.gateway.api import create_app
from deployments.generation import GenerationRequest
from tests.unit.gateway.script import (
    MODEL,
    Act,
    ScriptedBackend,
    chat,
    client_of,
    completion,
    config,
    events_of,
    finished,
    listening,
    opened,
    said,
    shared_app,
    until,
)
from tests.unit.gateway.test_answers import REPORT, USAGE

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def joined(events: list[dict[str, Any]], field: str, index: int = 0) -> str:
    """All text of one field of one choice."""
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(field, "") for choice in choices)


async def test_a_chat_stream_chunk_by_chunk(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=chat(stream=True), headers={"x-request-id": "s"})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"] == "s"
    assert response.text.isascii()
    events = events_of(response.text)
    assert {(e["id"], e["object"], e["model"]) for e in events} == {("chatcmpl-s", "chat.completion.chunk", MODEL)}
    assert all("usage" not in event for event in events)
    assert [(event["choices"][0]["delta"], event.get("lookahead")) for event in events] == [
        ({"role": "assistant", "content": ""}, None),
        ({"reasoning": "Six times ", "reasoning_content": "Six times "}, {"origin": "accepted", "step": 0}),
        ({"reasoning": "seven.\n\n", "reasoning_content": "seven.\n\n"}, {"origin": "recovered", "step": 1}),
        ({"content": "It is "}, {"origin": "target", "step": 2}),
        ({"content": "42 \u2028 \U0001f600."}, {"origin": "target", "step": 2}),
        ({}, None),
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 5 + ["stop"]
    assert [event.get("speculation") for event in events] == [None] * 5 + [REPORT]


async def test_usage_comes_last_and_is_null_before(client: httpx.AsyncClient) -> None:
    for path, body in ((CHAT, chat()), (TEXT, completion())):
        more = {"stream": True, "stream_options": {"include_usage": True}}
        events = events_of((await client.post(path, json={**body, **more})).text)
        assert [event["usage"] for event in events] == [None] * (len(events) - 1) + [USAGE]
        assert events[-1]["choices"] == []
        assert events[-1]["speculation"] == REPORT


async def test_a_completion_stream(client: httpx.AsyncClient) -> None:
    events = events_of((await client.post(TEXT, json=completion(stream=True))).text)
    choices = [event["choices"][0] for event in events]
    assert {event["object"] for event in events} == {"text_completion"}
    assert "".join(choice["text"] for choice in choices) == "Six times seven.\n\nIt is 42 \u2028 \U0001f600."
    assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["stop"]
    assert [event.get("lookahead", {}).get("step") for event in events] == [0, 1, 2, 2, None]


async def test_choices_are_interleaved_as_they_are_written(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    def script(request: GenerationRequest) -> Sequence[Act]:
        index = int(request.request_id[-1])
        pieces: list[Act] = [opened(request)]
        for step in range(5):
            pieces += [0.01 + 0.005 * index, said(f"[{index}.{step}]", step)]
        return [*pieces, finished()]

    backend.script = script
    events = events_of((await client.post(CHAT, json=chat(stream=True, n=3))).text)
    for index in range(3):
        assert joined(events, "content", index) == "".join(f"[{index}.{step}]" for step in range(5))
    order = [choice["index"] for event in events for choice in event["choices"] if choice["delta"].get("content")]
    assert order != sorted(order)
    ends = [event for event in events if event["choices"][0]["finish_reason"]]
    assert sorted(event["choices"][0]["index"] for event in ends) == [0, 1, 2]
    assert all(event["choices"][0]["speculation"] == REPORT for event in ends)
    assert [event.get("speculation") for event in ends] == [None, None, REPORT]


@pytest.mark.parametrize("failure", [RoleUnavailable("The target died."), ValueError("secret")])
async def test_a_failure_inside_a_stream_is_an_event_and_then_done(
    backend: ScriptedBackend, client: httpx.AsyncClient, failure: Exception
) -> None:
    backend.script = lambda request: [opened(request), said("Half an ans", 0), failure]
    response = await client.post(CHAT, json=chat(stream=True), headers={"x-request-id": "s"})
    assert response.status_code == 200
    events = events_of(response.text)
    assert joined(events[:-1], "content") == "Half an ans"
    error = events[-1]["error"]
    if isinstance(failure, RoleUnavailable):
        assert error == {
            "message": "The target died.",
            "type": "server_error",
            "param": None,
            "code": "role_unavailable",
        }
    else:
        assert error["code"] == "internal_error"
        assert "secret" not in response.text


async def test_one_failing_choice_ends_the_stream_of_all(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    def script(request: GenerationRequest) -> Sequence[Act]:
        if request.request_id == "s-1":
            return [opened(request), said("x", 0), RoleUnavailable("The target died.")]
        return [opened(request), said("y", 0), 60.0]

    backend.script = script
    response = await client.post(CHAT, json=chat(stream=True, n=2), headers={"x-request-id": "s"})
    assert events_of(response.text)[-1]["error"]["code"] == "role_unavailable"
    assert backend.ends == {"s-0": "closed", "s-1": "failed"}


async def test_the_status_does_not_wait_for_the_first_text(backend: ScriptedBackend) -> None:
    backend.script = lambda request: [opened(request), 60.0]
    async with listening(shared_app(backend)) as url, httpx.AsyncClient() as client:
        async with client.stream("POST", url + CHAT, json=chat(stream=True)) as response:
            assert response.status_code == 200
        await until(lambda: not backend.running, within_s=3.0)


async def test_silence_is_filled_with_comments(backend: ScriptedBackend) -> None:
    backend.script = lambda request: [opened(request), 0.5, said("", 0), said("x", 0), finished()]
    async with client_of(create_app(config(), lambda: backend, keep_alive_s=0.1)) as client:
        text = (await client.post(CHAT, json=chat(stream=True))).text
    assert text.startswith(": keep-alive\n: keep-alive\n")
    assert joined(events_of(text), "content") == "x"


async def test_a_thousand_pieces_arrive_once_and_in_order(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    pieces = [f"<{number}>\n" for number in range(1000)]
    backend.script = lambda request: [opened(request), *(said(text, 0) for text in pieces), finished()]
    events = events_of((await client.post(CHAT, json=chat(stream=True))).text)
    assert [event["choices"][0]["delta"].get("content") for event in events[1:-1]] == pieces
    assert backend.ends.popitem()[1] == "finished"
