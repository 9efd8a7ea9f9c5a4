"""The generations of one HTTP request, run side by side.

Promises: outputs of one choice arrive in order; the first failure of any choice is the failure of all; of a prompt that
is refused only one choice was asked for; no wait lasts past the deadline; when the block is left, for whatever reason,
every iterator of the backend has been closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from actors.errors import DeadlineExceeded, ServiceError
from deployments.gateway.backend import Source
from deployments.gateway.errors import in_words_of
from deployments.generation import Finished, GenerationRequest, Opened, Output

log = logging.getLogger("lookahead.gateway")

QUEUE_SIZE = 64
"""Outputs that wait to be sent; then the backend's iterators are not read on. Uvicorn alone lets `send` wait for a slow
client; a replica of Serve takes every event at once, so there nothing gathers here."""
FAREWELL_S = 1.0
"""How long a finished iterator may take to end by itself before it is closed."""


class Generations:
    """One task a choice, all feeding one queue. Use as ``async with``, then `open`, then `receive` until `is_done`.

    `count` is told each output as it comes, also those that no client will read. `turn` is awaited before anything
    begins, and says whether that took time; what it raises, entering raises. Time limits count from before it. Errors
    name the body's `fields`, as in `Ask`. Each `n` requests in a row are choices of one prompt: the first of them is
    asked for at once, the others when it is open, since each takes the whole prompt with it, which may be of megabytes.
    """

    def __init__(
        self,
        backend: Source,
        requests: Sequence[GenerationRequest],
        timeout_s: float,
        count: Callable[[GenerationRequest, Output], None] | None = None,
        turn: Callable[[], Awaitable[bool]] | None = None,
        fields: Sequence[Mapping[str, str]] = (),
        n: int = 1,
    ) -> None:
        self._backend = backend
        self._requests = tuple(requests)
        self._timeout_s = timeout_s
        self._count = count
        self._turn = turn
        self._fields = fields or ({},) * len(self._requests)
        self._queue: asyncio.Queue[tuple[int, Output | Exception]] = asyncio.Queue(QUEUE_SIZE)
        self._opened: deque[tuple[int, Opened]] = deque()
        self._n = n
        self._takes_prompt = [asyncio.Event() for _ in self._requests[::n]]
        """Of each prompt, whether its first choice is open."""
        self._all_open = asyncio.Event()
        self._all_received = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._num_unfinished = len(self._requests)
        self._deadline = 0.0
        self._leaving = False

    @property
    def is_done(self) -> bool:
        """Whether every choice's `Finished` has been received."""
        return self._num_unfinished == 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        came = loop.time()
        self._deadline = came + self._timeout_s
        if self._turn is not None and await self._turn():
            waited_s = loop.time() - came
            self._requests = tuple(
                replace(request, timeout_s=max(0.001, (request.timeout_s or self._timeout_s) - waited_s))
                for request in self._requests
            )
        self._tasks = [asyncio.create_task(self._pump(i, request)) for i, request in enumerate(self._requests)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.is_done and kind is None:
                await asyncio.wait(self._tasks, timeout=FAREWELL_S)
        finally:
            self._leaving = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def open(self) -> None:
        """Wait until every choice is valid and runs. Raises what the backend raises, or DeadlineExceeded."""
        while len(self._opened) < len(self._requests):
            index, output = await self._next(self._deadline)
            if not isinstance(output, Opened):
                raise RuntimeError(f"choice {index} began with {type(output).__name__}, not with Opened")
            self._opened.append((index, output))
        self._all_open.set()

    async def receive(self, wait_s: float | None = None) -> tuple[int, Output] | None:
        """The next output with the index of its choice; None if there is none within `wait_s` seconds."""
        if self._opened:
            return self._opened.popleft()
        now = asyncio.get_running_loop().time()
        until = self._deadline if wait_s is None else min(self._deadline, now + wait_s)
        try:
            index, output = await self._next(until)
        except TimeoutError:
            return None
        if isinstance(output, Finished):
            self._num_unfinished -= 1
            if self.is_done:
                self._all_received.set()
        return index, output

    async def _next(self, until: float) -> tuple[int, Output]:
        try:
            async with asyncio.timeout_at(until):
                index, output = await self._queue.get()
        except TimeoutError:
            if until < self._deadline:
                raise
            # Of a stream that was fetched only the rest of its time is known here.
            is_rest = any(request.resume is not None for request in self._requests)
            limit = "The request's time limit" if is_rest else f"The time limit of {self._timeout_s:g} seconds"
            raise DeadlineExceeded(f"{limit} passed.") from None
        if isinstance(output, Exception):
            raise in_words_of(output, self._fields[index])
        return index, output

    async def _pump(self, index: int, request: GenerationRequest) -> None:
        finished = False
        prompt, place = divmod(index, self._n)
        try:
            if place:
                await self._takes_prompt[prompt].wait()
            outputs = self._backend.generate(request)
            try:
                async for output in outputs:
                    if self._count is not None:
                        self._count(request, output)
                    await self._queue.put((index, output))
                    finished = finished or isinstance(output, Finished)
                    if isinstance(output, Opened):
                        self._takes_prompt[prompt].set()
                        # Until all choices are open nobody reads on, so nothing may pile up.
                        await self._all_open.wait()
                    elif isinstance(output, Finished) and request.keep is not None:
                        # Until the client has all, it may lose its connection and need this: it has a reader still.
                        await self._all_received.wait()
            finally:
                await _close(outputs)
            if not finished:
                raise ServiceError("The generation ended before it was finished.")
        except asyncio.CancelledError:
            if self._leaving:
                raise
            # Somebody behind the backend was cancelled, not we: without this the client would wait for ever.
            await self._queue.put((index, ServiceError("The generation was cancelled by the server.")))
        except Exception as error:
            if finished:
                log.warning("Request %s failed after it had finished.", request.request_id, exc_info=error)
            else:
                await self._queue.put((index, error))


async def _close(outputs: AsyncIterator[Output]) -> None:
    # A Protocol can only ask for an AsyncIterator; generators and streams that hold work have `aclose`.
    close = getattr(outputs, "aclose", None)
    if close is not None:
        await close()
