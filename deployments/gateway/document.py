"""What ``/openapi.json`` says.

Promises: every body is described, also those that the endpoints read themselves (which they do so that errors are
OpenAI's and sizes are bounded).
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import TypeAdapter

from deployments.gateway.schemas import ChatRequest, CompletionRequest
from deployments.gateway.shapes import ChatCompletionChunk, Completion, ErrorBody

REFERENCE = "#/components/schemas/{model}"
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}

_Mode = Literal["validation", "serialization"]
_SHAPES: list[tuple[str, _Mode, TypeAdapter[Any]]] = [
    ("ChatRequest", "validation", TypeAdapter(ChatRequest)),
    ("CompletionRequest", "validation", TypeAdapter(CompletionRequest)),
    ("ChatCompletionChunk", "validation", TypeAdapter(ChatCompletionChunk)),
    ("Completion", "validation", TypeAdapter(Completion)),
]


class Described(FastAPI):
    """FastAPI with a fuller OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            schemas = super().openapi().setdefault("components", {}).setdefault("schemas", {})
            _, more = TypeAdapter.json_schemas(_SHAPES, ref_template=REFERENCE)
            schemas.update(more["$defs"])
        return super().openapi()


def takes(name: str) -> dict[str, Any]:
    """`openapi_extra` of an endpoint whose body is the schema `name`."""
    return {"requestBody": {"required": True, "content": {"application/json": _schema(name)}}}


def gives(model: type, event: str | None = None) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint that answers with a `model`, or with a stream of events of the schema `event`."""
    streamed = {"content": {"text/event-stream": _events(event)}} if event else {}
    return {200: {"model": model, **streamed}}


def _events(name: str) -> dict[str, Any]:
    """A stream whose events hold JSON of the schema `name` or an error, and at last ``[DONE]``."""
    either = {"anyOf": [{"$ref": REFERENCE.format(model=model)} for model in (name, "ErrorBody")]}
    data = {"contentMediaType": "application/json", "contentSchema": either}
    each = {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}}}
    return {"itemSchema": each}  # OpenAPI 3.2's word, which tools of 3.1 know or pass over


def _schema(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": REFERENCE.format(model=name)}}
