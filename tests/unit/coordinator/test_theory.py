"""The formulas at their known points, and the token level against drawn tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from deployments.coordinator.theory import (
    async_speed_up,
    best_split,
    combined_speed_up,
    draft_tokens_pay,
    guided_speed_up,
    hinted_speed_up,
    late_hint_gain,
    sync_speed_up,
    token_acceptance_rate,
    token_speed_up,
    tokens_per_pass,
    uneven_window,
    wall_time_factor,
    window_load,
    window_speed_up,
)


@pytest.mark.parametrize(
    ("alpha", "c", "k", "expected"),
    [
        (0.0, 0.3, 4, 1.0),  # nothing is accepted: the target alone
        (1.0, 0.25, 8, 4.0),  # all is accepted and enough runs: the draft's speed
        (1.0, 0.1, 4, 4.0),  # all is accepted and four run: four at a time
        (0.5, 0.5, 2, 1 / 0.75),
        (0.5, 0.1, 2, 0.75 / (0.5 + 0.1 * (0.5 - 0.125 - 2 * 0.5 * 0.25))),
    ],
)
def test_known_points(alpha: float, c: float, k: int, expected: float) -> None:
    assert async_speed_up(alpha, c, k) == pytest.approx(expected)


def test_both_forms_meet_where_all_is_accepted() -> None:
    assert async_speed_up(1 - 1e-9, 0.1, 4) == pytest.approx(async_speed_up(1.0, 0.1, 4), rel=1e-3)


@pytest.mark.parametrize(
    ("alpha", "c", "k", "expected"),
    [
        (0.0, 0.3, 4, 1.0 / 1.9),  # three draft steps for nothing
        (1.0, 0.25, 5, 5.0 / 2.0),  # four draft steps and a bonus
        (0.5, 0.1, 1, 1.0),  # no draft step: the target alone
        (0.5, 0.1, 3, 1.75 / 1.2),
    ],
)
def test_known_points_of_the_synchronous_form(alpha: float, c: float, k: int, expected: float) -> None:
    assert sync_speed_up(alpha, c, k) == pytest.approx(expected)


def test_the_synchronous_form_gains_nothing_at_the_acceptance_where_the_asynchronous_does() -> None:
    """The paper's AIME24 pair: alpha .47, draft 1.5B, target 32B."""
    assert max(sync_speed_up(0.47, 0.3, k) for k in range(1, 20)) < 1.15 < async_speed_up(0.47, 0.3, 4)


@pytest.mark.parametrize("depth", [1, 3, 7])
@pytest.mark.parametrize("c", [0.05, 0.3, 0.9])
def test_the_window_s_formula_is_the_paper_s_at_its_ends(c: float, depth: int) -> None:
    assert window_speed_up(0.0, c, depth) == pytest.approx(1.0)
    assert window_speed_up(1.0, c, depth) == pytest.approx(min(1.0 / c, (depth + 1) / (1.0 + c)))
    assert window_speed_up(0.7, c, 1000) == pytest.approx(async_speed_up(0.7, c, 1000))


def test_a_deeper_window_is_never_slower_and_never_lighter() -> None:
    for alpha in (0.1, 0.5, 0.95):
        speeds = [window_speed_up(alpha, 0.12, depth, 0.1) for depth in range(1, 20)]
        loads = [window_load(alpha, 0.12, depth, 0.1).target for depth in range(1, 20)]
        assert speeds == pytest.approx(sorted(speeds))
        assert loads == pytest.approx(sorted(loads))


def draws(alpha: float, num_draft_tokens: int, num_runs: int = 40_000) -> list[int]:
    """Accepted draft tokens of each run of the target."""
    random, found = Random(3), []
    for _ in range(num_runs):
        accepted = 0
        while accepted < num_draft_tokens and random.random() < alpha:
            accepted += 1
        found.append(accepted)
    return found


@pytest.mark.parametrize(("alpha", "c", "num"), [(0.3, 0.0, 4), (0.7, 0.1, 4), (0.9, 0.05, 8)])
def test_draft_tokens_gain_what_drawn_ones_do(alpha: float, c: float, num: int) -> None:
    accepted = draws(alpha, num)
    mean = sum(accepted) / len(accepted)
    assert tokens_per_pass(alpha, num) == pytest.approx(mean + 1.0, rel=0.02)
    assert token_acceptance_rate(alpha, num) == pytest.approx(mean / num, rel=0.02)
    assert wall_time_factor(alpha, c, num) == pytest.approx((mean + 1.0) / (num * c + 1.0), rel=0.02)
    assert token_speed_up(alpha, c, num + 1) == pytest.approx(wall_time_factor(alpha, c, num))


@pytest.mark.parametrize(("alpha", "c"), [(0.3, 0.2), (0.3, 0.4), (0.8, 0.79), (0.8, 0.81)])
def test_draft_tokens_pay_where_some_number_of_them_does(alpha: float, c: float) -> None:
    assert draft_tokens_pay(alpha, c) == (max(wall_time_factor(alpha, c, num) for num in range(1, 50)) > 1.0)


@pytest.mark.parametrize("budget", [16, 24, 64])
def test_a_large_budget_is_spent_best_on_both_levels(budget: int) -> None:
    """The paper's claim for .52 < alpha < .8, c1 < 1/3, c2 < 1/5 and at least 16 tokens."""
    for alpha_steps in (0.53, 0.65, 0.79):
        for alpha_tokens in (0.53, 0.65, 0.79):
            for c_steps in (0.05, 0.2, 0.33):
                for c_tokens in (0.02, 0.19):
                    split = best_split(budget, alpha_steps, c_steps, alpha_tokens, c_tokens)
                    assert split.num_steps >= 2
                    assert split.num_tokens >= 2
                    assert split.num_steps * split.num_tokens <= budget


