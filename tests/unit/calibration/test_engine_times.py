"""Costs measured on an engine whose costs are known, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from actors.engines.scripted import ScriptedEngine
from actors.errors import ConfigError
from actors.messages import Delta, Ending, RoleInfo, SpeculationStats, TokenIds
from deployments.calibration.engine_times import Stopwatch, Timed, measure, num_parts
from deployments.simulation.cost_file import DEFAULT_MAX_NUM_SEQS, CostFile, RoleCosts
from tests.unit.clock import run_virtually

OPTIONS = {"token_s": 0.1, "sequence_s": 0.02, "first_token_s": 0.3, "num_steps": 40}


def measured(**more: object) -> tuple[RoleCosts, int]:
    told = []

    async def work() -> RoleCosts:
        engine = await ScriptedEngine.create({**OPTIONS, **more}, "r")
        try:
            return await measure(engine, "scripted", asyncio.get_running_loop().time, lambda: told.append(1))
        finally:
            assert engine.num_running() == 0
            await engine.shutdown()

    return run_virtually(work()), len(told)


def test_the_engine_s_own_speed_is_found() -> None:
    costs, num_told = measured()
    plain = costs.passes[0]
    assert plain.proposed == 0
    assert dict(plain.pass_s)[1] == pytest.approx(0.1, rel=0.03)
    assert dict(plain.pass_s)[8] == pytest.approx(0.1 + 7 * 0.02, rel=0.05)
    assert costs.prefill_passes == pytest.approx(3.0, rel=0.05)
    assert costs.call_s == 0.0
    assert costs.prefill_token_s == pytest.approx(0.0, abs=1e-4)
    assert num_told == num_parts()


class Proposing(ScriptedEngine):
    """Proposes 4 tokens a pass by look-up, of which none is right, and 8 by hints, of which all are."""

    num_drafts = num_proposed = num_accepted = 0

    async def generate(self, call_id: str, token_ids: TokenIds, **more: Any) -> AsyncGenerator[Delta, None]:
        proposed = {"ngram": 4, "hints": 8}.get(more["token_speculation"], 0) if more["max_tokens"] > 20 else 0
        left = list(range(more["max_tokens"]))
        while left:
            await asyncio.sleep(0.1 + 0.01 * proposed)
            self.num_drafts, self.num_proposed = self.num_drafts + bool(proposed), self.num_proposed + proposed
            given = left[: 9 if proposed == 8 else 1]
            left = left[len(given) :]
            self.num_accepted += len(given) - 1
            yield Delta("", tuple(given), num_passes=1.0)

    async def speculation_stats(self) -> SpeculationStats:
        return SpeculationStats(self.num_drafts, self.num_proposed, self.num_accepted)


class Unequal(Proposing):
    """Of two sequences with hints only those of the first are right: the other one takes many more passes."""

    num_hinted = 0

    async def generate(self, call_id: str, token_ids: TokenIds, **more: Any) -> AsyncGenerator[Delta, None]:
        self.num_hinted += more["token_speculation"] == "hints"
        is_wrong = more["token_speculation"] == "hints" and self.num_hinted % 3 == 0  # one alone, then two
        wished = {"max_tokens": 9 * more["max_tokens"]} if is_wrong else {}
        async for delta in super().generate(call_id, token_ids, **more | wished):
            yield replace(delta, token_ids=delta.token_ids[:1]) if is_wrong else delta


@pytest.mark.parametrize("kind", [Proposing, Unequal])
def test_passes_with_few_and_with_many_guesses_are_timed(kind: Any) -> None:
    async def work() -> RoleCosts:
        engine = await kind.create(OPTIONS, "r")
        try:
            return await measure(engine, "scripted", asyncio.get_running_loop().time)
        finally:
            await engine.shutdown()

    costs = run_virtually(work())
    assert [passes.proposed for passes in costs.passes] == [0, 4, 8]
    for passes in costs.passes:
        for _, seconds in passes.pass_s:
            assert seconds == pytest.approx(0.1 + 0.01 * passes.proposed, rel=0.05)


class Unasked(Proposing):
    """Guesses in every request, whatever that wishes for: a pass gives four tokens."""

    async def generate(self, call_id: str, token_ids: TokenIds, **more: Any) -> AsyncGenerator[Delta, None]:
        for left in range(more["max_tokens"], 0, -4):
            await asyncio.sleep(0.1)
            yield Delta("", (1,) * min(left, 4), num_passes=1.0, num_proposed=0 if left > 4 else 3 * more["max_tokens"])


def test_an_engine_that_guesses_though_it_is_not_to_is_not_timed_by_the_token() -> None:
    async def work() -> None:
        engine = await Unasked.create(OPTIONS, "r")
        try:
            await measure(engine, "scripted", asyncio.get_running_loop().time)
        finally:
            await engine.shutdown()

    with pytest.raises(ConfigError, match="guesses tokens though it is asked not to"):
        run_virtually(work())


class Breaking(ScriptedEngine):
    """A pass gives five tokens, the third of which ends a step. Whether it says so, and when."""

    says_passes = True

    async def generate(self, call_id: str, token_ids: TokenIds, **more: Any) -> AsyncGenerator[Delta, None]:
        for _ in range(more["max_tokens"] // 5):
            await asyncio.sleep(0.1)
            yield Delta("", (1, 2, 3), Ending.BOUNDARY)
            yield Delta("", (4, 5), num_passes=float(self.says_passes))


class Silent(Breaking):
    says_passes = False


@pytest.mark.parametrize(("kind", "num_passes"), [(Breaking, 8), (Silent, 40)])
def test_a_pass_in_which_a_step_ends_is_one(kind: Any, num_passes: int) -> None:
    """Of its deltas the last says so; where none says anything each token counts as one."""

    async def work() -> Timed:
        engine = await kind.create(OPTIONS, "r")
        try:
            return await Stopwatch(engine, asyncio.get_running_loop().time).one((1,), 40, speculation="hints")
        finally:
            await engine.shutdown()

    timed = run_virtually(work())
    assert timed.num_passes == num_passes
    assert len(timed.token_ids) == 40
    if kind is Breaking:
        assert (timed.first_s, timed.num_later) == (pytest.approx(0.1), 6)
        assert timed.pass_s == pytest.approx(0.1)


class Joined(ScriptedEngine):
    """A pass behind a sequence's first one reads the prompts of those that came a moment later."""

    async def generate(self, call_id: str, token_ids: TokenIds, **more: Any) -> AsyncGenerator[Delta, None]:
        num_given = 0
        async for delta in super().generate(call_id, token_ids, **more):
            await asyncio.sleep(0.5 if num_given == 1 else 0.0)
            num_given += 1
            yield delta


