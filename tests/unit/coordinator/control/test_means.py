"""Means that forget, and the meter."""

from __future__ import annotations

from random import Random

import pytest

from deployments.coordinator.control.estimates import Estimates, request_alpha
from deployments.coordinator.control.means import Mean, Meter, Rate


def test_a_mean_begins_at_its_prior_and_ends_at_the_values() -> None:
    mean = Mean(0.5, 4.0, 100.0)
    assert mean.value == 0.5
    mean.add(1.0, 4.0)
    assert mean.value == pytest.approx(0.75, abs=0.01)
    for _ in range(1000):
        mean.add(1.0)
    assert mean.value == pytest.approx(1.0 - 0.5 * 4 / 104)
    assert mean.weight == pytest.approx(100.0, rel=0.01)


def test_old_values_fade() -> None:
    mean = Mean(0.0, 0.0, 10.0)
    for value in [0.0] * 100 + [1.0] * 10:
        mean.add(value)
    assert 0.6 < mean.value < 0.65  # 1 - 1/e of the weight is new


def test_a_mean_without_evidence_gives_way_to_another_prior() -> None:
    mean = Mean(0.5, 8.0, 40.0)
    assert mean.over(0.9) == 0.9
    for _ in range(8):
        mean.add(0.0)
    assert mean.over(0.9) == pytest.approx(0.9 * 8 / (8 + mean.weight))
    before = mean.weight
    mean.fade(40.0)
    assert mean.weight == pytest.approx(before / 2)
    mean.fade(40.0, least=before)
    assert mean.weight == pytest.approx(before / 2)


def test_a_mean_of_nothing_with_no_prior_is_the_prior() -> None:
    assert Mean(3.0, 0.0, 10.0).value == 3.0


def test_a_meter_counts_and_integrates() -> None:
    meter = Meter()
    meter.begin(1.0)
    meter.begin(2.0)
    meter.end(5.0)
    assert meter.num == 1
    assert meter.integral(7.0) == pytest.approx(1 + 3 * 2 + 2)


def outcomes(rate: Rate, alpha: float, num: int, seed: int) -> list[float]:
    """The values after each of `num` trials."""
    random, values = Random(seed), []
    for _ in range(num):
        rate.add(random.random() < alpha, random.uniform(0.5, 1.5))
        values.append(rate.value)
    return values


def test_a_rate_is_steady_where_nothing_changes() -> None:
    changes = 0
    for seed in range(20):
        rate = Rate(0.5, 4.0, 40.0, 8.0)
        values = outcomes(rate, 0.7, 200, seed)[100:]
        assert max(values) - min(values) < 0.5
        changes += rate.has_changed
    assert changes <= 6


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.0), (0.9, 0.3), (0.1, 1.0), (0.0, 0.7)])
def test_a_rate_follows_a_change_within_a_few_steps(before: float, after: float) -> None:
    late = 0
    for seed in range(20):
        rate = Rate(0.5, 4.0, 40.0, 8.0)
        outcomes(rate, before, 100, seed)
        values = outcomes(rate, after, 20, seed + 100)
        late += abs(values[-1] - after) > 0.35
    assert late <= 2


def test_a_request_that_changed_is_no_longer_taken_for_one_of_the_pool() -> None:
    rate = Rate(0.5, 16.0, 40.0, 8.0)
    for _ in range(20):
        rate.add(True, 1.0)
    assert rate.over(0.9) > 0.9
    for _ in range(12):
        rate.add(False, 1.0)
    assert rate.has_changed
    assert rate.over(0.9) < 0.5


def test_one_very_long_step_is_not_taken_for_a_change_of_the_text() -> None:
    low = 0
    for seed in range(20):
        estimates, own, random = Estimates(), request_alpha(), Random(seed)
        for _ in range(400):
            estimates.decided(random.random() < 0.8, 10, "numbers", own)
        estimates.decided(False, 256, "numbers", own)
        low += estimates.alpha("numbers").value < 0.7
    assert low <= 5


def test_what_one_verifier_takes_for_its_steps_says_nothing_of_another_one() -> None:
    estimates = Estimates()
    for _ in range(100):
        estimates.judged(2.0, "judge, blank_line")
        estimates.decided(True, 100, "judge, blank_line", request_alpha())
        estimates.decided(True, 10, "numbers, line", request_alpha())
    assert estimates.verdict_tokens_s("judge, blank_line") == pytest.approx(0.02, rel=0.03)
    assert estimates.verdict_tokens_s("numbers, line") == 0.0
