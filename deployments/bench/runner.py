"""Asks every question of a plan and records every answer.

Promises: in a closed loop never more than `concurrency` requests are in flight, in an open loop each is sent at its
time whoever else was answered; what was recorded is not asked again, but with its whole block where the block was not
asked in one go; a failure is recorded like an answer; what is not measuring happens between the blocks, except that a
trace which is to be kept is fetched by the user who was answered, before the next question; nothing is found in a
prefix cache that another mode, load or start has read, where the server is known to take salts (ours, and vLLM's own
that were started for the run); a server that is gone ends the run at once with what was measured so far kept.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from actors.errors import ServiceError
from actors.messages import Message
from deployments.bench.plan import Block, Load, Plan, arrivals, blocks
from deployments.bench.problems import Problem
from deployments.bench.record import Key, Measurement, Record, latest
from deployments.bench.review import Server, fetch_trace, review_all
from deployments.bench.variants import asked, takes_salt
from deployments.server.client import Question, Reply, ask

WARM_UP, WARM_UP_TOKENS = "What is 6 times 7?", 24
"""Asked in each mode before anything is measured."""
SETTLE_S = 1.2
"""Between two servers: vLLM's workers poll for a second after their last pass, and share the cores with the next."""


@dataclass(frozen=True, slots=True)
class Manner:
    """What may differ between two starts of one run: seconds for each request, whether to keep step traces, whether to
    ask blocks again in which a request failed; and `salt`, which no two starts have in common."""

    timeout_s: float
    traces: bool = False
    retry_failed: bool = False
    salt: str = field(default_factory=lambda: secrets.token_hex(8))


def remaining(plan: Plan, lines: Iterable[Measurement], retry_failed: bool) -> list[tuple[Block, deque[int]]]:
    """What is still to be asked, in order: each block with its prompts. A block is asked in one go or again as a whole:
    what is left of it would meet fewer others than the rest did, and pass for the same load."""
    asked = latest(lines)
    return [(block, deque(block.indices)) for block in blocks(plan) if not _is_done(block, asked, retry_failed)]


def count_left(plan: Plan, lines: Iterable[Measurement], retry_failed: bool) -> int:
    """How many requests are still to be asked."""
    return sum(len(indices) for _, indices in remaining(plan, lines, retry_failed))


def _is_done(block: Block, asked: Mapping[Key, Measurement], retry_failed: bool) -> bool:
    lines = [asked.get((block.load, block.mode, index)) for index in block.indices]
    found = [line for line in lines if line is not None and (line.is_whole or not retry_failed)]
    return len(found) == len(lines) and len({line.block_started_at for line in found}) == 1


@dataclass(frozen=True, slots=True)
class Runner:
    """One start of a run, or the part of it that `servers` answer: they are by mode."""

    servers: Mapping[str, Server]
    plan: Plan
    problems: Sequence[Problem]
    record: Record
    manner: Manner
    on_answer: Callable[[Measurement], None] = lambda measurement: None

    async def run(self) -> None:
        """Ask all that is not recorded yet of the modes that have a server. Raises ServiceError if one is gone or
        refuses a mode."""
        work = [
            (block, indices)
            for block, indices in remaining(self.plan, self.record.lines, self.manner.retry_failed)
            if block.mode in self.servers
        ]
        if work:
            await self._warm_up()
        await review_all(self.record, self.problems, self.servers)
        before: Server | None = None
        for block, indices in work:
            server = self.servers[block.mode]
            if before is not None and server is not before:
                await asyncio.sleep(SETTLE_S)
            before, counter = server, server.counter
            await counter.since_last()  # what was counted before belongs to another block
            await (self._closed_loop(block, indices) if block.load.rate is None else self._open_loop(block, indices))
            await review_all(self.record, self.problems, self.servers, await counter.since_last())

    async def _warm_up(self) -> None:
        """One short question in each mode, not measured: engines compile and caches fill on first use, and a mode that
        the server refuses shows before anything is recorded."""
        for mode in filter(self.servers.__contains__, self.plan.modes):
            question = self._question(mode, self.plan.loads[0], WARM_UP, 0, WARM_UP_TOKENS)
            reply = await ask(self.servers[mode].http, question, timeout_s=self.manner.timeout_s)
            if reply.error:
                raise ServiceError(
                    f"Mode {mode} does not work on this server: {reply.error} "
                    "(A server that is not lookahead takes the mode 'plain'.)"
                )

    async def _closed_loop(self, block: Block, indices: deque[int]) -> None:
        started_at, num_users = time.time(), min(block.load.concurrency or 1, len(indices))

        async def user() -> None:
            while indices:
                await self._measure(block, indices.popleft(), started_at)

        await _together(user() for _ in range(num_users))

    async def _open_loop(self, block: Block, indices: Sequence[int]) -> None:
        started_at, zero = time.time(), time.perf_counter()

        async def arrival(index: int, at_s: float) -> None:
            await asyncio.sleep(zero + at_s - time.perf_counter())
            late_s = time.perf_counter() - zero - at_s
            await self._measure(block, index, started_at, late_s)

        offsets = arrivals(self.plan.seed, block.load.rate or 1.0, indices)
        await _together(arrival(index, at_s) for index, at_s in zip(indices, offsets, strict=True))

    async def _measure(self, block: Block, index: int, block_started_at: float, late_s: float = 0.0) -> None:
        problem, server = self.problems[index], self.servers[block.mode]
        started_at = time.time()
        question = self._question(block.mode, block.load, problem.question, index, self.plan.max_tokens)
        reply = await ask(server.http, question, timeout_s=self.manner.timeout_s)
        line = Measurement(
            mode=block.mode,
            concurrency=block.load.concurrency,
            rate=block.load.rate,
            index=index,
            question=problem.question,
            answer=problem.answer,
            started_at=started_at,
            ended_at=started_at + reply.latency_s,
            late_s=late_s,
            block_started_at=block_started_at,
            **_fields(reply),
        )
        if self.manner.traces:
            line = replace(line, trace=await fetch_trace(line, server))
        self.record.add(line)
        self.on_answer(line)

    def _question(self, mode: str, load: Load, text: str, index: int, max_tokens: int) -> Question:
        plan = self.plan
        message = Message("user", f"{text}\n\n{plan.instruction}")
        model = self.servers[mode].model
        speculation = asked(mode, asdict(plan))
        salt = f"{self.manner.salt} {mode}, {load}" if takes_salt(mode) else None
        return Question((message,), model, max_tokens, plan.temperature, plan.seed + index, speculation, salt)


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All at once; the first failure ends the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _fields(reply: Reply) -> dict[str, Any]:
    """What a measurement takes over from a reply."""
    names = ("text", "reasoning", "latency_s", "ttft_s", "first_step_s", "longest_silence_s", "output_tokens")
    rest = ("tokens_per_s", "finish_reason", "request_id", "speculation", "usage", "error")
    return {name: getattr(reply, name) for name in names + rest}
