"""The formulas against the real session and pipeline, on a virtual clock.

Acceptance is drawn by strata: the runs of accepted steps have exactly the lengths that alpha gives, in a shuffled
order, so that a few thousand steps stand for many more and what is left is the formula's error, not chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import pytest

from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.theory import (
    async_speed_up,
    combined_speed_up,
    hinted_speed_up,
    late_hint_gain,
    sync_speed_up,
    token_speed_up,
    window_load,
    window_speed_up,
)
from deployments.simulation.closed_loop import measure
from deployments.simulation.costs import linear_cost
from deployments.simulation.scripts import Agreement, StepPair
from deployments.simulation.workload import NO_GAIN, HintGain, Machine, Measured
from tests.unit.clock import run_virtually

NUM_STEPS = 500
TOLERANCE = 0.02


@dataclass(frozen=True)
class Runs:
    """Steps of one token; `accepted[i]` says whether the draft's step i is as the target's."""

    accepted: tuple[bool, ...]
    agreement: Agreement = Agreement.EQUAL

    @property
    def num_steps(self) -> int:
        return 10**9

    def pair(self, index: int, attempt: int) -> StepPair:
        accepted = self.accepted[index % len(self.accepted)]
        return StepPair(1, 1, self.agreement if accepted else Agreement.DIFFERENT)


def runs(alpha: float, agreement: Agreement = Agreement.EQUAL) -> Runs:
    if alpha in (0.0, 1.0):
        return Runs((alpha == 1.0,) * NUM_STEPS, agreement)
    num = round(NUM_STEPS * (1.0 - alpha))
    lengths = [int(math.log(1.0 - (i + 0.5) / num) / math.log(alpha)) for i in range(num)]
    Random(1).shuffle(lengths)
    return Runs(tuple(flag for length in lengths for flag in [True] * length + [False]), agreement)


def play(mode: str, alpha: float, c: float, depth: int, *, verdict: float = 0.0, gain: HintGain = NO_GAIN) -> Measured:
    """Steps committed by the real session; without hints a target step takes one second."""
    text = runs(alpha, Agreement.SAME if verdict else Agreement.EQUAL)
    settings = SessionSettings(
        "", (), (), "", 10**9, mode=mode, max_lookahead=depth, verifier="v" if verdict else None, num_nearby_hints=0
    )
    machine = Machine(linear_cost(1.0, 0.0), linear_cost(c, 0.0), verdict, gain)
    return run_virtually(measure(machine, settings, 1, len(text.accepted), lambda _: text, opening))


def opening(settings: SessionSettings) -> tuple[Session, tuple[()]]:
    return Session(settings), ()


def speed_up(measured: Measured) -> float:
    return measured.num_steps / measured.elapsed_s


ALPHAS = (0.0, 0.3, 0.6, 0.9, 1.0)
COSTS = (0.07, 0.23, 0.41, 0.83)
GRID = [(alpha, c, depth) for alpha in ALPHAS for c in COSTS for depth in (1, 3, 8)]


@pytest.mark.parametrize(("alpha", "c", "depth"), GRID)
def test_the_session_is_as_fast_as_the_formula_for_its_window(alpha: float, c: float, depth: int) -> None:
    measured = play("lookahead", alpha, c, depth)
    assert speed_up(measured) == pytest.approx(window_speed_up(alpha, c, depth), rel=TOLERANCE)
    load = window_load(alpha, c, depth)
    assert measured.target_load == pytest.approx(load.target, rel=TOLERANCE)
    assert measured.draft_load == pytest.approx(load.draft, rel=TOLERANCE)


@pytest.mark.parametrize(("alpha", "c", "depth"), [(0.3, 0.23, 1), (0.6, 0.07, 4), (0.6, 0.41, 2), (0.9, 0.23, 8)])
def test_the_synchronous_session_is_as_fast_as_the_papers_formula(alpha: float, c: float, depth: int) -> None:
    """One target step more than draft steps: k is the depth and one."""
    measured = play("lookahead_sync", alpha, c, depth)
    assert speed_up(measured) == pytest.approx(sync_speed_up(alpha, c, depth + 1), rel=TOLERANCE)


@pytest.mark.parametrize(("alpha", "c"), [(alpha, c) for alpha in (0.3, 0.9) for c in COSTS])
def test_a_window_that_is_deep_enough_is_as_fast_as_the_papers_formula(alpha: float, c: float) -> None:
    """S1: from (1 + c) / c target steps in flight on, one more than in the paper, since the draft waits for room."""
    depth = math.ceil((1.0 + c) / c) - 1
    measured = play("lookahead", alpha, c, depth)
    assert speed_up(measured) == pytest.approx(async_speed_up(alpha, c, depth + 1), rel=TOLERANCE)


@pytest.mark.parametrize(("alpha", "c", "depth"), [(0.6, 0.07, 2), (0.9, 0.07, 4), (0.9, 0.23, 2), (1.0, 0.07, 8)])
def test_a_shallow_window_lies_between_two_of_the_papers(alpha: float, c: float, depth: int) -> None:
    """S2 lets the draft go on while all `k` target steps run; ours waits for room, a draft step a round."""
    measured = speed_up(play("lookahead", alpha, c, depth))
    assert async_speed_up(alpha, c, depth) < measured < async_speed_up(alpha, c, depth + 1)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("c", [1.0, 1.7])
@pytest.mark.parametrize("alpha", [0.3, 0.9])
def test_a_draft_that_is_too_slow_costs_nothing(alpha: float, c: float, depth: int) -> None:
    """Better than S1, which falls below 1 here: a target step that is done does not wait for the draft."""
    assert speed_up(play("lookahead", alpha, c, depth)) == pytest.approx(1.0, rel=TOLERANCE)
    assert async_speed_up(alpha, c, depth + 1) <= 1.0 == window_speed_up(alpha, c, depth)


@pytest.mark.parametrize("verdict", [0.05, 0.2])
@pytest.mark.parametrize(("alpha", "c", "depth"), [(0.3, 0.23, 2), (0.6, 0.07, 4), (0.6, 0.41, 4), (0.9, 0.23, 8)])
def test_verdicts_cost_what_the_formula_says(alpha: float, c: float, depth: int, verdict: float) -> None:
    measured = play("lookahead", alpha, c, depth, verdict=verdict)
    assert speed_up(measured) == pytest.approx(window_speed_up(alpha, c, depth, verdict), rel=TOLERANCE)
    assert measured.draft_load == pytest.approx(window_load(alpha, c, depth, verdict).draft, rel=TOLERANCE)


@pytest.mark.parametrize(("alpha", "c", "depth"), [(0.3, 0.23, 2), (0.6, 0.07, 4)])
def test_slow_verdicts_cost_less_than_the_formula_says(alpha: float, c: float, depth: int) -> None:
    """The head waits for its verdict for longer than the draft takes to fill the window: meanwhile the target finishes
    the last place, for which there is no draft step, and its step stands without a verdict."""
    assert (depth - 1) * c < 0.5
    measured = speed_up(play("lookahead", alpha, c, depth, verdict=0.5))
    assert 1.01 < measured / window_speed_up(alpha, c, depth, 0.5) < 1.2


@pytest.mark.parametrize(("alpha", "c", "depth"), [(0.0, 0.2, 4), (0.5, 0.1, 16), (0.7, 0.2, 8), (0.9, 0.3, 8)])
@pytest.mark.parametrize("gain", [1.5, 2.5])
def test_hints_gain_what_the_formula_says(alpha: float, c: float, depth: int, gain: float) -> None:
    """The session starts the target's step before its hint is there and sends the hint after it."""
    measured = play("lookahead", alpha, c, depth, gain=HintGain(gain, gain, gain))
    late = late_hint_gain(c, gain)
    assert speed_up(measured) == pytest.approx(window_speed_up(alpha, c * late, depth) * late, rel=TOLERANCE)
    assert speed_up(measured) <= hinted_speed_up(alpha, c, gain, depth + 1) * (1.0 + TOLERANCE)


