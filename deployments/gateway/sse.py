"""A stream of server-sent events.

Promises: whatever happens once the stream has begun, it ends with ``data: [DONE]``; a failure is told by an error
object in an event of its own before that; no silence is longer than the keep-alive interval.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from deployments.gateway.answers import Answer
from deployments.gateway.bookmarks import Bookmarks
from deployments.gateway.errors import error_body, shown
from deployments.gateway.generations import Generations
from deployments.gateway.wire import encode

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_S = 15.0
"""Proxies commonly cut a connection that was silent for 30 or 60 seconds."""


def event(value: dict[str, Any]) -> bytes:
    """One event; `encode` leaves no line end inside it."""
    return b"data: " + encode(value) + b"\n\n"


async def events(
    generations: Generations,
    answer: Answer,
    request_id: str,
    include_usage: bool,
    keep_alive_s: float,
    bookmarks: Bookmarks | None = None,
) -> AsyncGenerator[bytes, None]:
    """The events of `generations`, which must be open; each item is one event or one keep-alive comment.

    With `bookmarks` each event has an id, and what these say that the client has is left out.
    """
    clock = asyncio.get_running_loop().time
    # OpenAI: with usage asked for, every chunk but the last has ``usage: null``.
    nothing: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        last_sent = clock()
        while not generations.is_done:
            received = await generations.receive(max(0.0, last_sent + keep_alive_s - clock()))
            if received is None:
                yield KEEP_ALIVE
                last_sent = clock()
                continue
            line = bookmarks.move(*received) if bookmarks is not None else b""
            for chunk in answer.chunks(*received):
                if line is not None:  # else the client has it
                    yield line + event({**chunk, **nothing})
                    last_sent = clock()
        if include_usage:
            yield event(answer.usage_chunk())
    except Exception as error:
        yield event(error_body(shown(error, request_id)))
    yield DONE
