"""Quantiles, intervals and lengths of time, against numbers worked out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.bench.figures import bootstrap_ci, busy_s, quantile, share_ci, sign_test


def test_quantiles():
    assert quantile([], 0.5) is None
    assert quantile([3.0], 0.95) == 3.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), max_size=12))
def test_busy_time_is_the_union(found):
    intervals = [(start, start + length) for start, length in found]
    busy = busy_s(intervals)
    assert busy <= sum(length for _, length in found) + 1e-9
    if intervals:
        assert busy <= max(e for _, e in intervals) - min(s for s, _ in intervals) + 1e-9
        assert busy >= max(e - s for s, e in intervals) - 1e-9


def test_busy_time_leaves_gaps_out():
    assert busy_s([(0, 2), (1, 3), (10, 11), (10.2, 10.4)]) == pytest.approx(4.0)
    assert busy_s([]) == 0.0


def test_interval_needs_three_values_and_depends_on_the_seed_alone():
    assert bootstrap_ci([1.0, 2.0], seed=0) is None
    values = [random.Random(5).uniform(0.5, 2.0) for _ in range(9)]
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(values, seed=3)


def test_interval_covers_the_true_median_about_as_often_as_it_says():
    """120 samples of 15 from a distribution with median 1: near 95 % of intervals should hold 1."""
    chance = random.Random(11)
    hits = 0
    for trial in range(120):
        interval = bootstrap_ci([chance.lognormvariate(0.0, 0.3) for _ in range(15)], seed=trial)
        hits += interval[0] <= 1.0 <= interval[1]
    assert 0.86 <= hits / 120 <= 1.0


def test_wilson():
    low, high = share_ci(8, 10)
    assert (low, high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert share_ci(0, 0) is None
    assert share_ci(0, 5)[0] == 0.0


def test_values_of_one_block_are_drawn_together():
    assert bootstrap_ci([1.0, 1.1, 2.0, 2.1], seed=0, blocks=[0, 0, 7, 7]) is None, "two blocks say nothing"
    same = [random.Random(3).uniform(0.5, 2.0) for _ in range(9)]
    assert bootstrap_ci(same, seed=3, blocks=range(9)) == bootstrap_ci(same, seed=3)
    values, blocks = [1.0, 1.0, 1.0, 5.0, 5.0, 9.0], [0, 0, 0, 1, 1, 2]
    assert bootstrap_ci(values, seed=0, blocks=blocks) == (1.0, 9.0), "one draw of 27 has the third block alone"
    low, high = bootstrap_ci(values, seed=0, of_mean=True, blocks=blocks)
    assert (low, high) == (1.0, 9.0)


def test_what_blocks_share_makes_their_interval_wider():
    """Ten prompts in each of 12 blocks, which differ by the machine: over prompts the interval holds the truth too
    seldom."""
    chance, held = np.random.default_rng(8), {"prompts": 0, "blocks": 0}
    blocks = np.repeat(np.arange(12), 10)
    for trial in range(60):
        values = 1.0 + chance.normal(0, 0.1, 12)[blocks] + chance.normal(0, 0.05, 120)
        for name, kind in (("prompts", None), ("blocks", blocks)):
            low, high = bootstrap_ci(values, trial, blocks=kind)
            held[name] += low <= 1.0 <= high
    assert held["blocks"] >= 50 > held["prompts"]


def test_signs_by_hand():
    assert sign_test(0, 0) == sign_test(3, 3) == sign_test(4, 3) == 1.0
    assert sign_test(4, 0) == sign_test(0, 4) == pytest.approx(0.125)
    assert sign_test(5, 0) == pytest.approx(0.0625)
    assert sign_test(6, 0) == pytest.approx(0.03125)
    assert sign_test(1, 8) == pytest.approx(20 / 512)


def test_interval_of_the_mean_covers_the_true_mean():
    chance = np.random.default_rng(4)
    samples = chance.choice([-1.0, 0.0, 0.0, 0.0, 1.0], size=(80, 20))
    hits = sum(low <= 0 <= high for low, high in (bootstrap_ci(list(s), 7, of_mean=True) for s in samples))
    assert 0.85 <= hits / 80 <= 1.0


def test_pairing_takes_what_prompts_share_out_of_the_interval():
    """Prompts differ tenfold, each is 1.5 times as fast: the ratio's interval is narrow, and would be wide unpaired."""
    chance = random.Random(2)
    base = [chance.uniform(1, 10) for _ in range(20)]
    own = [one / 1.5 * chance.uniform(0.98, 1.02) for one in base]
    low, high = bootstrap_ci([b / o for b, o in zip(base, own, strict=True)], seed=0)
    mixed_low, mixed_high = bootstrap_ci([b / o for b, o in zip(base, reversed(own), strict=True)], seed=0)
    assert 1.45 < low <= high < 1.55
    assert mixed_high - mixed_low > 5 * (high - low)
