"""Links between replicas of Ray Serve: how they find each other, and where they listen.

Promises: a replica's address and secret are told to processes of the same Ray cluster only, over Serve's own calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.link.frames import Address
from deployments.link.members import Members
from deployments.link.server import LinkServer

ANSWER_S = 3.0
"""A replica that does not say within so long where it listens is left out this time."""
LINK = "link"
"""The method of a replica that says where it listens."""


async def answers(handle: DeploymentHandle[Any], within_s: float, method: str, *args: Any) -> list[Any]:
    """What each replica says to `method`; in the place of one that does not in time, an exception.

    Serve's own `results_async` gives up all answers if one is missing: then one frozen replica would hide the others.
    """
    async with asyncio.timeout(within_s):
        replies = await handle.broadcast(method, *args)._fetch_replica_results_async()

    async def one(reply: Any) -> Any:
        async with asyncio.timeout(within_s):
            return await reply.get_async()

    return await asyncio.gather(*(one(reply) for reply in replies), return_exceptions=True)


async def answers_or_why(handle: DeploymentHandle[Any], within_s: float, method: str, *args: Any) -> list[Any]:
    """As `answers`; an exception alone where none can be asked."""
    try:
        return await answers(handle, within_s, method, *args)
    except Exception as error:  # TimeoutError, or Serve's own: while the only replica restarts there is none
        return [error]


def members(
    role: str,
    handle: DeploymentHandle[Any],
    is_used: Callable[[], bool] = lambda: False,
    on_change: Callable[[], None] = lambda: None,
) -> Members:
    """The replicas of the deployment behind `handle`; searched from the first call on. `is_used` is for those without
    which nothing ends well, as in `Members`, and so is `on_change`."""

    async def announce() -> Sequence[Address]:
        found = await answers(handle, ANSWER_S, LINK)
        return [address for address in found if isinstance(address, Address)]

    return Members(role, announce, is_used=is_used, on_change=on_change)


async def listen(
    served: object, methods: Collection[str], capacity: int, load: Callable[[], float] | None = None
) -> LinkServer:
    """Serve `methods` of `served` from this replica, on its node's own address."""
    replica = serve.get_replica_context().replica_id.unique_id
    server = LinkServer(served, methods, replica, capacity, load)
    await server.start(ray.util.get_node_ip_address())
    return server
