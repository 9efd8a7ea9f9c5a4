"""Roles behind connections to their replicas, with the Protocols of `actors.roles`.

Promises: whatever ends a call here (result, error, cancellation, a closed iterator) ends it in the replica and in its
engine; waiting for a replica is bounded; what goes wrong is an error of `actors.errors`; all calls of one session go to
the same replica while it lives and has room.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from actors.errors import RoleUnavailable, ServiceError
from actors.messages import (
    Delta,
    JudgeRequest,
    Piece,
    Prefix,
    Prompt,
    RoleInfo,
    SpeculationStats,
    Step,
    StepRequest,
    TokenIds,
    Verdict,
)
from deployments.link.client import Link
from deployments.link.members import Members

DRAFT_WAIT_S = 1.0
"""A look-ahead waits no longer for a replica: in some modes the target waits for it, and can go on alone."""
NUM_ENDED = 1024
"""Of so many calls that have ended a pool knows where they ran: `shun` comes right after the end of a call."""


class Pool:
    """Calls to the replicas of one role. `wait_s` bounds the wait for a replica, and the whole of a short call; it may
    be set anew, for the calls that begin then."""

    def __init__(self, members: Members, wait_s: float) -> None:
        self._members = members
        self.wait_s = wait_s
        self._ended: OrderedDict[str, tuple[Link, float]] = OrderedDict()
        """Of the last calls that have ended: where they ran, and when anything was last heard of them."""
        self._running: dict[str, Link] = {}
        """Where the calls run that are under way."""

    async def call(self, method: str, session_id: str, *args: Any, link: Link | None = None) -> Any:
        """The result of a short call without effects; it is made again elsewhere if its replica is lost.

        `link` is to the replica that is asked first, where it matters which."""
        loop, wait_s = asyncio.get_running_loop(), self.wait_s
        until = loop.time() + wait_s
        avoid: frozenset[str] = frozenset()
        while True:
            if link is None or not link.is_open:
                link = await self._members.link(session_id, max(0.0, until - loop.time()), avoid)
            try:
                async with asyncio.timeout_at(until), aclosing(link.items(method, *args)) as items:
                    return await anext(items)
            except TimeoutError:
                raise RoleUnavailable(f"The {self._members.role} did not answer within {wait_s:g} s.") from None
            except RoleUnavailable:
                if link.is_open:  # the replica's own word
                    raise
                avoid |= {link.address.replica}

    def running(self, call_id: str) -> Link | None:
        """The connection that the call runs over; None where it does not."""
        return self._running.get(call_id)

    async def items(
        self, method: str, session_id: str, *args: Any, call_id: str = "", wait_s: float = math.inf
    ) -> AsyncGenerator[Any, None]:
        """The items of a stream of one replica; after its failure the next call of the session goes elsewhere.

        `call_id` is its name for `shun` and `running`; `wait_s` bounds its wait for a replica further."""
        link = await self._members.link(session_id, min(self.wait_s, wait_s))
        clock = asyncio.get_running_loop().time
        heard_at = clock()
        link.silence.tried(heard_at)
        self._running[call_id] = link
        try:
            async with aclosing(link.items(method, *args)) as items:
                async for item in items:
                    heard_at = clock()
                    link.silence.heard(heard_at)
                    yield item
        except ServiceError:
            self._members.shun(session_id, link)
            raise
        finally:
            self._running.pop(call_id, None)
            self._ended[call_id] = link, heard_at
            while len(self._ended) > NUM_ENDED:
                self._ended.popitem(last=False)

    def home(self, session_id: str) -> str:
        """As `Writer.home`."""
        return self._members.home(session_id)

    def shun(self, session_id: str, call_id: str) -> None:
        """As `Writer.shun`. A call that waited for a replica in vain ran on none."""
        if call_id in self._ended:
            self._members.give_up(session_id, *self._ended.pop(call_id))


class WriterPool:
    """What the pools of draft and target have in common. `max_wait_s` bounds how long what it writes waits for a
    replica, also where other calls may wait longer."""

    max_wait_s = math.inf

    def __init__(self, members: Members, wait_s: float) -> None:
        self._pool = Pool(members, wait_s)

    async def describe(self) -> RoleInfo:
        """As `Writer.describe`."""
        info: RoleInfo = await self._pool.call("describe", "")
        return info

    async def encode(self, prompt: Prompt) -> TokenIds:
        """As `Writer.encode`."""
        ids: TokenIds = await self._pool.call("encode", "", prompt)
        return ids

    async def render(self, *prompts: Prompt) -> tuple[RoleInfo, tuple[TokenIds, ...]]:
        """As `Writer.render`."""
        rendered: tuple[RoleInfo, tuple[TokenIds, ...]] = await self._pool.call("render", "", *prompts)
        return rendered

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Writer.add_hints`."""
        link = self._pool.running(call_id)  # the session may be at home elsewhere by now
        await self._pool.call("add_hints", session_id, call_id, session_id, hints, link=link)

    async def speculation_stats(self) -> SpeculationStats | None:
        """As `Writer.speculation_stats`, of one replica."""
        stats: SpeculationStats | None = await self._pool.call("speculation_stats", "")
        return stats

    async def label_probabilities(self, prompt: Prompt, labels: Sequence[str], session_id: str) -> tuple[float, ...]:
        """As `Target.label_probabilities`."""
        result: tuple[float, ...] = await self._pool.call(
            "label_probabilities", session_id, prompt, tuple(labels), session_id
        )
        return result

    async def token_logprobs(
        self, prefix: Prefix, piece: Piece, session_id: str, vocabulary: str = ""
    ) -> tuple[float, ...]:
        """As `Scorer.token_logprobs`."""
        result: tuple[float, ...] = await self._pool.call(
            "token_logprobs", session_id, prefix, piece, session_id, vocabulary
        )
        return result

    def set_wait(self, wait_s: float) -> None:
        """Calls that begin from now on wait for so long."""
        self._pool.wait_s = wait_s

    def home(self, session_id: str) -> str:
        """As `Writer.home`."""
        return self._pool.home(session_id)

    def shun(self, session_id: str, call_id: str) -> None:
        """As `Writer.shun`."""
        self._pool.shun(session_id, call_id)

    def _items(self, method: str, request: StepRequest, *args: Any) -> AsyncGenerator[Any, None]:
        call_id, wait_s = request.call_id, self.max_wait_s
        return self._pool.items(method, request.session_id, request, *args, call_id=call_id, wait_s=wait_s)


