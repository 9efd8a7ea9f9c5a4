"""The body of a request, read with a bound on its size and on the time it may take.

Promises: no more than `max_bytes` of a body are ever held; a body that is too large, too slow, or not JSON by its own
account is refused with 413, 408 or 415 before anything is made of it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from actors.errors import DeadlineExceeded
from deployments.gateway.errors import HttpError
from deployments.gateway.wire import decode

DRAIN_FACTOR = 4
"""A body that is too large is read on and thrown away up to so many times the limit: a client that is still sending
when the connection closes never sees the answer. One that says it is larger still is refused before it is read."""


async def read_object(request: Request, max_bytes: int, timeout_s: float) -> dict[str, Any]:
    """The request's JSON object. Raises HttpError (413, 415), DeadlineExceeded (408) or NotJson (400)."""
    _check_type(request)
    try:
        async with asyncio.timeout(timeout_s):
            raw = await _read(request, max_bytes)
    except TimeoutError as error:
        raise DeadlineExceeded(f"The body did not arrive within {timeout_s:g} seconds.") from error
    return decode(raw)


def _check_type(request: Request) -> None:
    media_type, _, options = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        named = f"not {media_type.strip()[:60]}" if media_type.strip() else "and the request has no Content-Type"
        raise HttpError(415, "unsupported_media_type", f"The body must be sent as application/json, {named}.")
    charset = options.lower().replace(" ", "").replace('"', "").partition("charset=")[2].partition(";")[0]
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise HttpError(415, "unsupported_media_type", f"The body must be UTF-8, not {charset[:60]}.")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HttpError(415, "unsupported_media_type", f"The body must not be compressed ({encoding[:60]}).")


async def _read(request: Request, max_bytes: int) -> bytes:
    most = max_bytes * DRAIN_FACTOR
    too_large = HttpError(413, "request_too_large", f"The body is larger than {max_bytes} bytes, the limit here.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and float(declared) > most:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            break
        if size > max_bytes:
            chunks.clear()
        else:
            chunks.append(chunk)
    if size > max_bytes:
        raise too_large
    return b"".join(chunks)
