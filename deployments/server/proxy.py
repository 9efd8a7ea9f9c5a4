"""What clients may not tell the HTTP proxy of Ray Serve, which stands before the gateways.

Promises: no header of a request sets the proxy's own time limit, which would cut a stream without an error event and
`[DONE]`, or keeps the proxy from seeing that its client is gone, so that work would go on for nobody. All else passes
as it is. Ray imports this in the proxy's own process, as `deployments.server.launch.ON_EVERY_NODE` says.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

ORDERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""Headers that Ray's proxy obeys, whoever sends them (`ray.serve._private.http_util`)."""


class WithoutOrders:
    """Passes requests on without `ORDERS`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if "headers" in scope:
            headers = [(name, value) for name, value in scope["headers"] if name.lower() not in ORDERS]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Ray puts around its proxy's application."""
    return [Middleware(WithoutOrders)]
