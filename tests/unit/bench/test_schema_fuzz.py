"""Schemathesis over our OpenAPI document: a few of the command's requests, and that it finds what is wrong."""

from __future__ import annotations

import pytest

from deployments.bench.fuzz import Broken, SetText
from deployments.bench.schema_fuzz import guarded, try_document
from deployments.gateway.api import create_app
from tests.unit.gateway.broken_text import BrokenText
from tests.unit.gateway.script import MODEL, config


def test_what_the_document_allows_and_what_it_does_not() -> None:
    backend = SetText()
    answers = try_document(create_app(guarded(config()), lambda: backend), backend, MODEL, 8, 1)
    assert sum(answers[f"positive POST /v1/{path} 200"] for path in ("chat/completions", "completions")) > 0
    assert sum(count for answer, count in answers.items() if answer.endswith("401")) > 4
    assert answers["positive GET /metrics 200"] == 1
    assert not [answer for answer in answers if answer[-3:] >= "500"]


def test_a_server_that_fails_is_found() -> None:
    backend = BrokenText()
    with pytest.raises(Broken, match="Server error"):
        try_document(create_app(guarded(config()), lambda: backend), backend, MODEL, 20, 1)


def test_an_answer_that_the_document_does_not_know_is_found() -> None:
    backend = SetText()
    app = create_app(guarded(config()), lambda: backend)
    document = app.openapi()
    document["paths"]["/version"]["get"]["responses"]["200"]["content"] = {"text/html": {}}
    with pytest.raises(Broken, match="Content-Type"):
        try_document(app, backend, MODEL, 1, 1)


def test_an_event_that_the_document_does_not_know_is_found() -> None:
    backend = SetText()
    app = create_app(guarded(config()), lambda: backend)
    answers = app.openapi()["paths"]["/v1/completions"]["post"]["responses"]["200"]["content"]
    data = answers["text/event-stream"]["itemSchema"]["properties"]["data"]
    data["anyOf"] = data["anyOf"][:1]  # nothing but the end
    with pytest.raises(Broken, match="SSE event"):
        try_document(app, backend, MODEL, 20, 1)
