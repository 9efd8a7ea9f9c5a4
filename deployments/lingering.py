"""Resumable streams at a gateway: read on when their client is gone, so that their coordinator may die meanwhile.

Promises: whoever comes back is given what coordinators and this gateway have of his stream; a coordinator that takes a
choice over is given those that have ended, so that it has the whole stream; `move` brings streams from coordinators
that are leaving to those that stay, whom every gateway can ask; none is read on for longer than `Keep.seconds` after
its client has gone, and then the coordinator's work ends too; its `Stay` counts what is read, and is over when nothing
is read any more; `close` ends all reading here, and no coordinator's work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from deployments.coordinator.keeper import Generate, Keeper
from deployments.gateway.stay import Stay
from deployments.generation import GenerationRequest, Keep, Opened, Output

logger = logging.getLogger("lookahead.gateway")

READ_OUT_S = 1.0
"""So long outputs may be on their way that a coordinator has sent before it handed their stream over."""
TRY_AGAIN_S = 0.5
"""So long after streams could not be moved it is tried again."""
HandOver = Callable[..., Awaitable[Sequence[GenerationRequest | Exception]]]
"""As `Keeper.hand_over`, of all coordinators; in the place of what some may have that did not answer, an exception."""


class Lingering:
    """`generate` and `hand_over` of coordinators, as a gateway offers them."""

    def __init__(self, generate: Generate, hand_over: HandOver, max_requests: int, max_bytes: int) -> None:
        self._generate = generate
        self._hand_over = hand_over
        self._keeper = Keeper(generate, max_requests, max_bytes, self._let_go)
        self._giving: dict[Keep, asyncio.Task[None]] = {}
        """By stream: what gives its ended choices to the coordinator that has taken over others."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[Keep] = set()
        """Streams that coordinators are told to end."""
        self._is_to_move = False
        self._moving: asyncio.Task[None] | None = None

    def generate(self, request: GenerationRequest, stay: Stay | None = None) -> AsyncGenerator[Output, None]:
        """As `Backend.generate`."""
        write = self._read if stay is None else lambda each: self._held(each, stay)
        return self._generate(request) if request.keep is None else self._keeper.generate(request, write)

    async def _held(self, request: GenerationRequest, stay: Stay) -> AsyncGenerator[Output, None]:
        with stay.writing():
            async with aclosing(self._read(request)) as outputs:
                async for output in outputs:
                    stay.count(request, output)
                    yield output

    async def _read(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        num_takeovers = request.num_takeovers
        async with aclosing(self._generate(request)) as outputs:
            async for output in outputs:
                if not isinstance(output, Opened) and output.num_takeovers > num_takeovers:
                    num_takeovers = output.num_takeovers
                    if request.keep is not None:
                        self._give_ended(request.keep)
                yield output

    def _give_ended(self, keep: Keep) -> None:
        """Whoever goes on with a choice of the stream of `keep` is to keep those that have ended. Choices are lost
        together and taken over one after the other: the last one has the say, as its coordinator is the latest."""
        if (former := self._giving.get(keep)) is not None:
            former.cancel()
        self._giving[keep] = self._start(self._give(keep))

    async def _give(self, keep: Keep) -> None:
        for request in self._keeper.finished(keep):
            try:
                async with aclosing(self._generate(request)) as outputs:
                    async for _ in outputs:
                        pass
            except Exception as error:  # it is still here, and is given again to whoever comes after that one
                logger.warning("Request %s was not given to another coordinator: %s", request.request_id, error)
        del self._giving[keep]  # not where it was cancelled: another one is in its place then

    async def hand_over(self, stream_id: str, owner: str) -> list[GenerationRequest | Exception]:
        """As `Backend.hand_over`."""
        theirs = await self._hand_over(stream_id, owner)
        troubles = [each for each in theirs if isinstance(each, Exception)]
        for trouble in troubles:
            logger.warning("Not all coordinators could be asked for the stream %s: %s", stream_id, trouble)
        if len(troubles) < len(theirs):
            await self._keeper.read_out(stream_id, owner, READ_OUT_S)  # what is fetched from them was not counted else
        return [*theirs, *await self._keeper.hand_over(stream_id, owner)]

    def move(self, may_move: Callable[[], Awaitable[bool]], take: HandOver) -> None:
        """Begin to bring all streams to coordinators that stay, as soon as they `may_move`; `take` is
        `Keeper.hand_over` of those that are leaving now."""
        self._is_to_move = True
        if self._moving is None or self._moving.done():
            self._moving = self._start(self._move(may_move, take))

    async def _move(self, may_move: Callable[[], Awaitable[bool]], take: HandOver) -> None:
        while self._is_to_move and self._keeper.num_kept:
            if not await may_move():
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            self._is_to_move = False
            await asyncio.gather(*(self._move_one(keep, take) for keep in self._keeper.keeps))

    async def _move_one(self, keep: Keep, take: HandOver) -> None:
        """Whoever was writing it tells its readers here to go on elsewhere, behind what they have; what has ended of
        it, which may be all, is given there."""
        if await take(keep.stream_id, keep.owner, keep):
            self._give_ended(keep)

    async def drain(self) -> None:
        """Wait until no stream is here any more, and whoever wrote for one that nobody came back for has ended."""
        await self._keeper.drain()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """End what runs here."""
        await self._keeper.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _let_go(self, request: GenerationRequest) -> None:
        """Choices of one stream are let go together, and ended together."""
        if (keep := request.keep) is not None and keep not in self._ending:
            self._ending.add(keep)
            self._start(self._end(keep))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end(self, keep: Keep) -> None:
        """Where the coordinator saw its reader go only now, it would write on for as long again. What the client may
        have asked for or come back to by now is not ended."""
        try:
            for each in await self._hand_over(keep.stream_id, keep.owner, keep):
                if isinstance(each, Exception):
                    logger.warning("The stream %s may be written on without a reader: %s", keep.stream_id, each)
        finally:
            self._ending.discard(keep)
