"""Generations that may lose their reader and be fetched by another one.

Promises: a request that does not ask to be kept ends with its reader, at once. One that does is written on without a
reader, and kept, until nobody has read it or another choice of its stream here for `Keep.seconds`; then it ends and is
gone. Whoever fetches it gets all of it, and what ran for the one before ends; only its owner may. What is kept is
bounded in requests and, prompts included, in bytes: those that were left longest go first. What its own writer has
handed over to somebody is not kept: it is written on there. Every task is ended in `close` at the latest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from sys import getsizeof

from actors.errors import HandedOver, LookaheadError, RoleUnavailable
from deployments.generation import GenerationRequest, Keep, Output
from deployments.ledger import Ledger

logger = logging.getLogger(__name__)

Generate = Callable[[GenerationRequest], AsyncGenerator[Output, None]]
QUEUE_SIZE = 64
"""Outputs that wait for a slow reader; then the generation waits for it."""
BYTES_AN_ID = 36
"""A token id of a prompt in a tuple, and its number."""


@dataclass(slots=True, eq=False)
class Kept:
    """A generation, what it said so far, and the queue of its reader (None: nobody reads)."""

    request: GenerationRequest
    keep: Keep
    outputs: AsyncGenerator[Output, None]
    ledger: Ledger
    num_asked_bytes: int
    begun: float
    queue: asyncio.Queue[Output | Exception | None] | None
    is_read_on: bool = False
    """Whether a reader came back behind the first output. One that does not has opened its stream in vain: another
    choice of it was refused."""
    task: asyncio.Task[None] | None = None
    expiry: asyncio.TimerHandle | None = None
    left_at: float | None = None
    """None: some choice of its stream is read."""
    num_bytes: int = 0
    """As it was weighed last."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Owner, stream and choice: a choice may be called as another stream is."""
        return self.keep.owner, self.keep.stream_id, self.request.request_id


