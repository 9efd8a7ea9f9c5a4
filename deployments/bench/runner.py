"""Asks every question of a plan and records every answer.

Promises: per block a closed loop, never more than `concurrency` requests in flight; a request that was recorded is not
asked again; a failure is recorded like an answer; a server that is gone ends the run at once with what was measured so
far kept.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from actors.errors import LookaheadError, ServiceError
from actors.messages import Message
from deployments.bench.grading import is_correct
from deployments.bench.plan import Block, Plan, blocks
from deployments.bench.problems import Problem
from deployments.bench.record import Measurement, Record
from deployments.bench.token_counts import TokenCounter
from deployments.bench.variants import wishes
from deployments.cli.client import Question, Reply, ask, get_json

_WARM_UP = "What is 6 times 7?"
_WARM_UP_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Manner:
    """What may differ between two starts of one run: seconds for each request, whether to keep step traces, whether to
    ask again what failed."""

    timeout_s: float
    traces: bool = False
    retry_failed: bool = False


def remaining(plan: Plan, record: Record, retry_failed: bool) -> list[tuple[Block, deque[int]]]:
    """What is still to be asked, in order: each block with its prompts that are not settled."""
    settled = record.settled(retry_failed)
    work = [
        (block, deque(i for i in block.indices if (block.concurrency, block.mode, i) not in settled))
        for block in blocks(plan)
    ]
    return [(block, indices) for block, indices in work if indices]


@dataclass(frozen=True, slots=True)
class Runner:
    """One start of a run against one server."""

    http: httpx.AsyncClient
    model: str
    plan: Plan
    problems: Sequence[Problem]
    record: Record
    manner: Manner
    on_answer: Callable[[Measurement], None] = lambda measurement: None
    counter: TokenCounter | None = None
    """Counts what engines propose to themselves, where the server says it."""

    async def run(self) -> None:
        """Ask all that is not recorded yet. Raises ServiceError if the server is gone or refuses a mode."""
        work = remaining(self.plan, self.record, self.manner.retry_failed)
        if work:
            await self._warm_up()
        for block, indices in work:
            await self._loop(block, indices)

    async def _warm_up(self) -> None:
        """One short question in each mode, not measured: engines compile and caches fill on first use, and a mode that
        the server refuses shows before anything is recorded."""
        for mode in self.plan.modes:
            reply = await ask(
                self.http, self._question(mode, _WARM_UP, 0, _WARM_UP_TOKENS), timeout_s=self.manner.timeout_s
            )
            if reply.error:
                raise ServiceError(f"Mode {mode} does not work on this server: {reply.error}")

    async def _loop(self, block: Block, indices: deque[int]) -> None:
        if self.counter is not None:
            await self.counter.since_last()  # whatever was counted before belongs to another block

        async def worker() -> None:
            while indices:
                await self._measure(block, indices.popleft())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(block.concurrency, len(indices))):
                    group.create_task(worker())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _measure(self, block: Block, index: int) -> None:
        problem = self.problems[index]
        started_at = time.time()
        question = self._question(block.mode, problem.question, index, self.plan.max_tokens)
        reply = await ask(self.http, question, timeout_s=self.manner.timeout_s)
        correct = _grade(reply, problem.answer)
        measurement = Measurement(
            mode=block.mode,
            concurrency=block.concurrency,
            index=index,
            question=problem.question,
            answer=problem.answer,
            text=reply.text,
            reasoning=reply.reasoning,
            correct=correct,
            latency_s=reply.latency_s,
            ttft_s=reply.ttft_s,
            output_tokens=reply.output_tokens,
            tokens_per_s=reply.tokens_per_s,
            started_at=started_at,
            ended_at=started_at + reply.latency_s,
            finish_reason=reply.finish_reason,
            request_id=reply.request_id,
            speculation=reply.speculation,
            usage=reply.usage,
            error=reply.error,
            trace=await self._trace(reply) if self.manner.traces else None,
            token_counts=await self.counter.since_last() if self.counter is not None else None,
        )
        self.record.add(measurement)
        self.on_answer(measurement)

    def _question(self, mode: str, text: str, index: int, max_tokens: int) -> Question:
        plan = self.plan
        defaults = {"fidelity": plan.fidelity, "verifier": plan.verifier, "max_lookahead": plan.max_lookahead}
        speculation = {name: value for name, value in defaults.items() if value is not None} | wishes(mode)
        message = Message("user", f"{text}\n\n{plan.instruction}")
        return Question((message,), self.model, max_tokens, plan.temperature, plan.seed + index, speculation)

    async def _trace(self, reply: Reply) -> dict[str, object] | None:
        """The step trace; a trace that cannot be had is noted in its place and fails nothing."""
        if not reply.request_id:
            return None
        try:
            found = await get_json(self.http, f"/v1/traces/{reply.request_id}")
        except LookaheadError as error:
            return {"error": str(error)}
        return found if isinstance(found, dict) else {"error": "the server's trace is not an object"}


def _grade(reply: Reply, answer: str | None) -> bool | None:
    if answer is None:
        return None
    return reply.error is None and is_correct(reply.text, answer, complete=reply.finish_reason != "length")
