"""What clients may not tell the HTTP proxy of Ray Serve, which stands before the gateways.

Promises: no header of a request sets the proxy's own time limit, which would cut a stream without an error event and
`[DONE]`, or keeps the proxy from seeing that its client is gone, so that work would go on for nobody; a request id that
cannot be used reaches neither the proxy, which fails on one that is not UTF-8 and sends any of them back whole, nor its
logs, and the gateway answers for it. All else passes as it is. Ray imports this in the proxy's own process, as
`deployments.server.launch.ON_EVERY_NODE` says.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.gateway.request_ids import HEADER, UNUSABLE, is_usable

ORDERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""Headers that Ray's proxy obeys, whoever sends them (`ray.serve._private.http_util`)."""
REQUEST_ID = HEADER.encode()


class WithoutOrders:
    """Passes requests on without `ORDERS`, and with `UNUSABLE` in the place of a request id that cannot be used."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if "headers" in scope:
            kept = [(name, value) for name, value in scope["headers"] if name.lower() not in ORDERS]
            scope = {**scope, "headers": [(name, _passed(name, value)) for name, value in kept]}
        await self._app(scope, receive, send)


def _passed(name: bytes, value: bytes) -> bytes:
    if name.lower() != REQUEST_ID or is_usable(value.decode("latin-1")):
        return value
    return UNUSABLE.encode()


def middlewares() -> list[Middleware]:
    """What Ray puts around its proxy's application."""
    return [Middleware(WithoutOrders)]
