"""What passes of a replayed engine hold, and how long they take."""

from __future__ import annotations

import asyncio

import pytest

from actors.messages import Sampling, StepRule, TokenIds
from deployments.simulation.cost_file import PassTimes, RoleCosts
from deployments.simulation.replay_engine import PassCost, ReplayEngine
from deployments.simulation.replay_text import ReplayText, Vocabulary
from tests.unit.clock import run_virtually

PASS_S, READ_S = 0.1, 0.01
"""Of a pass, and of each token that it reads."""
SIZE = 8
"""Of a block."""


def engine(prompt: TokenIds = (1,)) -> ReplayEngine:
    vocabulary = Vocabulary()
    words = tuple(vocabulary.id(f"w{at}\n") for at in range(9))
    costs = RoleCosts(
        model="t",
        passes=[PassTimes(proposed=0, pass_s=[(1, PASS_S), (2, 2 * PASS_S)])],
        reading_s=[(1, PASS_S), (101, PASS_S + 100 * READ_S)],
    )
    text = ReplayText(vocabulary, words)
    return ReplayEngine(text, prompt, PassCost(costs), is_draft=False, rules=None, block_size=SIZE)


async def write(one: ReplayEngine, prompt: TokenIds) -> float:
    """A step of one token; when it was there."""
    call_id = f"write-{asyncio.get_running_loop().time()}"
    options = {"max_tokens": 9, "rule": StepRule("line"), "max_steps": 1, "sampling": Sampling()}
    async for _ in one.generate(call_id, prompt, **options, token_speculation="none"):  # type: ignore[arg-type]
        pass
    return asyncio.get_running_loop().time()


def test_judges_that_share_a_pass_read_one_after_another() -> None:
    """Each has a prompt of its own; what they have in common is the pass."""

    async def run() -> list[float]:
        one = engine()

        async def read(call_id: str, after_s: float = 0.0) -> float:
            await asyncio.sleep(after_s)
            await one.read(call_id, 1.0)
            return asyncio.get_running_loop().time()

        ends = await asyncio.gather(read("a"), read("b", 0.5), read("c", 0.5))
        await one.shutdown()
        return list(ends)

    assert run_virtually(run()) == pytest.approx([1.0, 3.0 - PASS_S, 3.0 - PASS_S])


def test_a_step_that_shares_a_judge_s_pass_is_not_read_for_nothing() -> None:
    async def run() -> float:
        prompt = tuple(range(21))
        one = engine(prompt)
        judge = asyncio.create_task(one.read("a", 1.0))
        ended = await write(one, prompt)
        await judge
        await one.shutdown()
        return ended

    assert run_virtually(run()) == pytest.approx(1.0 + 20 * READ_S)
