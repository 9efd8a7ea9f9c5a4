"""What passes of a replayed engine hold, and how long they take."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from actors.engines.hint_matching import MatchRules
from actors.messages import Sampling, StepRule, TokenIds
from deployments.simulation.cost_file import PassTimes, RoleCosts
from deployments.simulation.replay_cache import ReadBefore
from deployments.simulation.replay_engine import PassCost, ReplayEngine
from deployments.simulation.replay_text import ReplayText, Vocabulary
from tests.unit.clock import run_virtually

PASS_S, READ_S = 0.1, 0.01
"""Of a pass, and of each token that it reads."""
SIZE = 8
"""Of a block."""


def engine(prompt: TokenIds = (1,), rules: MatchRules | None = None, **more: float) -> ReplayEngine:
    vocabulary = Vocabulary()
    words = tuple(vocabulary.id(f"w{at}\n") for at in range(9))
    costs = RoleCosts(
        model="t",
        passes=[PassTimes(proposed=0, pass_s=[(1, PASS_S), (2, 2 * PASS_S)])],
        reading_s=[(1, PASS_S), (101, PASS_S + 100 * READ_S)],
        **more,  # type: ignore[arg-type]
    )
    text = ReplayText(vocabulary, words)
    return ReplayEngine(text, prompt, PassCost(costs), is_draft=False, rules=rules, block_size=SIZE)


async def write(one: ReplayEngine, prompt: TokenIds) -> float:
    """A step of one token; when it was there."""
    call_id = f"write-{asyncio.get_running_loop().time()}"
    options = {"max_tokens": 9, "rule": StepRule("line"), "max_steps": 1, "sampling": Sampling()}
    async for _ in one.generate(call_id, prompt, **options, token_speculation="none"):  # type: ignore[arg-type]
        pass
    return asyncio.get_running_loop().time()


def test_judges_that_share_a_pass_read_one_after_another() -> None:
    """Each has a prompt of its own; what they have in common is the pass. What one took was measured in a server."""

    async def run() -> list[float]:
        one = engine(stream_s=0.03)

        async def read(call_id: str, after_s: float = 0.0) -> float:
            await asyncio.sleep(after_s)
            await one.read(call_id, 1.0)
            return asyncio.get_running_loop().time()

        ends = await asyncio.gather(read("a"), read("b", 0.5), read("c", 0.5))
        await one.shutdown()
        return list(ends)

    pass_s = PASS_S + 0.03
    assert run_virtually(run()) == pytest.approx([1.0, 3.0 - pass_s, 3.0 - pass_s])


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


@pytest.mark.parametrize(("rules", "num_read"), [(MatchRules(), 1), (None, 5)])
def test_a_call_goes_on_inside_the_block_of_the_one_before_where_the_engine_has_our_scheduler(
    rules: MatchRules | None, num_read: int
) -> None:
    async def run() -> float:
        prompt = tuple(range(100, 112))
        one = engine(prompt, rules)
        await write(one, prompt)
        await asyncio.sleep(1.0)
        begun = asyncio.get_running_loop().time()
        ended = await write(one, (*prompt, *one._text.truth[:1]))
        await one.shutdown()
        return ended - begun

    assert run_virtually(run()) == pytest.approx(PASS_S + (num_read - 1) * READ_S)


def test_what_is_left_of_a_block_is_handed_on_once() -> None:
    read = ReadBefore(SIZE, 4)
    read.keep(tuple(range(12)))
    assert read.num_to_read(tuple(range(14))) == 2
    assert read.num_to_read(tuple(range(14))) == 6, "the whole block is anybody's"
    assert read.num_to_read(tuple(range(20)), running=[tuple(range(18))]) == 4, "of one that runs, too"
    read.keep(tuple(range(16)))
    assert read.num_to_read(tuple(range(16))) == 1, "the last one at least"


def test_only_the_last_blocks_and_the_newest_calls_are_kept() -> None:
    read = ReadBefore(SIZE, 1)
    read.keep(tuple(range(60)))
    assert read.num_to_read((*range(11), 99, 98)) == 5, "in block 1 of 8"
    assert read.num_to_read((*range(50), 99)) == 1
    read.keep(tuple(range(60)))
    read.keep((7,))
    assert read.num_to_read((*range(50), 99)) == 3, "another one has ended since"


def test_a_call_for_one_step_ends_with_it_and_delays_nobody() -> None:
    """The engine stops by itself where one token tells that the step is over: the next call finds it idle."""

    async def run() -> float:
        one = engine()
        first = await write(one, (1,))
        second = await write(one, (1, *one._text.truth[:1]))
        await one.shutdown()
        return second - first

    assert run_virtually(run()) == pytest.approx(PASS_S + READ_S)


@pytest.mark.parametrize("max_steps", [1, 4, None])
def test_a_server_adds_to_each_pass_whatever_it_is_for(max_steps: int | None) -> None:
    """A step of the target's, a look-ahead, a stream."""

    async def run() -> list[float]:
        one, times = engine(stream_s=0.03), [0.0]
        options = {"max_tokens": 9, "rule": StepRule("line"), "max_steps": max_steps, "sampling": Sampling()}
        async for _ in one.generate("some", (1,), **options):  # type: ignore[arg-type]
            times.append(asyncio.get_running_loop().time())
        await one.shutdown()
        return [end - begin for begin, end in pairwise(times)]

    assert run_virtually(run()) == pytest.approx([PASS_S + 0.03] * (max_steps or 9))


