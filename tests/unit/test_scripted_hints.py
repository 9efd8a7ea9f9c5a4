"""The scripted engine models what hints gain: the same text, sooner. Times are those of a virtual clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from actors.engines.acceptance import SpeculationCounter, counts_of
from actors.engines.scripted import ScriptedEngine, ScriptOptions, prompt_ids
from actors.messages import EngineLoad, Nearby, Prompt, Sampling, SpeculationStats, StepRule, TokenIds
from tests.unit.clock import run_virtually

PROMPT = Prompt(text="How many apples?")
RULE = StepRule(max_tokens=200)
LOAD = {"num_running_reqs": 1, "num_waiting_reqs": 0, "kv_cache_usage": 0.1}


@dataclass(frozen=True)
class Written:
    token_ids: TokenIds
    seconds: float
    stats: SpeculationStats


def write(
    gain: float = 4.0,
    hints: tuple[TokenIds, ...] = (),
    late: tuple[TokenIds, ...] = (),
    early: tuple[TokenIds, ...] = (),
    nearby: tuple[Nearby, ...] = (),
    kind: str = "hints",
    burst: int = 1,
) -> Written:
    """One step by an engine that takes a second a token. `late` hints come after the tenth token."""

    async def work() -> Written:
        engine = ScriptedEngine(ScriptOptions(token_s=1.0, hint_gain=gain, burst=burst))
        loop, ids = asyncio.get_running_loop(), list[int]()
        if early:
            await engine.add_hints("call", early)
        deltas = engine.generate(
            "call",
            await engine.encode_prompt(PROMPT),
            max_tokens=200,
            rule=RULE,
            max_steps=1,
            sampling=Sampling(),
            hints=hints,
            nearby=nearby,
            token_speculation=kind,
        )
        async for delta in deltas:
            ids.extend(delta.token_ids)
            if len(ids) == 10 and late:
                await engine.add_hints("call", late)
        await engine.add_hints("call", late)
        assert engine.num_running() == 0
        stats = await engine.speculation_stats()
        assert stats is not None
        return Written(tuple(ids), loop.time(), stats)

    return run_virtually(work())


def test_a_right_hint_makes_the_same_text_so_many_times_faster() -> None:
    plain, hinted = write(), write(hints=(write().token_ids,))
    assert len(plain.token_ids) > 12
    assert hinted.token_ids == plain.token_ids
    assert hinted.seconds == pytest.approx(plain.seconds / 4)
    assert hinted.stats.num_accepted_tokens == len(plain.token_ids)
    assert hinted.stats.acceptance_rate == 1.0
    assert plain.stats == SpeculationStats(accepted_per_position=(0,))


def test_without_a_gain_or_a_wish_for_hints_nothing_changes() -> None:
    plain = write()
    hints = (plain.token_ids,)
    assert write(gain=1.0, hints=hints).seconds == pytest.approx(plain.seconds)
    for kind in ("ngram", "none"):
        assert write(hints=hints, kind=kind).seconds == pytest.approx(plain.seconds)


def test_only_the_tokens_that_continue_a_hint_are_faster() -> None:
    plain = write()
    ids = plain.token_ids
    other = (*ids[:4], 7, *ids[5:])
    written = write(hints=(other,))
    assert written.token_ids == ids
    # The wrong token itself, and the two after it that find the place again.
    assert written.seconds == pytest.approx(3 + (len(ids) - 3) / 4)
    assert written.stats.num_accepted_tokens == len(ids) - 3
    assert written.stats.num_draft_tokens > len(ids) - 3, "the wrong one was proposed too"


def test_what_was_written_nearby_helps_from_where_the_prompt_ends() -> None:
    plain = write()
    num_tokens, before = len(plain.token_ids), prompt_ids(PROMPT)[-3:]
    near = Nearby((7, *before, *plain.token_ids), 2)
    assert write(nearby=(near,)).seconds == pytest.approx(num_tokens / 4)
    assert write(nearby=(near,), kind="none").seconds == pytest.approx(num_tokens)


def test_hints_may_come_early_or_late() -> None:
    plain = write()
    num_tokens = len(plain.token_ids)
    assert write(early=(plain.token_ids,)).seconds == pytest.approx(num_tokens / 4)
    assert write(late=(plain.token_ids,)).seconds == pytest.approx(10 + (num_tokens - 10) / 4)


def test_acceptance_is_summed_over_steps_and_engines() -> None:
    counter = SpeculationCounter()
    assert counter.attach(object(), 1) is counter
    for per_position in ([2, 1], [3, 2, 1]):
        stats = SimpleNamespace(
            num_drafts=4,
            num_draft_tokens=12,
            num_accepted_tokens=sum(per_position),
            num_accepted_tokens_per_pos=per_position,
        )
        counter.record(SimpleNamespace(spec_decoding_stats=stats, **LOAD), None, mm_cache_stats=None, engine_idx=0)
    counter.record(None, None)
    counter.record(SimpleNamespace(spec_decoding_stats=None, **LOAD), None)
    counter.log()
    counter.log_engine_initialized()
    counter.record_sleep_state(0, 0)
    assert counter.stats({"num_hint_tokens": 5}) == SpeculationStats(8, 24, 9, (5, 3, 1), num_hint_tokens=5)


def test_the_last_output_of_a_request_says_what_was_proposed_in_it() -> None:
    found = SimpleNamespace(num_draft_tokens=12, histogram=[1, 0, 2, 1])
    assert counts_of(SimpleNamespace(spec_decode_metrics=found)) == (12, 7)
    assert counts_of(SimpleNamespace(spec_decode_metrics=None)) == (0, 0)
    assert counts_of(SimpleNamespace()) == (0, 0)


def test_the_counter_keeps_how_full_vllms_engines_are() -> None:
    counter = SpeculationCounter()
    assert counter.load() == EngineLoad(0)
    stats = SimpleNamespace(num_running_reqs=3, num_waiting_reqs=2, kv_cache_usage=0.5, spec_decoding_stats=None)
    counter.record(stats, None, mm_cache_stats=None, engine_idx=0)
    counter.record(None, None)
    other = SimpleNamespace(num_running_reqs=1, num_waiting_reqs=0, kv_cache_usage=0.75, spec_decoding_stats=None)
    counter.record(other, None, mm_cache_stats=None, engine_idx=1)
    assert counter.load() == EngineLoad(num_running=4, num_waiting=2, cache_use=0.75)


@pytest.mark.parametrize("burst", [2, 5, 1000])
def test_tokens_in_bursts_are_the_same_after_the_same_time(burst: int) -> None:
    plain, together = write(), write(burst=burst)
    assert together == plain
