"""The played window against the formula, and against the real session where steps are unequal."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest

from deployments.coordinator.control.replay import WARM_UP, expected, replay
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.theory import window_load, window_speed_up
from deployments.simulation.costs import linear_cost
from deployments.simulation.driver import measure_fast
from deployments.simulation.scripts import Agreement, StepPair
from deployments.simulation.workload import Machine

NUM_STEPS = 800
TOKENS = 20.0


@dataclass(frozen=True)
class Recorded:
    """Steps of given lengths, in tokens, of which the draft's are as the target's or not."""

    lengths: tuple[int, ...]
    accepted: tuple[bool, ...]

    @property
    def num_steps(self) -> int:
        return 10**9

    def pair(self, index: int, attempt: int) -> StepPair:
        i = index % len(self.lengths)
        return StepPair(self.lengths[i], self.lengths[i], KINDS[self.accepted[i]])


KINDS = {True: Agreement.SAME, False: Agreement.DIFFERENT}


@pytest.mark.parametrize("verdict", [0.0, 0.2])
@pytest.mark.parametrize(("alpha", "c", "depth"), [(0.2, 0.3, 3), (0.6, 0.1, 1), (0.6, 0.25, 8), (0.95, 0.6, 4)])
@pytest.mark.parametrize("spread", [0.4, 0.9])
def test_the_session_does_what_is_played(alpha: float, c: float, depth: int, spread: float, verdict: float) -> None:
    """Step by step the same rules, so that what is left is the end of the run."""
    random = Random(7)
    lengths = tuple(max(1, round(TOKENS * random.lognormvariate(-(spread**2) / 2, spread))) for _ in range(NUM_STEPS))
    text = Recorded(lengths, tuple(random.random() < alpha for _ in range(NUM_STEPS)))
    mean = sum(lengths) / NUM_STEPS
    played = replay([length / mean for length in lengths], list(text.accepted), c, depth, verdict)
    settings = SessionSettings(
        "", (), (), "", 10**9, max_lookahead=depth, verifier="v", spans=False, num_nearby_hints=0
    )
    machine = Machine(linear_cost(1.0 / mean, 0.0), linear_cost(c / mean, 0.0), verdict)
    opening = lambda env: lambda settings: (Session(settings), ())  # noqa: E731
    measured = measure_fast(machine, settings, 1, NUM_STEPS, lambda _: text, opening)
    assert measured.num_tokens / mean / measured.elapsed_s == pytest.approx(played.speed_up, rel=0.03)
    assert measured.target_load == pytest.approx(played.target_load, rel=0.03)
    assert measured.draft_load == pytest.approx(played.draft_load, rel=0.03)


@pytest.mark.parametrize(
    ("alpha", "c", "depth"), [(0.0, 0.1, 4), (0.3, 0.2, 2), (0.6, 0.2, 4), (0.9, 0.1, 8), (1, 0.3, 2)]
)
def test_equal_steps_are_as_in_the_formula(alpha: float, c: float, depth: int) -> None:
    played, load = expected(alpha, c, depth, 0.0, 0.0), window_load(alpha, c, depth)
    assert played.speed_up == pytest.approx(window_speed_up(alpha, c, depth), rel=0.05)
    assert played.target_load == pytest.approx(load.target, rel=0.05)
    assert played.draft_load == pytest.approx(load.draft, rel=0.05, abs=0.01)


def test_unequal_steps_need_more_depth() -> None:
    equal = [expected(1.0, 0.1, depth, 0.0, 0.0).speed_up for depth in (2, 4, 8)]
    unequal = [expected(1.0, 0.1, depth, 0.0, 0.75).speed_up for depth in (2, 4, 8)]
    assert all(a > 1.2 * b for a, b in zip(equal, unequal, strict=True))


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_what_is_expected_rises_with_acceptance_and_falls_with_cost(spread: float) -> None:
    speeds = [expected(alpha / 20, 0.2, 4, 0.0, spread).speed_up for alpha in range(21)]
    assert all(after >= before - 0.03 for before, after in pairwise(speeds))
    speeds = [expected(0.7, c / 50, 4, 0.0, spread).speed_up for c in range(1, 60)]
    assert all(after <= before + 0.03 for before, after in pairwise(speeds))
    assert speeds[-1] == pytest.approx(1.0, abs=0.08)


def test_the_first_steps_do_not_count() -> None:
    steps = [1.0] * (WARM_UP + 100)
    assert replay(steps, [True] * len(steps), 0.5, 8, 0.0).speed_up == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize(("alpha", "depth"), [(1.1, 2), (-0.1, 2), (0.5, 0)])
def test_what_is_no_window_is_refused(alpha: float, depth: int) -> None:
    with pytest.raises(ValueError, match="no window"):
        expected(alpha, 0.2, depth, 0.0, 0.5)
