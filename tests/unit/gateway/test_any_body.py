"""Whatever the body: an answer or a 4xx in OpenAI's form, and nothing invalid behind the gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import NEUTRAL
from deployments.bench.fuzz import Broken, SetText, judge, try_bodies
from deployments.bench.fuzz_bodies import VALUES, near_valid
from deployments.gateway.api import create_app
from tests.unit.gateway.broken_text import BrokenText
from tests.unit.gateway.script import MODEL, ScriptedBackend, client_of, config, events_of, shared_app


async def send(path: str, raw: bytes) -> ScriptedBackend:
    """Post `raw`, check the form of whatever comes back, and give the backend that may have been asked."""
    backend = ScriptedBackend()
    async with client_of(shared_app(backend)) as client:
        response = await client.post(path, content=raw, headers={"content-type": "application/json"})
    assert response.status_code < 500, response.text
    if response.status_code == 200:
        assert backend.requests
        if response.headers["content-type"].startswith("text/event-stream"):
            assert "error" not in events_of(response.text)[-1]
        else:
            assert response.json()["model"] == MODEL
    else:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert backend.requests == []
    assert backend.running == set()
    return backend


@settings(max_examples=300, deadline=None)
@given(near_valid(MODEL))
async def test_bodies_near_valid_ones(request: tuple[str, dict[str, Any]]) -> None:
    path, body = request
    backend = await send(path, json.dumps(body).encode())
    for made in backend.requests:
        sampling = made.sampling.over(NEUTRAL)
        assert 0 <= sampling.temperature <= 2
        assert 0 < sampling.top_p <= 1
        assert sampling.top_k >= 0
        assert made.max_tokens is None or made.max_tokens >= 1
        assert all(made.stop)
        prompts = [bool(made.prompt.messages), made.prompt.text is not None, made.prompt.token_ids is not None]
        assert sum(prompts) == 1


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["/v1/chat/completions", "/v1/completions"]), st.binary(max_size=64) | st.text().map(str.encode))
async def test_bodies_of_any_bytes(path: str, raw: bytes) -> None:
    await send(path, raw)


@settings(max_examples=100, deadline=None)
@given(VALUES)
async def test_bodies_of_any_json(value: object) -> None:
    await send("/v1/chat/completions", json.dumps(value).encode())


def test_a_few_hundred_of_the_bodies_that_the_fuzz_command_tries() -> None:
    backend = SetText()
    app = create_app(config(max_body_bytes=100_000), lambda: backend)
    tally = try_bodies(app, backend, MODEL, 300, 1)
    assert tally.num_tried >= 300
    found = " ".join(tally.answers)
    for answer in ("200", "400 ", "415 ", "invalid_json", "unknown_parameter", "invalid_type", "stream"):
        assert answer in found


def test_the_fuzz_command_finds_what_is_wrong() -> None:
    backend = BrokenText()
    app = create_app(config(), lambda: backend)
    with pytest.raises(Broken, match="the server failed: 500"):
        try_bodies(app, backend, MODEL, 1000, 1)


@pytest.mark.parametrize(
    ("status", "kind", "body", "problem"),
    [
        (200, "application/json", b"{}", None),
        (200, "text/event-stream; charset=utf-8", b"data: {}\n\n", "not whole"),
        (400, "application/json", b'{"error": {"message": "m", "type": "t", "param": "n", "code": "c"}}', "name n"),
        (400, "application/json", b'{"error": {"message": "n!", "type": "t", "param": "n", "code": "c"}}', None),
        (400, "application/json", b'{"detail": "m"}', "form"),
        (400, "application/json", b'{"error": {"message": "m", "param": null, "code": "c"}}', "form"),
        (500, "application/json", b'{"error": {"message": "m", "type": "t", "param": null, "code": "c"}}', "failed"),
    ],
)
def test_what_the_fuzz_command_takes_for_wrong(status: int, kind: str, body: bytes, problem: str | None) -> None:
    found = judge(status, kind, body)[2]
    assert found is None if problem is None else problem in (found or "")
