"""How Serve chooses a replica of draft and target: always the same one for a session, so that its prefix cache is hit.

Promises: a call that waits for a replica is never forgotten. Ray 2.60's `ConsistentHashRouter` forgets calls that one
request makes in the same turn of the event loop, in two ways: it finds a waiting call by an id that all calls of one
request share, so that the first answer goes to the wrong one and the last goes nowhere; and its routing tasks end when
there are more of them than calls, without a look at what is left.
"""

from __future__ import annotations

from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter


class SessionRouter(ConsistentHashRouter):  # type: ignore[misc]  # Ray gives no types for it
    """`ConsistentHashRouter` that tells the calls of one request apart, and leaves none behind."""

    async def _fulfill_pending_requests(self) -> None:
        try:
            await super()._fulfill_pending_requests()
        finally:
            if self._pending_requests_to_route:
                self._maybe_start_routing_tasks()

    def _fulfill_next_pending_request(self, replica: Any, request_metadata: Any = None) -> None:
        """Hand `replica` to the call that `request_metadata` belongs to: the very object, not its id."""
        for waiting in self._pending_requests_to_fulfill:
            if waiting.metadata is request_metadata and not waiting.future.done():
                self._record_queue_wait_time(waiting)
                waiting.future.set_result(replica)
                self._remove_pending_request_from_indices(waiting)
                return
