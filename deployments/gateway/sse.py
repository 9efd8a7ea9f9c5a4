"""A stream of server-sent events.

Promises: whatever happens once the stream has begun, it ends with ``data: [DONE]``; a failure is told by an error
object in an event of its own before that; no silence is longer than the keep-alive interval; before the first text
there are comments only, so that whoever takes the first event for the first token measures right.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from actors.errors import DeadlineExceeded
from deployments.gateway.answers import Answer
from deployments.gateway.bookmarks import Bookmarks
from deployments.gateway.errors import error_body, shown
from deployments.gateway.generations import Generations
from deployments.gateway.wire import encode
from deployments.generation import Committed, Opened, Output

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n"
"""A comment and no blank line: where an event before had an id, OpenAI's client takes that for an event without data,
and fails."""
APART = b":\n\n"
"""Before the event that follows a keep-alive, where events have no ids. Some readers strip what they receive and split
it at blank lines: vLLM's load client would take comment and event for one thing, and pass over both."""
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

    With `bookmarks` each event of a choice has an id, and what these say that the client has is left out.
    """
    clock = asyncio.get_running_loop().time
    # OpenAI: with usage asked for, every chunk but the last has ``usage: null``.
    nothing: dict[str, Any] = {"usage": None} if include_usage else {}
    untold: dict[int, Opened] = {}
    gap = b""
    try:
        last_sent = clock()
        while not generations.is_done:
            received = await generations.receive(max(0.0, last_sent + keep_alive_s - clock()))
            if received is None:
                yield KEEP_ALIVE
                gap = APART if bookmarks is None else b""
                last_sent = clock()
                continue
            for index, output in _due(untold, *received):
                line = bookmarks.move(index, output) if bookmarks is not None else b""
                for chunk in answer.chunks(index, output):
                    if line is not None:  # else the client has it
                        yield gap + line + event({**chunk, **nothing})
                        gap, last_sent = b"", clock()
        if include_usage:
            yield gap + event(answer.usage_chunk())
            gap = b""
    except Exception as error:
        told = shown(error, request_id)
        if isinstance(told, DeadlineExceeded):
            told = DeadlineExceeded(f"{told.message} What was sent before is valid.")
        yield gap + event(error_body(told))
        gap = b""
    yield gap + DONE


def _due(untold: dict[int, Opened], index: int, output: Output) -> list[tuple[int, Output]]:
    """What is to be told after `output` of choice `index`: that choices were opened, which is kept in `untold`, comes
    with the first text or end of any. vLLM's server, too, sends all roles with the first token, in the order of their
    numbers: OpenAI's client puts what comes third into its third place, whatever the number."""
    if isinstance(output, Opened):
        untold[index] = output
        return []
    if isinstance(output, Committed) and not output.text:
        return []
    return [*((each, untold.pop(each)) for each in sorted(untold)), (index, output)]