def test_a_pass_that_reads_the_prompt_of_another_sequence_is_not_taken_for_one_that_writes() -> None:
    async def work() -> RoleCosts:
        engine = await Joined.create(OPTIONS, "r")
        try:
            return await measure(engine, "scripted", asyncio.get_running_loop().time)
        finally:
            await engine.shutdown()

    assert dict(run_virtually(work()).passes[0].pass_s)[2] == pytest.approx(0.1 + 0.02, rel=0.05)


class Bounded(ScriptedEngine):
    def describe(self) -> RoleInfo:
        return replace(super().describe(), max_num_seqs=48)


def test_the_engine_says_how_many_sequences_it_works_on() -> None:
    async def work() -> RoleCosts:
        engine = await Bounded.create(OPTIONS, "r")
        try:
            return await measure(engine, "scripted", asyncio.get_running_loop().time)
        finally:
            await engine.shutdown()

    assert run_virtually(work()).max_num_seqs == 48
    assert measured()[0].max_num_seqs == DEFAULT_MAX_NUM_SEQS


def test_what_is_measured_is_what_a_simulation_takes() -> None:
    costs, _ = measured()
    file = CostFile(source="test", target=costs, draft=costs)
    assert file.cost("target").seconds(1) == pytest.approx(0.1, rel=0.03)


class Drifting(ScriptedEngine):
    """From the ninth call of 16 tokens on each pass takes half as long again: something else has begun to run."""

    num_timed = 0

    async def generate(self, call_id: str, token_ids: TokenIds, **more: Any) -> AsyncGenerator[Delta, None]:
        self.num_timed += more["max_tokens"] == 16
        slower_s = 0.05 if self.num_timed > 8 else 0.0
        async for delta in super().generate(call_id, token_ids, **more):
            await asyncio.sleep(slower_s)
            yield delta


@pytest.mark.parametrize(("kind", "is_steady"), [(ScriptedEngine, True), (Drifting, False)])
def test_a_machine_that_is_not_quiet_shows_in_the_spread_of_the_rounds(kind: Any, is_steady: bool) -> None:
    async def work() -> RoleCosts:
        engine = await kind.create(OPTIONS, "r")
        try:
            return await measure(engine, "scripted", asyncio.get_running_loop().time)
        finally:
            await engine.shutdown()

    found = run_virtually(work())
    quiet = found.model_copy(update={"spread": 0.0})
    said = CostFile(source="s", target=found, draft=quiet).unsteady
    assert (said is None) is is_steady, found.spread
    if said:
        assert f"differed by {found.spread:.0%} between rounds" in said
    assert CostFile(source="s", target=quiet, draft=quiet).unsteady is None
