"""Roles behind Ray Serve handles, with the Protocols of `actors.roles`.

Promises: whatever ends a call here (result, error, cancellation, a closed iterator) ends it in the replica and in its
engine; waiting for a replica is bounded; Ray's errors become errors of `actors.errors`; all calls of one session go to
the same replica while it lives (Serve's consistent-hash router).

Why every call that may be long is a stream, also the unary ones: Serve's router waits for a replica without bound, so
the replica says at once that it has taken the call, and only that first word is waited for with a time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from actors.errors import CapacityError, LookaheadError, RoleUnavailable
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

TAKEN = "taken"
"""First item of every stream of a replica: the call has a replica now."""


class Pool:
    """Calls to the replicas of one deployment. `role` names it in errors; `wait_s` bounds the wait for a replica."""

    def __init__(self, handle: DeploymentHandle[Any], role: str, wait_s: float) -> None:
        self._handle = handle
        self._streams = handle.options(stream=True)
        self._role = role
        self._wait_s = wait_s

    async def call(self, method: str, session_id: str, *args: Any) -> Any:
        """The result of a short unary call, which must be there within the bound."""
        response = self._handle.options(method_name=method, session_id=session_id).remote(*args)
        done = False
        try:
            async with asyncio.timeout(self._wait_s):
                result = await response
            done = True
            return result
        except Exception as error:
            raise self._translated(error) from error
        finally:
            if not done:
                response.cancel()

    async def items(self, method: str, session_id: str, *args: Any) -> AsyncGenerator[Any, None]:
        """The items of a stream, after the replica's word that it has taken the call."""
        response = self._streams.options(method_name=method, session_id=session_id).remote(*args)
        done = False
        try:
            async with asyncio.timeout(self._wait_s):
                await anext(response)
            async for item in response:
                yield item
            done = True
        except Exception as error:
            raise self._translated(error) from error
        finally:
            if not done:  # a cancellation is a message of its own, and there is nothing left to cancel
                response.cancel()

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, RayTaskError) and isinstance(error.cause, LookaheadError):
            return error.cause
        if isinstance(error, LookaheadError):
            return error
        if isinstance(error, TimeoutError):
            return RoleUnavailable(f"No {self._role} replica took the call within {self._wait_s:g} s.")
        if isinstance(error, BackPressureError):
            return CapacityError(f"All {self._role} replicas are full; try again in a moment.")
        if isinstance(error, RayError | DeploymentUnavailableError | RequestCancelledError | StopAsyncIteration):
            return RoleUnavailable(f"The {self._role} replica was lost: {type(error).__name__}.")
        return error


class WriterPool:
    """What the pools of draft and target have in common."""

    def __init__(self, handle: DeploymentHandle[Any], role: str, wait_s: float) -> None:
        self._pool = Pool(handle, role, wait_s)

    async def describe(self) -> RoleInfo:
        """As `Writer.describe`."""
        info: RoleInfo = await self._pool.call("describe", "")
        return info

    async def encode(self, prompt: Prompt) -> TokenIds:
        """As `Writer.encode`."""
        ids: TokenIds = await self._pool.call("encode", "", prompt)
        return ids

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Writer.add_hints`."""
        await self._pool.call("add_hints", session_id, call_id, session_id, hints)

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

    async def token_logprobs(self, prefix: Prefix, piece: Piece, session_id: str) -> tuple[float, ...]:
        """As `Scorer.token_logprobs`."""
        result: tuple[float, ...] = await self._pool.call("token_logprobs", session_id, prefix, piece, session_id)
        return result


class DraftPool(WriterPool):
    """`Drafter` over a Serve handle."""

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        """As `Drafter.look_ahead`."""
        async with aclosing(self._pool.items("look_ahead", request.session_id, request, depth)) as steps:
            async for step in steps:
                yield step

    async def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[Piece | Step, None]:
        """As `Drafter.look_ahead_in_parts`."""
        items = self._pool.items("look_ahead_in_parts", request.session_id, request, depth, part_tokens)
        async with aclosing(items):
            async for item in items:
                yield item


class TargetPool(WriterPool):
    """`Target` over a Serve handle."""

    async def step(self, request: StepRequest) -> Step:
        """As `Target.step`."""
        result: Step | None = None
        async with aclosing(self._pool.items("step", request.session_id, request)) as steps:
            async for step in steps:
                result = step
        if result is None:
            raise RoleUnavailable("The target replica ended the call without a step.")
        return result

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        """As `Target.progress`."""
        async with aclosing(self._pool.items("progress", request.session_id, request, every_s)) as items:
            async for item in items:
                yield item

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        """As `Target.stream`."""
        async with aclosing(self._pool.items("stream", request.session_id, request)) as deltas:
            async for delta in deltas:
                yield delta


class VerifierPool:
    """`Verifier` over a Serve handle."""

    def __init__(self, handle: DeploymentHandle[Any], wait_s: float) -> None:
        self._pool = Pool(handle, "verifier", wait_s)

    async def judge(self, request: JudgeRequest) -> Verdict:
        """As `Verifier.judge`."""
        verdict: Verdict = await self._pool.call("judge", request.session_id, request)
        return verdict
