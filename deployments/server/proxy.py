"""What clients may not tell the HTTP proxy of Ray Serve, which stands before the gateways.

Promises: no header of a request sets the proxy's own time limit, which would cut a stream without an error event and
`[DONE]`, or keeps the proxy from seeing that its client is gone, so that work would go on for nobody; a request id that
cannot be used reaches neither the proxy, which fails on one that is not UTF-8 and sends any of them back whole, nor its
logs, and the gateway answers for it; who asks while the application starts or ends reads that it is not there now, and
not that there is no such path. All else passes as it is. Ray imports this in the proxy's own process, as
`deployments.server.launch.ON_EVERY_NODE` says.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.gateway.errors import HttpError, error_response
from deployments.gateway.request_ids import HEADER, UNUSABLE, is_usable

ORDERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""Headers that Ray's proxy obeys, whoever sends them (`ray.serve._private.http_util`)."""
REQUEST_ID = HEADER.encode()
OURS = ("/v1/", "/ready", "/health")
"""What clients and load balancers ask of the application, where no other one has these paths."""
NOT_SERVED = HttpError(
    503,
    "not_served",
    "Nothing is served here now: the server starts or ends. Try again in a while.",
    kind="server_error",
    headers={"Retry-After": "5"},
)


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


class NotServed:
    """Answers `NOT_SERVED` in the place of Serve's own 404, which says in plain text that it has no application for the
    path; those of gateways are JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if not str(scope.get("path", "")).startswith(OURS):
            await self._app(scope, receive, send)
            return
        is_replaced = False

        async def passed(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and _is_unrouted(message):
                is_replaced = True
                await error_response(NOT_SERVED)(scope, receive, send)
            elif not is_replaced:
                await send(message)

        await self._app(scope, receive, passed)


def _is_unrouted(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] == 404 and any(kind.startswith(b"text/plain") for kind in kinds)


def middlewares() -> list[Middleware]:
    """What Ray puts around its proxy's application."""
    return [Middleware(WithoutOrders), Middleware(NotServed)]
