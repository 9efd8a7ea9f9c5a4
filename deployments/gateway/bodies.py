"""The body of a request, read with a bound on its size and on the time it may take.

Promises: no more than `max_bytes` of a body are ever held; a body that is too large, too slow, or not JSON by its own
account is refused with 413, 408 or 415 before anything is made of it; one that comes as fast as the slowest lines are
is read, however long that takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from starlette.requests import Request

from actors.errors import CapacityError, DeadlineExceeded
from deployments.gateway.arrivals import LATE_S, Arrival
from deployments.gateway.errors import HttpError
from deployments.gateway.wire import decode

DRAIN_FACTOR = 4
"""A body that is too large is read on and thrown away up to so many times the limit: a client that is still sending
when the connection closes never sees the answer. One that says it is larger still is refused before it is read."""
SILENCE_S = 30.0
"""A body of which nothing comes for so long is given up."""
SLOWEST = 4096
"""Bytes a second that a body must come with, after the first `SILENCE_S`: slower than any line in use."""


async def read_object(request: Request, max_bytes: int, timeout_s: float, arrival: Arrival) -> dict[str, Any]:
    """The request's JSON object, whose `arrival` is told when it is late.

    Raises HttpError (413, 415), DeadlineExceeded (408), CapacityError (429) or NotJson (400)."""
    _check_type(request)
    arrival.check()
    try:
        raw = await _read_in_time(request, max_bytes, timeout_s, arrival)
    finally:
        arrival.be_read()
    return decode(raw)


async def _read_in_time(request: Request, max_bytes: int, timeout_s: float, arrival: Arrival) -> bytes:
    loop = asyncio.get_running_loop()
    began = loop.time()
    until, reason = _until(began, 0, began, timeout_s)
    refusal: CapacityError | None = None

    def hear(size: int) -> None:
        nonlocal until, reason
        if refusal is None:
            until, reason = _until(began, size, loop.time(), timeout_s)
            limit.reschedule(until)

    def be_late() -> None:
        nonlocal refusal
        if not limit.expired() and (refusal := arrival.be_late()) is not None:
            limit.reschedule(loop.time())

    late = loop.call_later(LATE_S, be_late)
    try:
        async with asyncio.timeout_at(until) as limit:
            return await _read(request, max_bytes, hear)
    except TimeoutError as error:
        raise refusal or DeadlineExceeded(reason) from error
    finally:
        late.cancel()


def _until(began: float, size: int, now: float, timeout_s: float) -> tuple[float, str]:
    """Until when more of a body must come of which `size` bytes are here `now`, and what is said if it does not."""
    limits = (
        (began + timeout_s, f"within {timeout_s:g} seconds."),
        (now + SILENCE_S, f"in time: nothing of it came for {SILENCE_S:g} seconds."),
        (began + SILENCE_S + size / SLOWEST, f"in time: less than {SLOWEST} bytes of it came a second."),
    )
    until, why = min(limits, key=itemgetter(0))
    return until, f"The body did not arrive {why}"


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


async def _read(request: Request, max_bytes: int, hear: Callable[[int], None]) -> bytes:
    most = max_bytes * DRAIN_FACTOR
    too_large = HttpError(413, "request_too_large", f"The body is larger than {max_bytes} bytes, the limit here.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and float(declared) > most:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        hear(size)
        if size > most:
            break
        if size > max_bytes:
            chunks.clear()
        else:
            chunks.append(chunk)
    if size > max_bytes:
        raise too_large
    return b"".join(chunks)
