"""The closed loop and its roles: what is asked of them is what is written, in the time that the costs give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.branch_gain import tokens_per_s
from deployments.simulation.closed_loop import measure
from deployments.simulation.controller_grid import Cell
from deployments.simulation.costs import EngineCost, linear_cost
from deployments.simulation.driver import measure_fast
from deployments.simulation.scripts import Agreement, RandomScript, uniform
from deployments.simulation.workload import HintGain, Machine, Measured
from tests.unit.clock import run_virtually


def opening(settings: SessionSettings) -> tuple[Session, tuple[()]]:
    return Session(settings), ()


def run(
    mode: str, *, users: int = 1, steps: int = 60, alpha: float = 0.6, depth: int = 4, machine: Machine | None = None
) -> Measured:
    settings = SessionSettings("", (), (), "", 10**9, mode=mode, max_lookahead=depth, num_nearby_hints=0)
    machine = machine or Machine(linear_cost(0.1, 0.0), linear_cost(0.02, 0.0))
    texts = lambda number: RandomScript(number, 20, alpha, 10.0)  # noqa: E731
    return run_virtually(measure(machine, settings, users, steps, texts, opening))


def test_the_target_alone_writes_at_its_own_pace() -> None:
    measured = run("target")
    assert (measured.num_steps, measured.num_tokens) == (60, 600)
    assert measured.elapsed_s == pytest.approx(60.0)
    assert measured.target_load == pytest.approx(1.0)
    assert measured.draft_load == 0.0


def test_users_share_what_a_batch_gives() -> None:
    saturated = Machine(linear_cost(0.1, 1.0), linear_cost(0.02, 1.0))
    assert run("target", users=8, steps=480).tokens_per_s == pytest.approx(80.0, rel=0.02)
    assert run("target", users=8, steps=480, machine=saturated).tokens_per_s == pytest.approx(10.0, rel=0.02)


def test_all_accepted_is_the_draft_s_pace_and_none_accepted_the_target_s() -> None:
    """Twenty steps a request: filling and draining the window takes a target step of each."""
    assert run("lookahead", alpha=1.0, depth=8, steps=400).tokens_per_s == pytest.approx(50.0 * 20 / 24, rel=0.02)
    assert run("lookahead", alpha=0.0, depth=8).tokens_per_s == pytest.approx(10.0, rel=0.02)


def test_calls_cost_what_they_should() -> None:
    machine = Machine(EngineCost(((1, 0.1),), call_s=0.25, prefill_passes=2.5), linear_cost(0.02, 0.0))
    step_s = 1.0 + 0.25 + 0.25
    assert run("lookahead", alpha=0.0, machine=machine).elapsed_s == pytest.approx(60 * step_s)
    assert run("target", machine=machine).elapsed_s == pytest.approx(60 * 1.0 + 3 * 0.5)


def test_a_draft_step_at_hand_makes_the_target_faster() -> None:
    plain, fast = Machine(linear_cost(0.1, 0.0), linear_cost(0.02, 0.0)), HintGain(different=2.0)
    hinted = Machine(plain.target, plain.draft, hint_gain=fast)
    assert run("lookahead", alpha=0.0, machine=hinted).elapsed_s == pytest.approx(60 * (0.2 + 0.8 / 2))


def test_a_rejection_that_is_seen_early_costs_less() -> None:
    """The target tells each of its ten tokens, and leaves the draft's words after five; the draft starts anew there
    while the target writes the rest, so the rest is often drafted before the step ends."""
    machine, common = Machine(linear_cost(0.1, 0.0), linear_cost(0.02, 0.0)), 0.5
    texts = lambda number: RandomScript(number, 20, 0.5, 10.0, common_share=common)  # noqa: E731
    settings = SessionSettings("", (), (), "", 10**9, max_lookahead=6)
    whole = run_virtually(measure(machine, settings, 1, 300, texts, opening))
    early = run_virtually(measure(machine, replace(settings, progress_s=0.1), 1, 300, texts, opening))
    assert early.tokens_per_s > 1.1 * whole.tokens_per_s


def test_the_same_arguments_give_the_same_figures() -> None:
    assert run("lookahead", users=3) == run("lookahead", users=3)


CALLS = Machine(EngineCost(((1, 0.1), (2, 0.13)), call_s=0.03, prefill_passes=1.0), linear_cost(0.02, 0.2), 0.05)


@pytest.mark.parametrize(
    ("mode", "verifier", "progress_s"),
    [
        ("target", None, 0.0),
        ("lookahead", None, 0.2),
        ("lookahead", "as scripted", 0.2),
        ("lookahead_sync", "as scripted", 0.0),
    ],
)
def test_the_fast_driver_does_what_the_pipeline_does(mode: str, verifier: str | None, progress_s: float) -> None:
    """But for what happens at the same moment, which may come in another order."""
    settings = SessionSettings(
        "", (), (), "", 10**9, mode=mode, max_lookahead=3, verifier=verifier, progress_s=progress_s
    )
    texts = lambda number: RandomScript(number, 20, 0.6, 10.0, sigma=0.5, equal_share=0.5, common_share=0.5)  # noqa: E731
    machine = replace(CALLS, hint_gain=HintGain(equal=2.0))
    through_the_pipeline = run_virtually(measure(machine, settings, 2, 150, texts, opening))
    fast = measure_fast(machine, settings, 2, 150, texts, lambda clock: opening)
    assert fast.num_steps == through_the_pipeline.num_steps
    assert fast.tokens_per_s == pytest.approx(through_the_pipeline.tokens_per_s, rel=0.03)
    assert fast.target_load == pytest.approx(through_the_pipeline.target_load, rel=0.03)
    assert fast.draft_load == pytest.approx(through_the_pipeline.draft_load, rel=0.03)


def test_drawn_texts_have_the_shares_and_lengths_that_were_asked_for() -> None:
    text = RandomScript(1, 10, 0.6, 40.0, sigma=0.6, equal_share=0.5, length_effect=1.0)
    pairs = [text.pair(index, attempt) for index in range(4000) for attempt in range(2)]
    share = {kind: sum(p.agreement is kind for p in pairs) / len(pairs) for kind in Agreement}
    assert sum(p.num_target_tokens for p in pairs) / len(pairs) == pytest.approx(40.0, rel=0.05)
    assert share[Agreement.EQUAL] == pytest.approx(share[Agreement.SAME], rel=0.1)
    long = [p for p in pairs if p.num_target_tokens > 60]
    short = [p for p in pairs if p.num_target_tokens < 25]
    rejected = [sum(p.agreement is Agreement.DIFFERENT for p in some) / len(some) for some in (long, short)]
    assert rejected[0] > rejected[1] + 0.2


def test_uniform_numbers_are_uniform() -> None:
    numbers = [uniform(seed, index) for seed in range(100) for index in range(100)]
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.01)
    assert max(numbers) < 1.0
    assert [sum(n < q for n in numbers) / len(numbers) for q in (0.1, 0.9)] == pytest.approx([0.1, 0.9], abs=0.01)


def test_branches_pay_a_single_user_on_free_batches_and_cost_many_on_busy_ones() -> None:
    free = Cell(0.5, 0.1, 0.0, 1, length_effect=0.0)
    busy = Cell(0.5, 0.1, 0.3, 8, length_effect=0.0)
    assert tokens_per_s(free, 4, 2, 120) > 1.1 * tokens_per_s(free, 4, 1, 120)
    assert tokens_per_s(busy, 4, 4, 120) < tokens_per_s(busy, 4, 1, 120)
