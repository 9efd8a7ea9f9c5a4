"""Waiting for a role with a limit on its silence, what it has to read before it can say something, and the line in the
log where it does not answer.

Promises: whatever is waited for has ended, in the engine too, when the limit has passed; the error is one that another
attempt may help against. How long each answer took goes into its `TimeLimit`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import TypeVar

from actors.errors import LookaheadError, RoleSilent
from actors.messages import StepRequest
from actors.roles import Writer
from deployments.coordinator.latency import TimeLimit

logger = logging.getLogger(__name__)

T = TypeVar("T")
Hearing = AbstractAsyncContextManager[AsyncGenerator[T, None]]

FEW_TOKENS = 256
"""So many are read beside a first word: a role that has no more to read before it is as good as one that has none."""


class HasRead:
    """What a role has read of one request's text, as far as is known: all before the words that were heard of it, from
    the replica that the request's calls go to."""

    def __init__(self, writer: Writer | None) -> None:
        self._writer = writer
        self._num_tokens = 0
        self._home = ""

    def num_unread(self, request: StepRequest) -> int:
        """Tokens that are to be read before the first word that `request` asks for; 0 where few of them are new."""
        self._turn_to(request)
        num_unread = max(0, request.prefix.num_tokens - self._num_tokens)
        return 0 if self._num_tokens and num_unread <= FEW_TOKENS else num_unread

    def heard(self, request: StepRequest, num_written: int) -> None:
        """The call of `request` has told `num_written` tokens by now."""
        self._turn_to(request)
        self._num_tokens = max(self._num_tokens, request.prefix.num_tokens + num_written)

    def lost(self) -> None:
        """A call failed: what it had read need not be there any more."""
        self._num_tokens = 0

    def _turn_to(self, request: StepRequest) -> None:
        """Where calls go to another replica than before, nothing is read."""
        home = self._writer.home(request.session_id) if self._writer is not None else ""
        if home != self._home:
            self._home, self._num_tokens = home, 0


async def in_time(role: str, call: Awaitable[T], limit: TimeLimit, attempt: int) -> T:
    """The result of `call`, or RoleSilent. `attempt` counts the calls that were given up before."""
    clock = asyncio.get_running_loop().time
    begun, limit_s = clock(), limit.limit_s(attempt)
    try:
        async with asyncio.timeout(limit_s if math.isfinite(limit_s) else None):
            result = await call
    except TimeoutError:
        raise RoleSilent(f"The {role} was silent for {limit_s:.3g} s.") from None
    limit.took(clock() - begun)
    return result


@asynccontextmanager
async def hearing(
    role: str, items: AsyncGenerator[T, None], first: TimeLimit, later: TimeLimit, attempt: int
) -> AsyncGenerator[AsyncGenerator[T, None], None]:
    """The items of `items`, as from `heard`; in the end `items` is closed."""
    async with aclosing(items), aclosing(heard(role, items, first, later, attempt)) as timely:
        yield timely


async def heard(
    role: str, items: AsyncGenerator[T, None], first: TimeLimit, later: TimeLimit, attempt: int
) -> AsyncGenerator[T, None]:
    """The items of `items`, each of which must come in time; else RoleSilent. Their owner closes `items`.

    To be read in one task. The reader's own time does not count.
    """
    clock, limit, limit_s = asyncio.get_running_loop().time, first, 0.0
    try:
        async with asyncio.timeout(None) as alarm:  # one for all items: entering one for each costs more than the item
            while True:
                limit_s, begun = limit.limit_s(attempt), clock()
                alarm.reschedule(begun + limit_s if math.isfinite(limit_s) else None)
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                alarm.reschedule(None)
                limit.took(clock() - begun)
                yield item
                limit = later
    except TimeoutError:
        if not alarm.expired():
            raise
        raise RoleSilent(f"The {role} was silent for {limit_s:.3g} s.") from None


def report(role: str, error: Exception) -> None:
    """Expected losses in a line, anything else with its traceback, since it is a defect."""
    if isinstance(error, LookaheadError):
        logger.warning("The %s did not answer: %s", role, error)
    else:
        logger.error("The %s failed in a way nobody expected", role, exc_info=error)
