"""What a step costs at the end of a long text, against one at its beginning.

Promises: the production coordinator and roles in one process, over engines whose own work does not grow with the text;
the cost of a step is this process's CPU time, so waiting is not in it; and what it takes to hand a call of the target
to another process.

Run: ``python -m deployments.bench.long_text``
"""

from __future__ import annotations

import asyncio
import json
import pickle  # nosec B403  # of our own values
import statistics
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

import typer

from actors.draft import Draft
from actors.messages import (
    Delta,
    Ending,
    EngineLoad,
    Nearby,
    Piece,
    Prefix,
    Prompt,
    RoleInfo,
    Sampling,
    SpeculationStats,
    StepRequest,
    StepRule,
    TokenIds,
)
from actors.target import TargetModel
from deployments.config import validate_config
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.generation import Committed, GenerationRequest, SpeculationOptions
from deployments.link.kept import NUM_PLACES, Keeper, Sender

STEP_TOKENS = 53
PROMPT_TOKENS = 100
VOCABULARY = "even steps"
TARGET_STEP_S = 0.004
DRAFT_STEP_S = 0.001
AGREES_OF_TEN = 7
"""Of ten draft steps, so many are the target's."""
NUM_TEXTS = 3
SHARE = 10
"""The first and the last of so many parts are compared."""


