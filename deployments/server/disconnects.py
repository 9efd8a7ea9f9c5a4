"""A client that goes while Serve hands its request on.

Promises: the gateway hears of it as of any client that has gone. Ray's proxy cancels the call by which a
gateway's replica asks for the rest of the body, and Serve raises that in the application.
"""

from __future__ import annotations

from ray.exceptions import TaskCancelledError
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Disconnects:
    """Passes requests on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""

        async def heard() -> Message:
            try:
                return await receive()
            except TaskCancelledError:
                return {"type": "http.disconnect"}

        await self._app(scope, heard, send)
