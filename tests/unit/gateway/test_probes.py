"""Models, traces, probes, and the OpenAPI document."""

from __future__ import annotations

import asyncio

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest

from actors.errors import RoleUnavailable
from deployments.gateway import api
from deployments.gateway.api import create_app
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