def test_tokens_say_how_many_passes_they_took() -> None:
    """Of a pass that ends several steps the last delta tells, as of the real engine's."""

    async def run() -> tuple[list[float], float]:
        one = engine(rules=MatchRules())
        options = {"max_tokens": 9, "rule": StepRule("line"), "max_steps": None, "sampling": Sampling()}
        hinted = one.generate("hinted", (1,), **options, hints=(one._text.truth,))  # type: ignore[arg-type]
        deltas = [delta async for delta in hinted]
        await one.shutdown()
        return [delta.num_passes for delta in deltas], asyncio.get_running_loop().time()

    passes, took_s = run_virtually(run())
    assert len(passes) == 9, "each token is a step"
    assert sum(passes) == pytest.approx(took_s / PASS_S)
    assert sum(passes) < 9
    assert passes[-1] == 1.0


def test_nothing_is_guessed_behind_the_end_of_the_only_step_that_is_asked_for() -> None:
    async def run() -> list[int]:
        one = engine(rules=MatchRules())
        words, found = one._text.truth, []
        for max_steps in (1, 2):
            options = {"max_tokens": 9, "rule": StepRule("line"), "max_steps": max_steps, "sampling": Sampling()}
            deltas = [delta async for delta in one.generate(f"s{max_steps}", (1,), **options, hints=(words,))]  # type: ignore[arg-type]
            found.append(sum(delta.num_proposed for delta in deltas))
        await one.shutdown()
        return found

    num_of_one, num_of_two = run_virtually(run())
    assert num_of_one == 1 < num_of_two


def test_passes_are_disturbed_by_words_only_while_words_come() -> None:
    async def run() -> list[float]:
        one, other = engine(disturbance=0.0, disturbance_guided=1.0), engine()
        one.share_machine(other)
        options = {"max_tokens": 9, "rule": StepRule("line"), "max_steps": None, "sampling": Sampling()}
        beside = asyncio.create_task(other.read("beside", 9.0))
        loop, times = asyncio.get_running_loop(), list[float]()
        loop.call_at(1.5 * PASS_S, asyncio.ensure_future, one.add_hints("told", ((3, 4),)))
        async for _ in one.generate("told", (1,), **options):  # type: ignore[arg-type]
            times.append(loop.time())
        beside.cancel()
        await asyncio.gather(one.shutdown(), other.shutdown())
        return [end - begin for begin, end in pairwise(times[:4])]

    assert run_virtually(run()) == pytest.approx([PASS_S, 2.0 * PASS_S, PASS_S])