class DraftPool(WriterPool):
    """`Drafter` over a pool of replicas."""

    max_wait_s = DRAFT_WAIT_S

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        """As `Drafter.look_ahead`."""
        async with aclosing(self._items("look_ahead", request, depth)) as steps:
            async for step in steps:
                yield step

    async def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[Piece | Step, None]:
        """As `Drafter.look_ahead_in_parts`."""
        async with aclosing(self._items("look_ahead_in_parts", request, depth, part_tokens)) as items:
            async for item in items:
                yield item


class TargetPool(WriterPool):
    """`Target` over a pool of replicas."""

    async def decode(self, token_ids: TokenIds, vocabulary: str) -> str:
        """As `Target.decode`."""
        text: str = await self._pool.call("decode", "", token_ids, vocabulary)
        return text

    async def step(self, request: StepRequest) -> Step:
        """As `Target.step`."""
        async with aclosing(self._items("step", request)) as steps:
            step: Step = await anext(steps)
        return step

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        """As `Target.progress`."""
        async with aclosing(self._items("progress", request, every_s)) as items:
            async for item in items:
                yield item

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        """As `Target.stream`."""
        async with aclosing(self._items("stream", request)) as deltas:
            async for delta in deltas:
                yield delta


class VerifierPool:
    """`Verifier` over a pool of replicas."""

    def __init__(self, members: Members, wait_s: float) -> None:
        self._pool = Pool(members, wait_s)

    async def judge(self, request: JudgeRequest) -> Verdict:
        """As `Verifier.judge`."""
        verdict: Verdict = await self._pool.call("judge", request.session_id, request)
        return verdict
