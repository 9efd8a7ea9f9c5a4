"""What surrounds every request: an id on the way in, the same id and no raw failure on the way out.

Promises: every response has an ``x-request-id``, the client's own if it sent a usable one; an exception that nothing
else answered becomes a 500 in OpenAI's form, unless the response has begun.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.gateway.errors import bad_request, error_response, shown

HEADER = "x-request-id"
MAX_ID_LENGTH = 128


class Envelope:
    """ASGI middleware; the request id is in ``request.state.request_id``.

    `echo` is off behind Ray Serve, whose proxy sends the header itself: sent by both it would be there twice.
    """

    def __init__(self, app: ASGIApp, echo: bool = True) -> None:
        self._app = app
        self._echo = echo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER)
        usable = given is None or is_usable(given)
        request_id = given if given is not None and usable else secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        begun = False

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if self._echo:
                    MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            if usable:
                await self._app(scope, receive, send_with_id)
            else:
                message = f"'{HEADER}' must be 1 to {MAX_ID_LENGTH} printable ASCII characters."
                error = bad_request("invalid_value", message, HEADER)
                await error_response(error)(scope, receive, send_with_id)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as failure:
            if begun:
                raise
            await error_response(shown(failure, request_id))(scope, receive, send_with_id)


def is_usable(request_id: str) -> bool:
    """Whether a client's request id may be logged, echoed and looked up."""
    return 1 <= len(request_id) <= MAX_ID_LENGTH and request_id.isascii() and request_id.isprintable()


def request_id_of(request: Request) -> str:
    """The id that the envelope gave to `request`."""
    return str(request.state.request_id)
