"""Every error has OpenAI's form, the right status, and words that help; none tells what is inside the server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from actors.errors import (
    CapacityError,
    ConfigError,
    ContextTooLong,
    DeadlineExceeded,
    LookaheadError,
    RequestError,
    RoleUnavailable,
    WeightsError,
)
from deployments.gateway.api import create_app
from deployments.gateway.schemas import ChatMessage, ChatRequest
from deployments.gateway.translate import parse
from deployments.gateway.wire import MAX_KEYS, MAX_VALUES, NotJson, _Reading, decode
from deployments.generation import GenerationRequest
from tests.unit.gateway.script import MODEL, ScriptedBackend, chat, client_of, completion, config, opened, said

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, which must be all that the body holds."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "line 1, column 2"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "-Infinity"),
        (b'{"temperature": 1e999}', "1e999"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"model": "\\ud83d"}', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "nested"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "nested"),
        (b'{"model": "a", "model": "b"}', "twice"),
        (b"{" + b",".join(b'"%d": 1' % number for number in range(1025)) + b"}", "1024 keys"),
    ],
)
async def test_what_is_not_json(client: httpx.AsyncClient, raw: bytes, words: str) -> None:
    response = await client.post(CHAT, content=raw, headers=JSON)
    error = error_of(response)
    assert response.status_code == 400
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_json")
    assert words in error["message"]


@pytest.mark.parametrize("value", [b"{}", b"[]", b"0.5", b"true", b'""'])
async def test_more_values_than_a_body_may_have(client: httpx.AsyncClient, value: bytes) -> None:
    raw = b'{"model": "m", "chat_template_kwargs": {"x": [' + b",".join([value] * 100_000) + b"]}}"
    response = await client.post(CHAT, content=raw, headers=JSON)
    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "invalid_json"
    assert "100000 keys and values" in error["message"]


async def test_brackets_in_strings_are_no_arrays(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    text = '["\\' * 150_000
    assert (await client.post(CHAT, json=chat(messages=[{"role": "user", "content": text}]))).status_code == 200
    assert backend.requests[0].prompt.question == text
    endless = await client.post(CHAT, content=b'{"x": "' + b'\\"[' * 150_000, headers=JSON)
    assert "not valid JSON" in error_of(endless)["message"]


def test_a_body_full_of_errors_is_given_up_at_the_first_message_that_is_wrong() -> None:
    """Half a million errors fit in one body; each would be a dictionary, made while nobody else's stream goes on."""
    wrong = dict.fromkeys(map(str, range(MAX_KEYS)), 0)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}] + [wrong] * 500}
    with pytest.raises(ValidationError) as found:
        ChatRequest.model_validate(body)
    assert found.value.error_count() <= MAX_KEYS + len(ChatMessage.model_fields)
    with pytest.raises(LookaheadError, match=r"'messages\[1\]\.0'"):
        parse(ChatRequest, body)


