"""The response that runs the generations of one request and sends what they give.

Promises: the work ends with the response, however the response ends: sent, failed, client gone, or out of time.
Errors before the first byte are raised, for the app to answer with their status; errors after it are events.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextlib import aclosing
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.gateway.answers import Answer
from deployments.gateway.bookmarks import Bookmarks
from deployments.gateway.generations import Generations
from deployments.gateway.sse import events
from deployments.gateway.wire import Json

SLOW_CLIENT_S = 30.0
"""How long after the deadline a client that reads slowly may still take what it has not read."""


class Reply(Response):
    """Sends the answer of `generations`, whole or as a stream."""

    def __init__(self, generations: Generations, answer: Answer, request_id: str, timeout_s: float) -> None:
        super().__init__()
        self._generations = generations
        self._answer = answer
        self._request_id = request_id
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run until all is sent or the client is gone."""
        work = asyncio.create_task(self._work(scope, receive, _Sender(send)))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            limit = self._timeout_s + SLOW_CLIENT_S
            await asyncio.wait((work, gone), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if self._generations.is_done:
                # Nothing is left to cancel, and servers say "disconnect" once all is sent, too: let it end by itself.
                await asyncio.wait((work,), timeout=SLOW_CLIENT_S)
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if work.cancelled():
            raise ClientDisconnect
        work.result()

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._generations as generations:
            await generations.open()
            await self._send(scope, receive, send)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        while not self._generations.is_done:
            received = await self._generations.receive()
            if received is not None:
                self._answer.record(*received)
        await Json(self._answer.whole())(scope, receive, send)


class StreamReply(Reply):
    """The same, as server-sent events."""

    def __init__(
        self,
        generations: Generations,
        answer: Answer,
        request_id: str,
        timeout_s: float,
        include_usage: bool,
        keep_alive_s: float,
        bookmarks: Bookmarks | None = None,
    ) -> None:
        super().__init__(generations, answer, request_id, timeout_s)
        self._include_usage = include_usage
        self._keep_alive_s = keep_alive_s
        self._bookmarks = bookmarks
        # X-Accel-Buffering: nginx would otherwise hold the events back until its buffer is full.
        self.init_headers(
            {
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )
        del self.headers["content-length"]

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        stream = events(
            self._generations,
            self._answer,
            self._request_id,
            self._include_usage,
            self._keep_alive_s,
            self._bookmarks,
        )
        async with aclosing(stream):
            async for data in stream:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Sender:
    """`send`, with the one error that a server may raise there named: the client is gone."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        try:
            await self._send(message)
        except OSError as error:
            raise ClientDisconnect from error


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
