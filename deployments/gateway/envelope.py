"""What surrounds every request: an id on the way in, the same id and no raw failure on the way out.

Promises: every response has an ``x-request-id``, the client's own if it sent a usable one; an exception that nothing
else answered becomes a 500 in OpenAI's form, unless the response has begun; headers beyond the bounds are a 431. What
stands in ``request.state.response_headers`` goes out with the response, and what ``request.state.leaving`` (an
`ExitStack`) holds is called when the request has ended, however it ended; so is what ``request.state.answered`` holds,
which nobody takes out of it.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.gateway.errors import HttpError, bad_request, error_response, shown
from deployments.gateway.request_ids import HEADER, MAX_ID_LENGTH, is_usable

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
"""Names and values together. The HTTP proxy has read them by then; more than this is still not worked on."""


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
        problem = _problem_of(scope, usable)
        extra: dict[str, str] = {}
        leaving, answered = ExitStack(), ExitStack()
        state = {"request_id": request_id, "response_headers": extra, "leaving": leaving, "answered": answered}
        scope.setdefault("state", {}).update(state)
        begun = False

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update({HEADER: request_id, **extra} if self._echo else extra)
            await send(message)

        try:
            with answered, leaving:
                if problem is None:
                    await self._app(scope, receive, send_with_id)
                else:
                    await error_response(problem)(scope, receive, send_with_id)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as failure:
            if begun:
                raise
            await error_response(shown(failure, request_id))(scope, receive, send_with_id)


def _problem_of(scope: Scope, usable: bool) -> HttpError | None:
    """What is wrong with the headers; `usable` is whether the request id is."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        message = f"The request may have {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes in all, and has more."
        return HttpError(431, "headers_too_large", message)
    if not usable:
        message = f"'{HEADER}' must be 1 to {MAX_ID_LENGTH} printable ASCII characters."
        return bad_request("invalid_value", message, HEADER)
    return None


def request_id_of(request: Request) -> str:
    """The id that the envelope gave to `request`."""
    return str(request.state.request_id)