class Keeper:
    """What one process keeps. `generate` writes a request's text; at most `max_requests` and `max_bytes` are kept.

    `on_expiry` is told of those that ended here, without a reader, while their text was still being written.
    """

    def __init__(
        self,
        generate: Generate,
        max_requests: int,
        max_bytes: int,
        on_expiry: Callable[[GenerationRequest], None] | None = None,
    ) -> None:
        self._generate = generate
        self._on_expiry = on_expiry
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._kept: dict[tuple[str, str, str], Kept] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.num_bytes = 0
        """About so much memory is held by all that could be fetched."""

    @property
    def num_kept(self) -> int:
        """Requests that could be fetched now."""
        return len(self._kept)

    @property
    def keeps(self) -> set[Keep]:
        """The wishes of all that could be fetched now."""
        return {kept.keep for kept in self._kept.values()}

    def generate(self, request: GenerationRequest, write: Generate | None = None) -> AsyncGenerator[Output, None]:
        """As `Coordinator.generate`; `write` writes the text of this request, in the place of the keeper's own."""
        write = write or self._generate
        return write(request) if request.keep is None else self._read(request, request.keep, write)

    async def hand_over(self, stream_id: str, owner: str, only: Keep | None = None) -> list[GenerationRequest]:
        """Of the stream's requests those that are kept here for `owner`, each to go on behind all that was written.

        Their work here has ended then; they are kept for a while still, in case that whoever fetched them is lost too.
        With `only` whoever asked for them so has no use for this process any more: those that were asked for since, or
        fetched since, are left alone, the others are not kept, and who reads them is to go on elsewhere.
        """
        found: list[GenerationRequest] = []
        for kept in self._of(stream_id, owner):
            if only is None:
                await self._stop(kept, _elsewhere())
            elif only == kept.keep:
                self._forget(kept)
                await self._stop(kept, RoleUnavailable("This stream was let go; another coordinator goes on with it."))
            else:
                continue
            found += _as_it_stands(kept)
        return found

    def finished(self, keep: Keep) -> list[GenerationRequest]:
        """Of the stream that asked for `keep` the requests that are kept here and have ended."""
        found = [kept for kept in self._of(keep.stream_id, keep.owner) if kept.keep == keep and kept.ledger.is_finished]
        return [request for kept in found for request in _as_it_stands(kept)]

    async def read_out(self, stream_id: str, owner: str, within_s: float) -> None:
        """Take what is on its way of a stream that its writers have handed over, as far as it comes in time."""
        all_kept = self._of(stream_id, owner)
        for kept in all_kept:
            self._dismiss(kept, _elsewhere())
        tasks = [kept.task for kept in all_kept if kept.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    async def drain(self) -> None:
        """Wait until nothing is kept."""
        await self._is_empty.wait()

    async def close(self) -> None:
        """End all that runs."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        self._on_expiry = None
        for kept in list(self._kept.values()):
            self._drop(kept)
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, request: GenerationRequest, keep: Keep, write: Generate) -> AsyncGenerator[Output, None]:
        queue: asyncio.Queue[Output | Exception | None] = asyncio.Queue(QUEUE_SIZE)
        now = asyncio.get_running_loop().time()
        kept = Kept(request, keep, write(request), Ledger(request.resume), _asked_bytes(request, keep), now, queue)
        if (former := self._kept.get(kept.key)) is not None:
            self._drop(former)
        self._kept[kept.key] = kept
        self._is_empty.clear()
        self._weigh(kept)
        self._stop_waiting(kept)
        kept.task = asyncio.create_task(self._run(kept))
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
                kept.is_read_on = True
        finally:
            if kept.queue is queue:
                self._be_left(kept)

    async def _run(self, kept: Kept) -> None:
        last: Exception | None = None
        try:
            async with aclosing(kept.outputs) as outputs:
                async for output in outputs:
                    kept.ledger.take(output)
                    self._weigh(kept)
                    self._make_room()
                    await _tell(kept, output)
        except HandedOver as error:  # what is here may be behind what its client gets there
            self._forget(kept)
            self._dismiss(kept, error)
            return
        except Exception as error:
            last = error
            if kept.queue is None:
                logger.info("Request %s broke off while nobody read it: %s", kept.request.request_id, error)
        await _tell(kept, last)

    def _be_left(self, kept: Kept) -> None:
        """The reader of `kept` is gone."""
        queue, kept.queue = kept.queue, None
        while queue is not None and not queue.empty():
            queue.get_nowait()  # the generation may be waiting for a place
        was_begun = kept.is_read_on or kept.request.resume is not None
        if self._kept.get(kept.key) is not kept or not was_begun:
            self._expire(kept)  # not kept any more, refused, or left before its client could know of it
        self._wait_for_reader(kept)

    def _dismiss(self, kept: Kept, reason: LookaheadError) -> None:
        """The reader of `kept` gets what waits for it, which it may have to count, and is told the `reason`."""
        queue, kept.queue = kept.queue, None
        if queue is not None:
            waiting = [queue.get_nowait() for _ in range(queue.qsize())]
            # One place is for what the generation may be waiting to put.
            for item in (*waiting[: QUEUE_SIZE - 2], reason):
                queue.put_nowait(item)
        self._wait_for_reader(kept)

    def _wait_for_reader(self, left: Kept) -> None:
        """The time of the stream that `left` is of begins, unless one of its choices is read still: its client is there
        then, and may need all of them when it comes back."""
        choices = self._choices(left)
        if any(kept.queue is not None for kept in choices):
            return
        loop = asyncio.get_running_loop()
        for kept in choices:
            if kept.expiry is not None:
                kept.expiry.cancel()
            kept.left_at = loop.time()
            kept.expiry = loop.call_later(kept.keep.seconds, self._expire, kept)

    def _stop_waiting(self, read: Kept) -> None:
        """The client of the stream that `read` is of is there."""
        for kept in self._choices(read):
            kept.left_at = None
            if kept.expiry is not None:
                kept.expiry.cancel()

    # --- ending ------------------------------------------------------------------------------------------------------

    async def _stop(self, kept: Kept, reason: LookaheadError) -> None:
        """End the work of `kept`, for a `reason` that its reader is told."""
        if kept.task is not None:
            kept.task.cancel()
        self._dismiss(kept, reason)  # before anything is awaited: whoever fetches it may be gone by then
        if kept.task is not None:
            await asyncio.gather(kept.task, return_exceptions=True)

    def _of(self, stream_id: str, owner: str) -> list[Kept]:
        return [kept for key, kept in self._kept.items() if key[:2] == (owner, stream_id)]

    def _choices(self, of: Kept) -> list[Kept]:
        """All that is kept here of the stream of `of`; an id may have been used for another one."""
        found = self._of(of.keep.stream_id, of.keep.owner)
        return [kept for kept in found if kept.keep.manner == of.keep.manner]

    def _weigh(self, kept: Kept) -> None:
        if self._kept.get(kept.key) is kept:
            num_bytes = kept.num_asked_bytes + kept.ledger.num_bytes
            self.num_bytes += num_bytes - kept.num_bytes
            kept.num_bytes = num_bytes

    def _make_room(self) -> None:
        while len(self._kept) > self._max_requests or self.num_bytes > self._max_bytes:
            # Without a reader first, the one that was left longest; one with a reader is read on, and not kept.
            first = min(self._kept.values(), key=lambda k: (k.left_at is None, k.left_at or -k.num_bytes))
            logger.warning("Request %s is not kept any more: too much is.", first.request.request_id)
            if first.queue is None:
                self._expire(first)
            else:
                self._forget(first)

    def _expire(self, kept: Kept) -> None:
        is_written = kept.task is not None and not kept.task.done()
        self._drop(kept)
        if is_written and self._on_expiry is not None:
            self._on_expiry(kept.request)

    def _drop(self, kept: Kept) -> None:
        """`kept` cannot be fetched any more, and unless somebody reads it nothing runs for it."""
        self._forget(kept)
        if kept.queue is None:
            self._end(kept)

    def _forget(self, kept: Kept) -> None:
        if kept.expiry is not None:
            kept.expiry.cancel()
        if self._kept.get(kept.key) is kept:
            del self._kept[kept.key]
            self.num_bytes -= kept.num_bytes
            if not self._kept:
                self._is_empty.set()

    def _end(self, kept: Kept) -> None:
        if kept.task is not None and not kept.task.done():
            kept.task.cancel()
            self._ending.add(kept.task)
            kept.task.add_done_callback(self._ending.discard)


def _asked_bytes(request: GenerationRequest, keep: Keep) -> int:
    """About so much memory is held by the words of `request`, which stay with what is written for it."""
    prompt = request.prompt
    texts = [keep.manner, prompt.text or "", prompt.template_options, prompt.answer_prefix, *request.stop]
    texts += [text for message in prompt.messages for text in (message.role, message.content)]
    return sum(map(getsizeof, texts)) + BYTES_AN_ID * len(prompt.token_ids or ())


def _as_it_stands(kept: Kept) -> list[GenerationRequest]:
    """The request of `kept` behind all that was written; nothing where nobody can go on behind it."""
    elapsed_s = asyncio.get_running_loop().time() - kept.begun
    standing = kept.ledger.standing(elapsed_s) if kept.ledger.can_go_on else None
    if standing is None:
        return []
    timeout_s = kept.request.timeout_s
    if timeout_s is not None:
        timeout_s = max(0.001, timeout_s - elapsed_s)
    num_takeovers = max(kept.request.num_takeovers, kept.ledger.num_takeovers)
    return [replace(kept.request, resume=standing, timeout_s=timeout_s, num_takeovers=num_takeovers)]


def _elsewhere() -> HandedOver:
    return HandedOver("This stream goes on over another connection.")


async def _tell(kept: Kept, item: Output | Exception | None) -> None:
    if (queue := kept.queue) is not None:
        await queue.put(item)
