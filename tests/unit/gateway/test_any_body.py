"""Whatever the body: an answer or a 4xx in OpenAI's form, and nothing invalid behind the gateway."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.gateway.schemas import ChatRequest, CompletionRequest
from tests.unit.gateway.script import MODEL, ScriptedBackend, chat, client_of, completion, events_of, shared_app

TEXT = st.text(st.characters(codec=None), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
LIKELY: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, -1, 2, 0.5, 10**30, "", "x", True, False, None, [], {}, [1], ["a"], [[1]], [{"type": "text", "text": "t"}]]
)
WISHES = st.dictionaries(
    st.sampled_from(["mode", "max_lookahead", "branches", "verifier", "fidelity", "depth"]),
    st.sampled_from(["target", "lookahead", "specreason", "exact", "fast", 1, 4, 65, None]) | VALUES,
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), LIKELY | st.just("user") | VALUES),
    max_size=3,
)


def bodies(model: type[ChatRequest | CompletionRequest], smallest: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies near a valid one: a few parameters changed, now and then one taken away or made up."""
    names = st.sampled_from(sorted(model.model_fields)) | TEXT
    changes = st.dictionaries(names, LIKELY | VALUES, max_size=4)
    special = st.fixed_dictionaries({}, optional={"speculation": WISHES, "messages": MESSAGES})
    dropped: st.SearchStrategy[set[str]] = st.sets(st.sampled_from(sorted(smallest)), max_size=1) | st.just(set())
    return st.builds(
        lambda changed, more, less: {k: v for k, v in {**smallest, **changed, **more}.items() if k not in less},
        changes,
        special,
        dropped,
    )


CHAT = st.tuples(st.just("/v1/chat/completions"), bodies(ChatRequest, chat()))
COMPLETION = st.tuples(st.just("/v1/completions"), bodies(CompletionRequest, completion()))


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
@given(CHAT | COMPLETION)
async def test_bodies_near_valid_ones(request: tuple[str, dict[str, Any]]) -> None:
    path, body = request
    backend = await send(path, json.dumps(body).encode())
    for made in backend.requests:
        assert 0 <= made.sampling.temperature <= 2
        assert 0 < made.sampling.top_p <= 1
        assert made.sampling.top_k >= 0
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