@dataclass(frozen=True)
class Passes(Runs):
    """Target steps whose length is their number of forward passes, with `num_draft` tokens drafted for each."""

    alpha: float = 0.0
    num_draft: int = 0

    def pair(self, index: int, attempt: int) -> StepPair:
        tokens, num_passes, draws = 0, 0, Random(index)
        while tokens < STEP_TOKENS:
            accepted = 0
            while accepted < self.num_draft and draws.random() < self.alpha:
                accepted += 1
            tokens, num_passes = tokens + accepted + 1, num_passes + 1
        return StepPair(num_passes, 1, super().pair(index, attempt).agreement)


STEP_TOKENS = 300
"""Long, so that steps take nearly equal times, as the formula assumes."""


@pytest.mark.parametrize(
    ("alpha", "c", "token_alpha", "token_c", "k"),
    [(0.6, 0.1, 0.7, 0.1, 4), (0.8, 0.2, 0.5, 0.05, 3), (0.5, 0.3, 0.8, 0.1, 6)],
)
def test_both_levels_multiply(alpha: float, c: float, token_alpha: float, token_c: float, k: int) -> None:
    """`c` is over a target step at the token level's speed; a pass takes k - 1 draft tokens' time and its own."""
    gain = token_speed_up(token_alpha, token_c, k)
    pass_s = (1.0 + token_c * (k - 1)) / STEP_TOKENS
    text = Passes(runs(alpha).accepted, Agreement.SAME, alpha=token_alpha, num_draft=k - 1)
    machine = Machine(linear_cost(pass_s, 0.0), linear_cost(c / gain, 0.0))
    settings = SessionSettings("", (), (), "", 10**9, max_lookahead=12, verifier="v")
    measured = run_virtually(measure(machine, settings, 1, NUM_STEPS, lambda _: text, opening))
    expected = combined_speed_up(window_speed_up(alpha, c, 12), gain)
    assert speed_up(measured) == pytest.approx(expected, rel=TOLERANCE)
