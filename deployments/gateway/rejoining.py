"""A client that comes back for the rest of its stream.

Promises: the client gets exactly what it lacks, in order, whichever gateway it comes to; only who asked for the stream
may fetch it, and to everybody else it is not there. What was written before is not charged again. A fetch that is
refused, or whose client goes again at any time, ends nothing but the reading of whoever read before. Where the client
has more than was found, and not all could be asked, others may have gone further: nobody goes on with what was found.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import cast

from starlette.requests import Request

from actors.errors import LookaheadError, RoleUnavailable
from deployments.gateway.backend import Backend, Source
from deployments.gateway.bookmarks import Mark
from deployments.gateway.errors import HttpError, bad_request
from deployments.gateway.request_ids import is_usable
from deployments.generation import Committed, Finished, GenerationRequest, Keep, Opened, Origin, Output, Standing

WISH = "x-resumable"
"""The header by which a client asks for a stream that it can come back to."""
UNKNOWN = "A coordinator did not say whether it has the stream; ask again."


@dataclass(frozen=True, slots=True)
class Manner:
    """How the first gateway answered, which the second one must, too."""

    request_id: str
    is_chat: bool
    begun: float
    request_ids: tuple[str, ...]
    n: int
    include_usage: bool

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> Manner:
        """What `str` wrote."""
        told = json.loads(text)
        return Manner(**{**told, "request_ids": tuple(told["request_ids"])})


async def fetch(
    backend: Backend, request_id: str, owner: str, marks: Sequence[Mark] = ()
) -> tuple[Manner, tuple[GenerationRequest, ...], LookaheadError | None]:
    """The stream `request_id` of `owner`, taken from whoever reads it now. HttpError (404) if there is none,
    RoleUnavailable (503) where somebody who may have it does not say so, or has more: `marks` say what the client has.

    Of its choices those that were found, and why the client cannot have them: the same error where that is not all of
    them, HttpError (400) where the client has more; then this is no fetch, beside later ones. Nobody writes them any
    more: they are to go on, or to be `put_back`.
    """
    if not is_usable(request_id):
        raise _gone(request_id)
    told = await backend.hand_over(request_id, owner)
    found = [each for each in told if isinstance(each, GenerationRequest)]
    is_known = len(found) == len(told)
    missing: LookaheadError = _gone(request_id) if is_known else RoleUnavailable(UNKNOWN, "request_id")
    manner = max(map(_manner, found), key=lambda each: each.begun, default=None)  # an id may have been used again
    if manner is None:
        raise missing
    found = [each for each in found if _manner(each) == manner]
    known = {each.request_id: each for each in sorted(found, key=_progress)}  # the last one counts
    requests = tuple(known[each] for each in manner.request_ids if each in known)
    refusal = missing if len(requests) < len(manner.request_ids) else None
    had = dict(zip(manner.request_ids, marks, strict=False))
    if all(had.get(each.request_id, Mark()).num_chars <= _standing(each).num_chars for each in requests):
        return manner, _fetched(requests), refusal
    if not is_known:
        raise missing
    behind = bad_request("invalid_value", "'Last-Event-ID' is behind the end of what was written.", "Last-Event-ID")
    return manner, requests, refusal or behind


def check_marks(requests: Sequence[GenerationRequest], marks: Sequence[Mark]) -> None:
    """HttpError (400) where the client tells of more or fewer choices than `requests`, which are all of its stream."""
    if len(marks) != len(requests):
        message = f"'Last-Event-ID' tells of {len(marks)} choices; this stream has {len(requests)}."
        raise bad_request("invalid_value", message, "Last-Event-ID")


async def put_back(backend: Source, requests: Sequence[GenerationRequest]) -> None:
    """Let `requests`, which were handed over, be written on without a reader: their client may come again."""
    async with AsyncExitStack() as stack:
        for request in requests:
            await stack.enter_async_context(_begun(backend, request))
        await asyncio.sleep(0)  # each begins


def ends_had(requests: Sequence[GenerationRequest], marks: Sequence[Mark]) -> list[tuple[int, Finished]]:
    """Of `requests`, which were handed over, the ends that the client has, with the index of their choice."""
    ends = [_standing(each).finished if mark.is_finished else None for each, mark in zip(requests, marks, strict=True)]
    return [(index, end) for index, end in enumerate(ends) if end is not None]


class Rest:
    """What a client lacks of `requests`, which were handed over, given the marks of what it has."""

    def __init__(self, backend: Source, requests: Sequence[GenerationRequest], marks: Sequence[Mark]) -> None:
        self._backend = backend
        self._marks = {request.request_id: mark for request, mark in zip(requests, marks, strict=True)}

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Output]:
        """As `Source.generate`: `Opened`, what was written behind the mark, and what is written from now on."""
        standing = _standing(request)
        async with _begun(self._backend, request) as (first, outputs):  # before the client has any: it may go again
            yield Opened(request.request_id, standing.num_prompt_tokens)
            had = self._marks[request.request_id].num_chars
            for channel, text in standing.texts:
                lacking, had = text[had:], max(0, had - len(text))
                if lacking:
                    yield Committed(lacking, channel, Origin.TARGET, 0, _last_step(standing))
            if standing.finished is not None:  # it is only kept again, and has a reader until its end was taken
                yield standing.finished
                await first
                return
            if (output := await first) is not None:
                yield output
            async for output in outputs:
                yield output


def wants_resuming(request: Request, is_stream: bool, resume_s: float) -> bool:
    """Whether the request asks for a stream that can be fetched again; HttpError (400) where there can be none."""
    wish = request.headers.get(WISH)
    if wish is None or wish == "false":
        return False
    if wish != "true":
        raise bad_request("invalid_value", f"'{WISH}' must be true or false.", WISH)
    if not is_stream:
        raise bad_request("invalid_value", f"'{WISH}' is for streams: set 'stream' to true.", WISH)
    if resume_s <= 0:
        raise bad_request("invalid_value", "This server keeps no streams; leave the header out.", WISH)
    return True


@asynccontextmanager
async def _begun(
    backend: Source, request: GenerationRequest
) -> AsyncIterator[tuple[asyncio.Task[Output | None], AsyncGenerator[Output, None]]]:
    """`request` has a reader, which gets the first output (None: there is none) and waits then; the others follow."""
    async with aclosing(cast("AsyncGenerator[Output, None]", backend.generate(request))) as outputs:
        first = asyncio.create_task(_first(outputs))
        try:
            yield first, outputs
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


async def _first(outputs: AsyncGenerator[Output, None]) -> Output | None:
    return await anext(outputs, None)


def _progress(request: GenerationRequest) -> tuple[float, int, bool, int, int]:
    """Sorts what several have of one request: last what its client was sent, and of that what goes farthest. Those who
    were given up may live and have written more, but with sampling not the same."""
    at = _standing(request)
    return _keep(request).fetched_at, request.num_takeovers, at.finished is not None, at.num_tokens, at.num_chars


def _standing(request: GenerationRequest) -> Standing:
    if request.resume is None:
        raise RuntimeError(f"request {request.request_id} was handed over without what was written")
    return request.resume


def _last_step(standing: Standing) -> int:
    return max(0, standing.counts.num_steps - 1) if standing.counts is not None else 0


def _fetched(requests: Sequence[GenerationRequest]) -> tuple[GenerationRequest, ...]:
    """`requests` as a fetch of their own. Clocks of gateways differ: it is later than those before in any case."""
    before = max(_keep(each).fetched_at for each in requests)
    now = max(time.time(), math.nextafter(before, math.inf))
    return tuple(replace(each, keep=replace(_keep(each), fetched_at=now), num_takeovers=0) for each in requests)


def _manner(request: GenerationRequest) -> Manner:
    return Manner.read(_keep(request).manner)


def _keep(request: GenerationRequest) -> Keep:
    if request.keep is None:
        raise RuntimeError(f"request {request.request_id} was handed over and never kept")
    return request.keep


def _gone(request_id: str) -> HttpError:
    message = (
        f"There is no stream {request_id[:128]!r} to go on with: it was never resumable, is another key's, or was not "
        "fetched in time."
    )
    return HttpError(404, "stream_not_found", message, "request_id")
