"""Precision, recall and their intervals; the choice of a threshold; the rising map from scores to probabilities."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.calibration.curve import (
    MAX_POINTS,
    Scored,
    calibration,
    choose,
    num_for,
    thresholds,
    wilson,
)

PAIRS = st.lists(st.builds(Scored, st.sampled_from([0.1, 0.5, 0.7, 0.85, 0.9, 1.0]) | st.floats(0, 1), st.booleans()))


@pytest.mark.parametrize(
    ("num_right", "num", "low", "high"),
    # Two of these are worked examples of the literature (Newcombe 1998, table I: 81/263 and 15/148).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (0, 0, 0, 1)],
)
def test_wilsons_interval(num_right, num, low, high):
    assert wilson(num_right, num) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("num_right", "num"), [(3, 2), (-1, 2)])
def test_counts_that_cannot_be_are_refused(num_right, num):
    with pytest.raises(ValueError, match="is no share"):
        wilson(num_right, num)


@given(st.integers(1, 300).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_the_interval_holds_the_share_and_solves_its_equation(counts):
    """The ends are the shares p at which the observed share lies 1.96 standard deviations of p away."""
    right, num = counts
    share = right / num
    low, high = wilson(right, num)
    assert 0.0 <= low <= share <= high <= 1.0
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / num), rel=1e-6)


def test_thresholds_by_hand():
    pairs = [Scored(0.9, True), Scored(0.5, False), Scored(0.9, False), Scored(0.7, True)]
    found = [(t.threshold, t.num_accepted, t.num_right, t.recall, t.accepted) for t in thresholds(pairs)]
    assert found == [(0.5, 4, 2, 1.0, 1.0), (0.7, 3, 2, 1.0, 0.75), (0.9, 2, 1, 0.5, 0.5)]
    assert [t.precision for t in thresholds(pairs)] == pytest.approx([0.5, 2 / 3, 0.5])


@given(PAIRS, st.randoms())
def test_thresholds_count_what_they_say(pairs, chance):
    found = thresholds(pairs)
    assert [t.threshold for t in found] == sorted({pair.score for pair in pairs})
    num_same = sum(pair.same for pair in pairs)
    for t in found:
        accepted = [pair for pair in pairs if pair.score >= t.threshold]
        assert (t.num_accepted, t.num_right) == (len(accepted), sum(pair.same for pair in accepted))
        assert t.recall == (t.num_right / num_same if num_same else 0.0)
    shuffled = list(pairs)
    chance.shuffle(shuffled)
    assert thresholds(shuffled) == found


def test_the_lowest_threshold_whose_interval_reaches_the_wish():
    pairs = [Scored(0.5, False)] * 30 + [Scored(0.8, True)] * 40 + [Scored(0.9, True)] * 40
    chosen = choose(thresholds(pairs), 0.9)
    assert chosen is not None
    assert (chosen.threshold, chosen.num_accepted, chosen.precision) == (0.8, 80, 1.0)
    assert choose(thresholds(pairs), 0.99) is None
    assert choose([], 0.5) is None


def test_ten_right_of_ten_show_no_ninety_five_percent():
    found = thresholds([Scored(0.9, True)] * 10)
    assert found[0].precision == 1.0
    assert choose(found, 0.95) is None


@given(st.floats(0.5, 0.999))
def test_the_number_that_it_takes_is_enough_and_no_more(precision):
    num = num_for(precision)
    assert wilson(num, num)[0] >= precision - 1e-9
    assert wilson(num - 1, num - 1)[0] < precision


def test_the_map_is_the_share_where_nothing_violates():
    pairs = [Scored(0.2, False)] * 9 + [Scored(0.2, True)] + [Scored(0.8, True)] * 9 + [Scored(0.8, False)]
    assert calibration(pairs) == [(0.2, 0.1), (0.8, 0.9)]


def test_violators_are_pooled():
    pairs = [Scored(0.2, True), Scored(0.4, False), Scored(0.9, True)]
    assert calibration(pairs) == [(pytest.approx(0.3), 0.5), (0.9, pytest.approx(0.8))]


def test_no_probability_is_certain():
    assert calibration([Scored(0.5, True)] * 8) == [(0.5, 0.9)]
    assert calibration([Scored(0.5, False)] * 8) == [(0.5, 0.1)]
    assert calibration([]) == []


def test_scores_that_are_nearly_the_same_keep_their_own_probabilities():
    pairs = [Scored(0.99993, False)] * 8 + [Scored(0.99994, True)] * 8
    assert [score for score, _ in calibration(pairs)] == [0.99993, 0.99994]
    assert [probability for _, probability in calibration(pairs)] == pytest.approx([1 / 18, 17 / 18])


def test_no_probability_is_certain_of_very_many_pairs():
    ((_, probability),) = calibration([Scored(0.5, True)] * 30_000)
    assert probability < 1


@given(PAIRS)
def test_the_map_rises_and_is_short(pairs):
    points = calibration(pairs)
    assert len(points) <= MAX_POINTS
    assert bool(points) == bool(pairs)
    assert all(0 < probability < 1 for _, probability in points)
    assert all(one[0] < other[0] and one[1] <= other[1] for one, other in pairwise(points))
