"""Resumable streams at a gateway: read on when their client is gone, so that their coordinator may die meanwhile.

Promises: whoever comes back is given what coordinators and this gateway have of his stream; none is read on for longer
than `Keep.seconds` after its client has gone, and then the coordinator's work ends too; its `Stay` counts what is read,
and is over when nothing is read any more; `close` ends all reading here, and no coordinator's work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from deployments.coordinator.keeper import Generate, Keeper
from deployments.gateway.stay import Stay
from deployments.generation import GenerationRequest, Keep, Output

logger = logging.getLogger("lookahead.gateway")

READ_OUT_S = 1.0
"""So long outputs may be on their way that a coordinator has sent before it handed their stream over."""
HandOver = Callable[..., Awaitable[list[GenerationRequest]]]
"""As `Keeper.hand_over`, of all coordinators."""


class Lingering:
    """`generate` and `hand_over` of coordinators, as a gateway offers them."""

    def __init__(self, generate: Generate, hand_over: HandOver, max_requests: int, max_bytes: int) -> None:
        self._generate = generate
        self._hand_over = hand_over
        self._keeper = Keeper(generate, max_requests, max_bytes, self._let_go)
        self._ending: set[asyncio.Task[None]] = set()

    def generate(self, request: GenerationRequest, stay: Stay | None = None) -> AsyncGenerator[Output, None]:
        """As `Backend.generate`."""
        if stay is None:
            return self._keeper.generate(request)
        return self._keeper.generate(request, lambda each: self._held(each, stay))

    async def _held(self, request: GenerationRequest, stay: Stay) -> AsyncGenerator[Output, None]:
        with stay.writing():
            async with aclosing(self._generate(request)) as outputs:
                async for output in outputs:
                    stay.count(request, output)
                    yield output

    async def hand_over(self, stream_id: str, owner: str) -> list[GenerationRequest]:
        """As `Backend.hand_over`."""
        if theirs := await self._theirs(stream_id, owner):
            await self._keeper.read_out(stream_id, owner, READ_OUT_S)  # what is fetched from them was not counted else
        return [*theirs, *await self._keeper.hand_over(stream_id, owner)]

    async def _theirs(self, stream_id: str, owner: str, *only: Keep) -> list[GenerationRequest]:
        try:
            return await self._hand_over(stream_id, owner, *only)
        except Exception as error:  # whatever keeps them from answering, what is here is there
            logger.warning("No coordinator could be asked for the stream %s: %s", stream_id, error)
            return []

    async def close(self) -> None:
        """End what runs here."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._keeper.close()

    def _let_go(self, request: GenerationRequest) -> None:
        task = asyncio.create_task(self._end(request))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, request: GenerationRequest) -> None:
        """Where the coordinator saw its reader go only now, it would write on for as long again. What the client may
        have asked for or come back to by now is not ended."""
        if request.keep is not None:
            await self._theirs(request.keep.stream_id, request.keep.owner, request.keep)
