"""Ours beside vLLM's server: what is not answered whole is an error, and no slow answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from actors.errors import ServiceError
from deployments.bench.against_vllm import _burst
from deployments.config import load_profile

TEXT = {"choices": [{"index": 0, "delta": {"content": "Six."}}]}


def burst(status: int, *chunks: dict[str, Any]) -> float:
    """Two streams at once from a server that answers each like this."""
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)

    async def scene() -> float:
        transport = httpx.MockTransport(lambda request: httpx.Response(status, text=body))
        async with httpx.AsyncClient(transport=transport) as http:
            return await _burst(http, load_profile("local"), "http://x", 2, 0, 8)

    return asyncio.run(scene())


def test_tokens_are_those_that_the_server_counted() -> None:
    assert burst(200, TEXT, {"choices": [], "usage": {"completion_tokens": 8}}) > 0


def test_a_refusal_and_a_stream_without_an_end_are_errors() -> None:
    with pytest.raises(httpx.HTTPStatusError, match="429"):
        burst(429, {"error": {"message": "Too much work for now."}})
    with pytest.raises(ServiceError, match="did not say how many tokens"):
        burst(200, TEXT, {"error": {"message": "The target was lost."}})
