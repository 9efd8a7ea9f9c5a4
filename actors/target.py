"""The target role: writes what counts.

Promises: a step is what the target itself writes after the prefix, no token more; a stream runs to the end of the text
at the engine's full speed, its steps marked but never cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from actors.errors import ServiceError
from actors.messages import Delta, Step, StepRequest, TokenIds
from actors.writer import ModelWriter


class TargetModel(ModelWriter):
    """`actors.roles.Target` over an engine."""

    async def decode(self, token_ids: TokenIds, vocabulary: str) -> str:
        """The text of `token_ids`, special tokens included; OtherVocabulary unless this model's is `vocabulary`."""
        self._require_own(vocabulary)
        return await self._engine.decode(token_ids)

    async def step(self, request: StepRequest) -> Step:
        """The step that follows `request.prefix`, of at most ``min(max_tokens, rule.max_tokens)`` tokens."""
        max_tokens = min(request.max_tokens, request.rule.max_tokens)
        async with aclosing(self._steps(request, max_tokens, max_steps=1)) as steps:
            async for step in steps:
                return step
        raise ServiceError(f"{self._info.model} ended a call without a step; try again.")

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        """As `step`, and before it what is written so far: the first tokens at once, then at most one delta in
        `every_s` seconds."""
        max_tokens = min(request.max_tokens, request.rule.max_tokens)
        waiting: list[Delta] = []
        clock = asyncio.get_running_loop().time
        told_at = clock() - every_s
        async with aclosing(self._deltas_and_steps(request, max_tokens, max_steps=1)) as items:
            async for item in items:
                if isinstance(item, Step):
                    yield item
                    return
                waiting.append(item)
                now = clock()
                if now - told_at >= every_s and any(delta.token_ids for delta in waiting):
                    yield _joined(waiting)
                    waiting, told_at = [], now
        raise ServiceError(f"{self._info.model} ended a call without a step; try again.")

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        """The text that follows `request.prefix`, token by token, to its end or to `max_tokens`.

        The deltas' `ending` marks the steps inside; the stream's last delta has ``END``, or ``CAP`` at `max_tokens`.
        """
        deltas = self._deltas(request, request.max_tokens, max_steps=None)
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta if delta.ending is None else replace(delta, num_running=self._num_generations)


def _joined(deltas: list[Delta]) -> Delta:
    text = "".join(delta.text for delta in deltas)
    token_ids = tuple(token for delta in deltas for token in delta.token_ids)
    num_passes = sum(delta.num_passes for delta in deltas)
    last = deltas[-1]
    return Delta(text, token_ids, None, last.replica, last.num_cached_tokens, num_passes=num_passes)