async def test_large_bodies_that_are_honest_are_taken(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    part = {"type": "text", "text": "x"}
    messages = [{"role": role, "content": [part]} for _ in range(2048) for role in ("user", "assistant")]
    assert (await client.post(CHAT, json=chat(messages=messages))).status_code == 200
    ids = [list(range(2000))] * 128
    assert (await client.post("/v1/completions", json=completion(prompt=ids, max_tokens=1))).status_code == 200
    assert len(backend.requests) == 1 + 128


def test_a_body_is_given_up_at_the_first_object_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a million fit in one body, and each is made by Python, while nobody else's stream goes on."""
    num_made = 0
    make = _Reading.mapping

    def counting(self: _Reading, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal num_made
        num_made += 1
        return make(self, pairs)

    monkeypatch.setattr(_Reading, "mapping", counting)
    with pytest.raises(NotJson):
        decode(b'{"x": [' + b"{}," * 200_000 + b"{}]}")
    assert num_made == MAX_VALUES + 1


async def test_a_whole_surrogate_pair_is_text(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    raw = b'{"model": "%s", "messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}' % MODEL.encode()
    assert (await client.post(CHAT, content=raw, headers=JSON)).status_code == 200
    assert backend.requests[0].prompt.question == "\U0001f600"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_415(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.post(CHAT, content=b"{}", headers=headers)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"


async def test_a_named_utf8_is_fine(client: httpx.AsyncClient) -> None:
    headers = {"content-type": 'Application/JSON; charset="UTF-8"'}
    response = await client.post(CHAT, json=chat(), headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_413(backend: ScriptedBackend, chunked: bool) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 100

    async with client_of(create_app(config(max_body_bytes=1000), lambda: backend)) as client:
        fits = await client.post(CHAT, content=b" " * 1000, headers=JSON)
        response = await client.post(CHAT, content=in_chunks() if chunked else b" " * 1001, headers=JSON)
    assert fits.status_code == 400
    assert response.status_code == 413
    error = error_of(response)
    assert error["code"] == "request_too_large"
    assert "1000 bytes" in error["message"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings", "/v1/chat/completions/", "/docs"])
async def test_404_for_routes(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert error_of(response)["code"] == "unknown_url"


async def test_404_for_models(client: httpx.AsyncClient) -> None:
    for response in (
        await client.post(CHAT, json=chat(model="gpt-4o")),
        await client.post("/v1/completions", json=completion(model="gpt-4o")),
        await client.get("/v1/models/gpt-4o"),
    ):
        assert response.status_code == 404
        error = error_of(response)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert MODEL in error["message"]


async def test_404_for_traces(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/traces/never/heard of")
    assert response.status_code == 404
    assert error_of(response)["code"] == "trace_not_found"


async def test_405(client: httpx.AsyncClient) -> None:
    response = await client.get(CHAT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert "POST" in error_of(response)["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (RequestError("The chat template refuses a system message.", "messages"), 400, "invalid_request"),
        (ContextTooLong("Too long.", "messages"), 400, "context_length_exceeded"),
        (CapacityError("Too many requests.", None, 2.5), 429, "rate_limit_exceeded"),
        (RoleUnavailable("No target replica."), 503, "role_unavailable"),
        (DeadlineExceeded("Too late."), 408, "deadline_exceeded"),
    ],
)
async def test_what_the_backend_refuses(
    backend: ScriptedBackend, client: httpx.AsyncClient, failure: LookaheadError, status: int, code: str, stream: bool
) -> None:
    backend.script = lambda request: [failure]
    response = await client.post(CHAT, json=chat(stream=stream))
    assert response.status_code == status
    error = error_of(response)
    assert (error["message"], error["code"], error["param"]) == (failure.message, code, failure.param)
    assert response.headers.get("retry-after") == ("3" if status == 429 else None)
    assert response.headers.get("x-should-retry") == ("false" if status == 408 else None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "wishes", "at_fault", "param"),
    [
        (CHAT, {}, "prompt", "messages"),
        (CHAT, {"max_tokens": 5}, "max_tokens", "max_tokens"),
        (CHAT, {"max_completion_tokens": 5}, "max_tokens", "max_completion_tokens"),
        (TEXT, {}, "prompt", "prompt"),
        (TEXT, {"max_tokens": 5}, "max_tokens", "max_tokens"),
        (TEXT, {}, "max_tokens", "prompt"),
    ],
)
async def test_an_error_names_the_field_that_the_request_has(
    backend: ScriptedBackend, client: httpx.AsyncClient, path: str, wishes: Any, at_fault: str, param: str, stream: bool
) -> None:
    backend.script = lambda request: [ContextTooLong("Too long.", at_fault)]
    body = chat(**wishes) if path == CHAT else completion(**wishes)
    response = await client.post(path, json=body | {"stream": stream})
    assert (response.status_code, error_of(response)["param"]) == (400, param)


@pytest.mark.parametrize(
    ("wishes", "at_fault", "param"),
    [
        ({"prompt": ["a", "b"], "max_tokens": 5}, "prompt", "prompt[1]"),
        ({"prompt": [[1], [2]], "n": 2}, "prompt", "prompt[1]"),
        ({"prompt": ["a", "b"]}, "max_tokens", "prompt[1]"),
        ({"prompt": ["a", "b"], "max_tokens": 5}, "max_tokens", "max_tokens"),
        ({"prompt": ["b"]}, "prompt", "prompt"),
        ({"prompt": [[2]], "n": 2}, "prompt", "prompt"),
    ],
)
async def test_of_several_prompts_an_error_names_the_one_at_fault(
    backend: ScriptedBackend, client: httpx.AsyncClient, wishes: Any, at_fault: str, param: str
) -> None:
    def script(request: GenerationRequest) -> list[Any]:
        is_wrong = request.prompt.text == "b" or request.prompt.token_ids == (2,)
        return [ContextTooLong("Too long.", at_fault)] if is_wrong else [opened(request), 60.0]

    backend.script = script
    response = await client.post(TEXT, json=completion(**wishes))
    assert (response.status_code, error_of(response)["param"]) == (400, param)


@pytest.mark.parametrize("failure", [ValueError("secret /etc/keys"), WeightsError("secret /models/x is broken")])
async def test_500_tells_the_request_id_and_nothing_else(
    backend: ScriptedBackend, client: httpx.AsyncClient, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    backend.script = lambda request: [opened(request), said("x", 0), failure]
    with caplog.at_level(logging.ERROR, logger="lookahead.gateway"):
        response = await client.post(CHAT, json=chat(), headers={"x-request-id": "lost-1"})
    error = error_of(response)
    assert response.status_code == 500
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in response.text
    assert "lost-1" in error["message"]
    assert "secret" in caplog.text


async def test_a_backend_that_cannot_be_had_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    def get_backend() -> ScriptedBackend:
        raise RuntimeError("no handle")

    async with client_of(create_app(config(), get_backend)) as client:
        for response in (await client.post(CHAT, json=chat()), await client.get("/metrics")):
            assert response.status_code == 500
            assert error_of(response)["code"] == "internal_error"
    assert "no handle" in caplog.text


async def test_a_backend_that_does_not_begin_with_opened_is_a_500(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    backend.script = lambda request: [said("x", 0)]
    assert (await client.post(CHAT, json=chat())).status_code == 500


async def test_a_backend_that_stops_too_soon_is_a_503(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    backend.script = lambda request: [opened(request), said("x", 0)]
    response = await client.post(CHAT, json=chat())
    assert response.status_code == 503
    assert error_of(response)["code"] == "service_unavailable"


async def test_one_failing_choice_fails_all_and_closes_the_others(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    def script(request: GenerationRequest) -> list[Any]:
        if request.request_id == "r-1":
            return [opened(request), RoleUnavailable("The target died.")]
        return [opened(request), said("x", 0), 60.0]

    backend.script = script
    response = await client.post(CHAT, json=chat(n=3), headers={"x-request-id": "r"})
    assert response.status_code == 503
    assert backend.ends == {"r-0": "closed", "r-1": "failed", "r-2": "closed"}


@pytest.mark.parametrize("request_id", ["", "x" * 129, "\u00e9", "a\tb"])
async def test_request_ids_that_cannot_be_used(client: httpx.AsyncClient, request_id: str) -> None:
    response = await client.get("/health", headers=[(b"x-request-id", request_id.encode())])
    assert response.status_code == 400
    assert error_of(response)["param"] == "x-request-id"
    assert response.headers["x-request-id"] != request_id


async def test_a_missing_request_id_is_made_up(client: httpx.AsyncClient) -> None:
    ids = {(await client.get("/health")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


async def test_behind_a_proxy_that_echoes_the_id_itself(backend: ScriptedBackend) -> None:
    async with client_of(create_app(config(), lambda: backend, echo_request_id=False)) as client:
        response = await client.post(CHAT, json=chat(), headers={"x-request-id": "by-proxy"})
    assert "x-request-id" not in response.headers
    assert backend.requests[0].request_id == "by-proxy"


class TestKeys:
    """With keys configured."""

    @pytest.fixture
    async def client(self, backend: ScriptedBackend) -> AsyncIterator[httpx.AsyncClient]:
        async with client_of(create_app(config(api_keys=["one", "zw\u00f6lf"]), lambda: backend)) as client:
            yield client

    @pytest.mark.parametrize("key", [b"one", "zw\u00f6lf".encode()])
    async def test_a_right_key(self, client: httpx.AsyncClient, key: bytes) -> None:
        response = await client.post(CHAT, json=chat(), headers=[(b"authorization", b"Bearer " + key)])
        assert response.status_code == 200

    @pytest.mark.parametrize(
        ("key", "wishes", "fidelity"),
        [
            ("careful", {}, "exact"),
            ("careful", {"speculation": {"max_lookahead": 2}}, "exact"),
            ("careful", {"speculation": {"fidelity": "fast"}}, "fast"),
            ("careful", {"speculation": {"verifier": "exact"}}, None),
            ("one", {}, None),
        ],
    )
    async def test_the_fidelity_of_a_key(
        self, backend: ScriptedBackend, key: str, wishes: dict[str, object], fidelity: str | None
    ) -> None:
        keys = ["one", {"key": "careful", "fidelity": "exact"}]
        async with client_of(create_app(config(api_keys=keys), lambda: backend)) as client:
            headers = {"authorization": f"Bearer {key}"}
            assert (await client.post(CHAT, json=chat(**wishes), headers=headers)).status_code == 200
        assert backend.requests[0].speculation.fidelity == fidelity

    def test_a_key_with_a_fidelity_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="fidelity 'strict' of a key"):
            config(api_keys=[{"key": "k", "fidelity": "strict"}])

    @pytest.mark.parametrize("header", [None, "Bearer two", "Bearer", "Basic one", "one", "Bearer onee", "Bearer \xff"])
    async def test_401(self, backend: ScriptedBackend, client: httpx.AsyncClient, header: str | None) -> None:
        headers = [(b"authorization", header.encode("latin-1"))] if header is not None else []
        for response in (
            await client.post(CHAT, json=chat(), headers=headers),
            await client.get("/v1/models", headers=headers),
            await client.get("/v1/traces/x", headers=headers),
        ):
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            error = error_of(response)
            assert error["code"] == "invalid_api_key"
            assert "two" not in error["message"]
        assert backend.requests == []

    async def test_probes_need_no_key(self, client: httpx.AsyncClient) -> None:
        for path in ("/health", "/ready", "/version", "/metrics"):
            assert (await client.get(path)).status_code == 200
