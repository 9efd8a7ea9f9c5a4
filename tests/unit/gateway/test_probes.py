"""Models, traces, probes, and the OpenAPI document."""

from __future__ import annotations

import asyncio

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest

from actors.errors import RoleUnavailable
from deployments.gateway import api
from deployments.gateway.api import create_app
from deployments.generation import GenerationRequest
from tests.unit.gateway.script import MODEL, ScriptedBackend, chat, client_of, completion, config


async def test_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL]
    assert [(model["root"], model["parent"]) for model in listed["data"]] == [(MODEL, None)]  # as vLLM's client reads
    assert (await client.get(f"/v1/models/{MODEL}")).json() == listed["data"][0]


async def test_health_and_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}
    assert set((await client.get("/version")).json()) == {"version"}


async def test_metrics_are_the_backends(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "lookahead_requests_in_flight 0\n" in response.text


async def test_ready(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    response = await client.get("/ready")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "roles": {"target": True, "draft": True}}


@pytest.mark.parametrize(
    ("roles", "words"), [({"target": True, "draft": False}, "draft"), ({}, "no role"), ({"target": False}, "target")]
)
async def test_not_ready(
    backend: ScriptedBackend, client: httpx.AsyncClient, roles: dict[str, bool], words: str
) -> None:
    backend.roles = roles
    response = await client.get("/ready")
    body = response.json()
    assert response.status_code == 503
    assert (body["status"], body["roles"]) == ("not ready", roles)
    assert words in body["error"]["message"]
    assert set(body["error"]) == {"message", "type", "param", "code"}


async def test_not_ready_because_nobody_answers(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    backend.trouble = RoleUnavailable("No coordinator replica.")
    response = await client.get("/ready")
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "No coordinator replica."


async def test_not_ready_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(ScriptedBackend):
        async def readiness(self) -> dict[str, bool]:
            await asyncio.sleep(60)
            return {}

    monkeypatch.setattr(api, "READINESS_S", 0.05)
    async with client_of(create_app(config(), Silent)) as client:
        assert (await client.get("/ready")).status_code == 503


@pytest.mark.parametrize("name", ["r 1/2", "chatcmpl-r 1/2", "cmpl-r 1/2"])
async def test_traces_by_request_id_or_completion_id(
    backend: ScriptedBackend, client: httpx.AsyncClient, name: str
) -> None:
    backend.traces["r 1/2"] = {"steps": []}
    assert (await client.get(f"/v1/traces/{name}")).json() == {"steps": []}


@pytest.mark.parametrize("trouble", [None, RoleUnavailable("A coordinator did not say.")])
async def test_a_trace_that_is_not_found_may_be_where_nobody_answers(trouble: RoleUnavailable | None) -> None:
    class Partly(ScriptedBackend):
        async def trace(self, request_id: str) -> bytes | None:
            if (found := await super().trace(request_id)) is None and trouble is not None:
                raise trouble
            return found

    backend = Partly()
    backend.traces["r"] = {"steps": []}
    async with client_of(create_app(config(), lambda: backend)) as client:
        assert (await client.get("/v1/traces/chatcmpl-r")).json() == {"steps": []}, "it is there under another name"
        answer = await client.get("/v1/traces/other")
    code = (404, "trace_not_found") if trouble is None else (503, "role_unavailable")
    assert (answer.status_code, answer.json()["error"]["code"]) == code


@pytest.mark.parametrize("path", ["streams", "traces"])
@pytest.mark.parametrize("name", ["x%0A2026-11-30%20forged", "x%0D2026-11-30%20forged", "x%1B[2J", "x%C2%85y"])
async def test_an_id_that_could_not_be_logged_is_there_nowhere_and_nobody_is_asked(path: str, name: str) -> None:
    class Asked(ScriptedBackend):
        async def hand_over(self, stream_id: str, owner: str) -> list[GenerationRequest]:
            raise AssertionError(f"asked for {stream_id!r}")

        async def trace(self, request_id: str) -> bytes | None:
            raise AssertionError(f"asked for {request_id!r}")

    async with client_of(create_app(config(), Asked)) as client:
        assert (await client.get(f"/v1/{path}/{name}")).status_code == 404


async def test_the_id_of_a_completion_may_be_longer_than_a_client_s_own(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    backend.traces[f"{'x' * 128}-12"] = {"steps": []}
    assert (await client.get(f"/v1/traces/chatcmpl-{'x' * 128}-12")).json() == {"steps": []}


@pytest.mark.parametrize("name", ["two", "chatcmpl-two", "two-0"])
async def test_of_several_choices_the_first_ones_trace_is_shown(
    backend: ScriptedBackend, client: httpx.AsyncClient, name: str
) -> None:
    backend.traces.update({"two-0": {"steps": []}, "two-1": {"steps": [1]}})
    assert (await client.get(f"/v1/traces/{name}")).json() == {"steps": []}


async def test_the_document_describes_every_body(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for path, valid, wrong in (
        ("/v1/chat/completions", chat(n=2, stop=["a"], logit_bias={}), chat(logit_bias={"1": 1})),
        ("/v1/completions", completion(prompt=[[1, 2]]), completion(prompt=5)),
    ):
        operation = document["paths"][path]["post"]
        schema = {**operation["requestBody"]["content"]["application/json"]["schema"], **document}
        jsonschema.validate(valid, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
        answer = (await client.post(path, json=valid)).json()
        jsonschema.validate(
            answer, {**operation["responses"]["200"]["content"]["application/json"]["schema"], **document}
        )
        assert "text/event-stream" in operation["responses"]["200"]["content"]
        assert operation["security"] == [{"HTTPBearer": []}]
    assert_references_resolve(document)


def assert_references_resolve(document: dict[str, object]) -> None:
    """Every ``$ref`` inside the document leads somewhere."""
    waiting: list[object] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if "$ref" in value:
                found: object = document
                for key in str(value["$ref"]).removeprefix("#/").split("/"):
                    assert isinstance(found, dict)
                    found = found[key]