class EvenEngine:
    """An engine whose every step has `STEP_TOKENS` tokens; what it says depends on the number of the step alone."""

    def __init__(self, num_steps: int, step_s: float, strays: bool) -> None:
        self._num_steps = num_steps
        self._step_s = step_s
        self._strays = strays
        self._running = 0

    def describe(self) -> RoleInfo:
        """As `Engine.describe`."""
        return RoleInfo("even", VOCABULARY, PROMPT_TOKENS + (self._num_steps + 1) * STEP_TOKENS)

    async def encode_prompt(self, prompt: Prompt) -> TokenIds:
        """As `Engine.encode_prompt`."""
        return (7,) * PROMPT_TOKENS

    def encode_text(self, text: str) -> TokenIds:
        """As `Engine.encode_text`; nothing is ever foreign here."""
        raise AssertionError(f"text of another vocabulary: {text[:20]!r}")

    async def decode(self, token_ids: TokenIds) -> str:
        """As `Engine.decode`; no prompt comes as token ids here."""
        raise AssertionError(f"a prompt of {len(token_ids)} token ids")

    async def generate(
        self,
        call_id: str,
        token_ids: TokenIds,
        *,
        max_tokens: int,
        rule: StepRule,
        max_steps: int | None,
        sampling: Sampling,
        priority: int = 0,
        hints: tuple[TokenIds, ...] = (),
        nearby: tuple[Nearby, ...] = (),
        token_speculation: str = "hints",
        cache_salt: str = "",
    ) -> AsyncGenerator[Delta, None]:
        """As `Engine.generate`, a step a delta."""
        number = (len(token_ids) - PROMPT_TOKENS) // STEP_TOKENS
        self._running += 1
        try:
            for step in range(number, number + (max_steps or self._num_steps)):
                await asyncio.sleep(self._step_s)
                word = 11 if self._strays and step % 10 >= AGREES_OF_TEN else 10
                is_last = step + 1 == self._num_steps
                text = ("word " if word == 10 else "else ") * (STEP_TOKENS - 1) + "\n\n"
                yield Delta(text, (word,) * (STEP_TOKENS - 1) + (9,), Ending.END if is_last else Ending.BOUNDARY)
                if is_last:
                    return
        finally:
            self._running -= 1

    async def add_hints(self, call_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Engine.add_hints`: hints change nothing."""

    async def speculation_stats(self) -> SpeculationStats | None:
        """As `Engine.speculation_stats`: it does not speculate."""
        return None

    async def next_token_probabilities(
        self, call_id: str, token_ids: TokenIds, wanted: TokenIds, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """As `Engine.next_token_probabilities`."""
        return (1.0,) * len(wanted)

    async def token_logprobs(
        self, call_id: str, token_ids: TokenIds, start: int, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """As `Engine.token_logprobs`."""
        return (0.0,) * (len(token_ids) - start)

    async def check_health(self) -> None:
        """As `Engine.check_health`."""

    def num_running(self) -> int:
        """As `Engine.num_running`."""
        return self._running

    def load(self) -> EngineLoad:
        """As `Engine.load`."""
        return EngineLoad(self.num_running())

    async def shutdown(self) -> None:
        """As `Engine.shutdown`."""


def coordinator(num_steps: int) -> Coordinator:
    """The production coordinator over roles in this process."""
    writer = {"model": "even", "engine": {"kind": "scripted"}}
    config = validate_config({"served_model_name": "even", "target": writer, "draft": writer}, "long text")
    target = EvenEngine(num_steps, TARGET_STEP_S, strays=False)
    return Coordinator(config, Roles(TargetModel(target), Draft(EvenEngine(num_steps, DRAFT_STEP_S, strays=True))))


async def costs_s(num_steps: int, mode: str) -> list[float]:
    """CPU seconds of each committed step of one text."""
    wishes = SpeculationOptions(mode=mode, max_lookahead=4, controller=False)
    request = GenerationRequest("long", Prompt(text="?"), max_tokens=num_steps * STEP_TOKENS, speculation=wishes)
    spent: dict[int, float] = {}
    before = time.process_time()
    async for output in coordinator(num_steps).generate(request):
        if isinstance(output, Committed):
            now = time.process_time()
            spent[output.step] = spent.get(output.step, 0.0) + now - before
            before = now
    return [spent[step] for step in sorted(spent)]


def handover(num_tokens: int) -> tuple[float, int]:
    """Seconds to hand a call of the target behind `num_tokens` tokens to another process that keeps what it had of the
    text before, the best of ten; and the bytes on the way."""
    prefix = Prefix((7,) * PROMPT_TOKENS)
    for start in range(0, num_tokens, STEP_TOKENS):
        prefix = prefix.extended(Piece("word " * STEP_TOKENS, tuple(range(start, start + STEP_TOKENS)), VOCABULARY))
    request = StepRequest("call", "session", prefix, StepRule(), 256)
    sender, keeper = Sender(), Keeper()
    sender.num_places = NUM_PLACES
    for place, part in sender.short((request,))[0]:
        keeper.keep(place, part)
    best, num_bytes = float("inf"), 0
    for _ in range(10):
        began = time.perf_counter()
        data = pickle.dumps(sender.short((request,))[1], protocol=5)
        keeper.whole(pickle.loads(data))  # nosec B301
        best, num_bytes = min(best, time.perf_counter() - began), len(data)
    return best, num_bytes


def measure(num_steps: int, modes: Sequence[str] = ("target", "lookahead")) -> list[dict[str, Any]]:
    """A row for each mode."""
    rows = []
    for mode in modes:
        texts = [asyncio.run(costs_s(num_steps, mode)) for _ in range(NUM_TEXTS)]
        costs = [min(each) for each in zip(*texts, strict=True)]  # what else runs on the machine makes steps dearer
        part = max(1, len(costs) // SHARE)
        first, last = statistics.mean(costs[part : 2 * part]), statistics.mean(costs[-part - 1 : -1])
        rows.append(
            {
                "mode": mode,
                "num_steps": len(costs),
                "num_tokens": num_steps * STEP_TOKENS,
                "first_ms": round(first * 1000, 3),
                "last_ms": round(last * 1000, 3),
                "ratio": round(last / first, 3),
            }
        )
    return rows


def main(num_steps: Annotated[int, typer.Option(help="Steps of the text, of 53 tokens each.")] = 604) -> None:
    """Measure what a step costs at both ends of a text. Example: python -m deployments.bench.long_text"""
    for row in measure(num_steps):
        typer.echo(json.dumps(row))
    for num_tokens in (STEP_TOKENS, num_steps * STEP_TOKENS // 2, num_steps * STEP_TOKENS):
        seconds, num_bytes = handover(num_tokens)
        row = {"num_tokens": num_tokens, "handover_ms": round(seconds * 1000, 3), "handover_bytes": num_bytes}
        typer.echo(json.dumps(row))


if __name__ == "__main__":
    typer.run(main)
