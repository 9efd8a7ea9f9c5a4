"""How Serve chooses a replica of draft and target: always the same one for a session, so that its prefix cache is hit.

Promises: a call that waits for a replica is never forgotten. Ray 2.60's `ConsistentHashRouter` forgets one of two calls
that are made in the same turn of the event loop: the routing task of the first ends when there are more tasks than
calls, and so does the second's, before it has taken its call up; Ray's other routers then start a new task, that one
does not.
"""

from __future__ import annotations

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter


class SessionRouter(ConsistentHashRouter):  # type: ignore[misc]  # Ray gives no types for it
    """`ConsistentHashRouter` that starts another routing task where calls are left when one ends."""

    async def _fulfill_pending_requests(self) -> None:
        try:
            await super()._fulfill_pending_requests()
        finally:
            if self._pending_requests_to_route:
                self._maybe_start_routing_tasks()
