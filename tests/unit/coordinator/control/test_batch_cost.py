"""The cost of a batch, learnt from steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.coordinator.control.batch_cost import BatchCost, TargetCost

SIZES = [1.0, 1.5, 2.0, 2.8, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 45.0, 60.0]

CURVES: dict[str, Callable[[float], float]] = {
    "free": lambda n: 0.02,
    "saturated": lambda n: 0.3 * n,
    "in between": lambda n: 0.02 * (1.0 + 0.1 * (n - 1.0)),
    "memory and then arithmetic": lambda n: max(0.02, 0.001 * n),
    "a jump": lambda n: 0.3 + min(n - 1.0, 1.0) + 0.05 * n,
}


def taught(curve: Callable[[float], float], sizes: list[float], noise: float = 0.1) -> BatchCost:
    cost, random = BatchCost(), Random(1)
    for _ in range(60):
        for size in random.sample(sizes, len(sizes)):
            cost.add(size, curve(size) * random.lognormvariate(0.0, noise))
    return cost


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_is_learnt(name: str) -> None:
    curve = CURVES[name]
    cost = taught(curve, SIZES)
    for size in (1.0, 2.0, 4.0, 8.0, 16.0, 48.0):
        assert cost.at(size) == pytest.approx(curve(size), rel=0.18)


@pytest.mark.parametrize("name", ["free", "saturated", "in between"])
def test_what_was_never_seen_is_on_the_line(name: str) -> None:
    curve = CURVES[name]
    cost = taught(curve, [2.0, 4.0, 8.0], noise=0.02)
    assert cost.at(16.0) == pytest.approx(curve(16.0), rel=0.2)
    assert cost.largest_known == 8.0


def test_of_a_single_size_little_is_supposed() -> None:
    """Batches are taken to be nearly free until they are seen: a try costs little and teaches it."""
    cost = BatchCost()
    cost.add(1.0, 0.1)
    assert 0.1 < cost.at(4.0) < 0.12
    cost.add(4.0, 0.35)
    assert cost.at(4.0) == pytest.approx(0.35)
    assert 0.1 < cost.at(2.0) < 0.35


def test_passes_show_what_more_sequences_cost() -> None:
    """Streams were seen in batches of 8 only; parts of steps show that the engine is saturated."""
    cost = TargetCost()
    for _ in range(3):
        cost.add_stream(8.0, 0.8)
    assert not cost.shows_growth
    assert cost.window_s(16.0) < 1.2, "a batch is taken to be nearly free"
    for _ in range(2):
        cost.add_part(8.0, 0.8, 0.5)
        cost.add_part(12.0, 1.2, 0.5)
    assert cost.shows_growth
    assert cost.window_s(16.0) == pytest.approx(1.6, rel=0.1)
    assert cost.stream_s(12.0) == pytest.approx(1.2, rel=0.1)


def test_hints_give_windows_several_tokens_a_pass() -> None:
    """Deeper steps have no hints yet, so that a step takes longer in a larger batch; its passes do not."""
    cost = TargetCost()
    for _ in range(4):
        cost.add_part(1.0, 0.1, 0.5)
        cost.add_part(2.0, 0.1, 0.5)
        cost.add_window(1.0, 0.033)
        cost.add_window(2.0, 0.1)
    assert cost.window_s(4.0) == pytest.approx(cost.window_s(1.0), rel=0.1)
    assert cost.window_s(1.0) < 0.08


def test_one_strange_step_moves_little_and_many_move_all() -> None:
    cost = taught(CURVES["free"], [1.0], noise=0.01)
    cost.add(1.0, 2.0)
    assert cost.at(1.0) == pytest.approx(0.02, rel=0.05)
    for _ in range(120):
        cost.add(1.0, 0.06)
    assert cost.at(1.0) == pytest.approx(0.06, rel=0.07)


def windows(num: int, token_s: float, cost: TargetCost) -> TargetCost:
    """`cost` after so many steps of windows, in batches of one and of two sequences in turns."""
    for number in range(num):
        size = 1.0 + number % 2
        cost.add_part(size, 0.1, 0.5)
        cost.add_window(size, token_s)
    return cost


def test_one_window_that_read_a_long_prompt_makes_none_look_dear() -> None:
    cost = windows(20, 0.1, TargetCost())
    before = cost.window_s(2.0)
    cost.add_window(2.0, 30 * 0.1)
    assert cost.window_s(2.0) == pytest.approx(before, rel=0.03)


def test_windows_that_are_doubted_are_known_anew_after_a_few_steps() -> None:
    """With other texts, hints come true more often."""
    cost = windows(60, 0.1, TargetCost())
    cost.doubt_windows(2.0)
    assert windows(4, 0.03, cost).window_s(2.0) < 0.06


def test_before_anything_is_measured_batches_are_nearly_free() -> None:
    cost = BatchCost()
    assert not cost.is_known
    assert cost.largest_known == 0.0
    assert cost.at(1.0) == 1.0
    assert 1.0 < cost.at(4.0) < 1.2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(1.0, 600.0), st.floats(1e-4, 10.0), st.floats(0.0, 1.0)), min_size=1, max_size=30))
def test_whatever_is_measured_time_rises_and_in_the_end_at_most_in_proportion(
    steps: list[tuple[float, float, float]],
) -> None:
    cost = BatchCost()
    cost.add(*steps[0][:2])
    for step in steps:
        cost.add(*step)
    sizes = [1.0, 1.3, 2.0, 2.7, 5.0, 9.0, 40.0, 100.0, 520.0, 900.0]
    times = [cost.at(size) for size in sizes]
    assert all(time > 0.0 for time in times)
    for before, after in pairwise(times):
        assert after >= before * (1.0 - 1e-9)
    assert times[-1] <= times[-2] * 900.0 / 520.0 * (1.0 + 1e-9)


def test_streams_and_windows_are_measured_apart() -> None:
    """One user: streams are alone in the batch, windows never are."""
    cost = TargetCost()
    for _ in range(50):
        cost.add_stream(1.0, 0.1)
        cost.add_window(4.0, 0.2)
    assert cost.stream_s(1.0) == pytest.approx(0.1, rel=0.03)
    assert cost.window_s(4.0) == pytest.approx(0.2, rel=0.03)
    assert cost.largest_known == 4.0


def test_what_is_known_of_one_way_stands_in_for_the_other() -> None:
    cost = TargetCost()
    for size in (2.0, 3.0, 4.0, 6.0):
        for _ in range(10):
            cost.add_window(size, 0.1 * size)
    assert cost.stream_s(1.0) == pytest.approx(0.1, rel=0.1)
    cost.add_stream(1.0, 0.05)
    assert cost.stream_s(1.0) < 0.09
    for _ in range(10):
        cost.add_stream(1.0, 0.05)
    assert cost.stream_s(1.0) == pytest.approx(0.05, rel=0.1)


def test_evidence_about_streams_grows_old() -> None:
    cost = TargetCost()
    for _ in range(3):
        cost.add_stream(1.0, 0.1)
    assert cost.num_streamed == pytest.approx(3.0, rel=0.1)
    for _ in range(2400):
        cost.add_window(3.0, 0.1)
    assert cost.num_streamed < 1.0
