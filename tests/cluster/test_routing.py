"""Calls of one session that start in the same moment all reach their replica."""

from __future__ import annotations

import asyncio

from ray import serve

from tests.cluster.conftest import Served


async def test_no_call_is_forgotten(served: Served) -> None:
    """Ray's own consistent-hash router forgets one of a pair every now and then."""
    handle = serve.get_deployment_handle("target", app_name="lookahead").options(method_name="num_running")

    async def call(session_id: str) -> int:
        running: int = await handle.options(session_id=session_id).remote()
        return running

    for attempt in range(40):
        async with asyncio.timeout(20):
            pair = await asyncio.gather(*(call(f"session-{attempt}") for _ in range(3)))
        assert pair == [0, 0, 0]
