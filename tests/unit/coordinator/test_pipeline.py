"""The driver over real roles and scripted engines, on a virtual clock."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from actors.engines.scripted import ScriptedEngine
from actors.errors import DeadlineExceeded
from actors.messages import TokenIds
from actors.target import TargetModel
from deployments.generation import Committed, Output
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Answer, Bench, request, truth


def test_target_only_streams_the_targets_text_in_its_own_time() -> None:
    answer = run_virtually(Bench().ask(mode="target"))
    assert answer.text == truth()
    assert answer.elapsed_s == pytest.approx(answer.finished.num_output_tokens * TARGET.token_s, rel=0.001)
    assert answer.finished.summary.num_target_steps == TARGET.num_steps


@pytest.mark.parametrize(("depth", "draft_token_s"), [(1, 0.01), (2, 0.01), (4, 0.01), (4, 0.04), (8, 0.02)])
def test_when_all_is_accepted_the_pipeline_overlaps_as_the_formula_says(depth: int, draft_token_s: float) -> None:
    """algorithm: async, a -> 1: the speed-up is min(k, 1/c). Steps have equal lengths nowhere, so 15 % are allowed;
    the step beyond the window that we start as well may add to it, never more than one."""
    target = replace(TARGET, num_steps=60)
    bench = Bench(target, replace(target, role="draft", token_s=draft_token_s))
    alone = run_virtually(Bench(target).ask(mode="target"))
    ours = run_virtually(bench.ask(mode="lookahead", max_lookahead=depth))
    assert ours.text == truth(target)
    assert ours.finished.summary.accept_rate == 1.0
    c = draft_token_s / target.token_s
    speed_up = alone.elapsed_s / ours.elapsed_s
    assert speed_up >= 0.85 * min(depth, 1 / c)
    assert speed_up <= 1.02 * min(depth + 1, 1 / c)


@pytest.mark.parametrize("verifier", ["never", "exact"])
@pytest.mark.parametrize("mode", ["lookahead", "lookahead_sync", "specreason"])
def test_a_verifier_that_rejects_gives_the_targets_text(mode: str, verifier: str) -> None:
    bench = Bench(draft=replace(DRAFT, agree=0.3, paraphrase=0.3))
    answer = run_virtually(bench.ask(mode=mode, verifier=verifier))
    assert answer.text == truth()


def test_paraphrases_with_the_same_numbers_are_accepted_and_wrong_ones_are_not() -> None:
    bench = Bench(replace(TARGET, num_steps=40), replace(DRAFT, num_steps=40, agree=0.3, paraphrase=0.4))
    summary = run_virtually(bench.ask(mode="lookahead", verifier="numbers")).finished.summary
    exact = run_virtually(Bench(bench.target, bench.draft).ask(mode="lookahead", verifier="exact")).finished.summary
    assert summary.num_recovered_steps > 0
    assert summary.num_accepted_steps > exact.num_accepted_steps > 0


def test_closing_the_answer_ends_the_work_in_the_engines() -> None:
    async def scene() -> None:
        bench = Bench()
        coordinator = await bench.coordinator()
        async with aclosing(coordinator.generate(request(mode="lookahead"))) as outputs:
            async for output in outputs:
                if isinstance(output, Committed):
                    assert bench.target_engine.num_running() > 0
                    break
        assert bench.target_engine.num_running() == bench.draft_engine.num_running() == 0
        tokens = bench.target_engine.num_tokens
        await asyncio.sleep(100)
        assert bench.target_engine.num_tokens == tokens
        trace = coordinator.trace("r")
        assert trace is not None
        assert trace["finished"]

    run_virtually(scene())


class Told(TargetModel):
    """A target that keeps what hints it was told of."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine)
        self.hints: list[tuple[TokenIds, ...]] = []

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        self.hints.append(hints)
        await super().add_hints(call_id, session_id, hints)


def test_hints_of_one_turn_go_to_their_call_together_the_newest_first() -> None:
    """The draft's tokens come eight at once, which are four chunks of a guided draft's."""

    async def scene() -> tuple[Answer, Told]:
        target = replace(TARGET, hint_gain=3.0)
        bench = Bench(target, replace(target, role="draft", token_s=0.01, burst=8))
        told = Told(bench.target_engine)
        bench.roles = replace(bench.roles, target=told)
        return await bench.ask(mode="lookahead", verifier="exact"), told

    answer, told = run_virtually(scene())
    assert answer.text == truth()
    assert max(len(hints) for hints in told.hints) == 4
    for newest, *older in told.hints:
        assert all(newest[: len(hint)] == hint for hint in older)


def test_rejected_branches_stop_generating_at_once() -> None:
    """Whatever is cancelled writes no token more: tokens are counted at the engine and in the trace."""
    bench = Bench(draft=replace(DRAFT, agree=0.0))
    answer = run_virtually(bench.ask(mode="lookahead", verifier="never", max_lookahead=4))
    whole = [s for s in answer.spans("target") if s["outcome"] in ("recovered", "target", "accepted")]
    kept = sum(int(str(s["num_tokens"])) for s in whole)
    cancelled = [s for s in answer.spans("target") if s["outcome"] == "cancelled"]
    time_cancelled = sum(float(str(s["end_s"])) - float(str(s["start_s"])) for s in cancelled)
    assert cancelled
    assert bench.target_engine.num_tokens <= kept + time_cancelled / TARGET.token_s + len(cancelled)


def test_the_time_limit_is_kept() -> None:
    async def scene() -> None:
        bench = Bench()
        coordinator = await bench.coordinator()
        seen: list[Output] = []

        async def read() -> None:
            async for output in coordinator.generate(request(mode="target", timeout_s=3.0)):
                seen.append(output)

        with pytest.raises(DeadlineExceeded, match=r"3 s"):
            await read()
        assert len(seen) > 10
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)
        assert bench.target_engine.num_running() == 0

    run_virtually(scene())


def test_models_of_other_vocabularies_exchange_text() -> None:
    bench = Bench(draft=replace(DRAFT, vocabulary="other"))
    answer = run_virtually(bench.ask(mode="lookahead"))
    assert answer.text == truth()
    assert answer.finished.summary.accept_rate == 1.0


def test_the_trace_tells_what_became_of_every_step() -> None:
    answer = run_virtually(Bench(draft=replace(DRAFT, agree=0.5)).ask(mode="lookahead", verifier="exact"))
    summary = answer.finished.summary
    drafts = [span["outcome"] for span in answer.spans("draft") if span["num_tokens"]]
    assert drafts.count("accepted") == summary.num_accepted_steps
    assert drafts.count("rejected") == summary.num_recovered_steps
    assert drafts.count("cancelled") == summary.num_cancelled_steps
    targets = [span["outcome"] for span in answer.spans("target")]
    assert targets.count("recovered") == summary.num_recovered_steps
    commits = answer.trace["commits"]
    assert isinstance(commits, list)
    assert "".join(c["text"] for c in commits) == answer.text
    assert [c["step"] for c in commits] == list(range(summary.num_steps))
    assert f"lookahead_num_accepted_steps_total {float(summary.num_accepted_steps)}" in answer.metrics
    assert "lookahead_requests_in_flight 0.0" in answer.metrics
