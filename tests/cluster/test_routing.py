"""Calls of one request that start in the same moment all reach their replica."""

from __future__ import annotations

import asyncio

from ray import serve
from ray.serve.context import _RequestContext, _serve_request_context

from tests.cluster.conftest import Served


async def test_no_call_is_forgotten(served: Served) -> None:
    """Inside a request all calls carry the request's id; Ray's own consistent-hash router answers one of them."""
    handle = serve.get_deployment_handle("target", app_name="lookahead").options(method_name="num_running")

    async def call(session_id: str) -> int:
        running: int = await handle.options(session_id=session_id).remote()
        return running

    outside = _serve_request_context.set(_RequestContext(request_id="one", _internal_request_id="one"))
    try:
        for attempt in range(20):
            async with asyncio.timeout(20):
                found = await asyncio.gather(*(call(f"session-{attempt}") for _ in range(3)))
            assert found == [0, 0, 0]
    finally:
        _serve_request_context.reset(outside)