def test_a_budget_goes_where_it_helps() -> None:
    only_tokens, only_steps = best_split(8, 0.05, 0.9, 0.9, 0.01), best_split(8, 0.9, 0.1, 0.05, 0.5)
    assert (only_tokens.num_steps, only_tokens.num_tokens) == (1, 8)
    assert (only_steps.num_steps, only_steps.num_tokens) == (8, 1)
    assert best_split(8, 0.9, 0.1, 0.05, 0.5, sync=True).speed_up < only_steps.speed_up
    assert best_split(1, 0.9, 0.1, 0.9, 0.1).speed_up == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("alpha", "c", "num", "expected"),
    [
        (0.0, 0.1, 8, 1.0),  # the draft never says the same
        (
            0.5,
            0.0,
            8,
            4 / 3,
        ),  # half of the runs are empty: one pass; the others, a pass without hints and one with them
        (0.8, 5.0, 8, 1.0),  # no hint comes in time
        (1.0, 0.25, 8, 4.0),  # the draft's speed
        (1.0, 0.01, 8, 9.0),  # all that a pass checks, and its own token
    ],
)
def test_known_points_of_the_guided_stream(alpha: float, c: float, num: int, expected: float) -> None:
    assert guided_speed_up(alpha, c, num) == pytest.approx(expected, rel=0.02)


def test_a_guiding_draft_that_takes_long_to_begin_anew_gains_less() -> None:
    assert 1.0 < guided_speed_up(0.8, 0.2, 8, restart=0.5) < guided_speed_up(0.8, 0.2, 8)


def test_hints_multiply_and_make_the_draft_dearer() -> None:
    assert hinted_speed_up(0.55, 0.1, 1.0, 8) == pytest.approx(async_speed_up(0.55, 0.1, 8))
    assert hinted_speed_up(0.0, 0.1, 2.0, 8) == pytest.approx(2.0)
    assert 3.0 < hinted_speed_up(0.55, 0.1, 2.2, 16) < combined_speed_up(async_speed_up(0.55, 0.1, 16), 2.2)
    assert late_hint_gain(0.25, 2.0) == pytest.approx(1.0 / (0.25 + 0.375))
    assert late_hint_gain(1.2, 2.0) == late_hint_gain(0.2, 1.0) == 1.0


@pytest.mark.parametrize(("alpha", "c", "k"), [(1.1, 0.5, 2), (-0.1, 0.5, 2), (0.5, 0.0, 2), (0.5, 0.5, 0)])
def test_what_has_no_meaning_is_refused(alpha: float, c: float, k: int) -> None:
    with pytest.raises(ValueError, match="no speed-up"):
        async_speed_up(alpha, c, k)


def test_the_other_formulas_refuse_it_too() -> None:
    for refused in (
        lambda: sync_speed_up(1.1, 0.5, 2),
        lambda: sync_speed_up(0.5, -0.1, 2),
        lambda: token_speed_up(0.5, 0.5, 0),
        lambda: window_speed_up(0.5, 0.5, 0),
        lambda: window_speed_up(0.5, 0.5, 2, -1.0),
        lambda: window_load(2.0, 0.5, 2),
        lambda: guided_speed_up(1.1, 0.5, 2),
        lambda: guided_speed_up(0.5, 0.5, 0),
        lambda: best_split(0, 0.5, 0.5, 0.5, 0.5),
        lambda: best_split(8, 0.5, 0.0, 0.5, 0.5),
        lambda: best_split(8, 0.5, 0.5, 1.5, 0.5),
        lambda: token_acceptance_rate(0.5, 0),
        lambda: draft_tokens_pay(0.5, -0.5),
        lambda: wall_time_factor(0.5, -0.5, 2),
        lambda: guided_speed_up(0.5, 0.5, 2, restart=-1.0),
        lambda: uneven_window(0.5, 0.5, 0, 0.1, 0.3),
        lambda: uneven_window(0.5, 0.5, 2, -0.1, 0.3),
        lambda: uneven_window(0.5, 0.5, 2, 0.1, -0.3),
        lambda: hinted_speed_up(0.5, 0.5, 0.9, 2),
        lambda: late_hint_gain(0.5, 0.9),
    ):
        with pytest.raises(ValueError, match="no speed-up"):
            refused()


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("formula", "usual"),
    [
        (sync_speed_up, (0.5, 0.5, 2)),
        (async_speed_up, (0.5, 0.5, 2)),
        (token_speed_up, (0.5, 0.5, 2)),
        (window_speed_up, (0.5, 0.5, 2, 0.1)),
        (window_load, (0.5, 0.5, 2, 0.1)),
        (uneven_window, (0.5, 0.5, 2, 0.1, 0.3)),
        (best_split, (8, 0.5, 0.5, 0.5, 0.5)),
        (tokens_per_pass, (0.5, 2)),
        (wall_time_factor, (0.5, 0.5, 2)),
        (draft_tokens_pay, (0.5, 0.5)),
        (token_acceptance_rate, (0.5, 2)),
        (hinted_speed_up, (0.5, 0.5, 1.5, 2)),
        (late_hint_gain, (0.5, 1.5)),
        (guided_speed_up, (0.5, 0.5, 2, 0.1)),
    ],
)
def test_what_is_no_finite_number_is_refused_in_every_place(
    formula: Callable[..., Any], usual: tuple[float, ...], odd: float
) -> None:
    formula(*usual)
    for place in range(len(usual)):
        with pytest.raises(ValueError, match="no speed-up"):
            formula(*usual[:place], odd, *usual[place + 1 :])
