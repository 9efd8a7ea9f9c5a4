"""Zones and calibrations: which scores accept, and which probability a score stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import ConfigError
from actors.verifiers.check import Calibration, Decision, Zones


def test_lines_between_points_and_level_outside():
    calibration = Calibration.of([[0.5, 0.1], [0.9, 0.5], [1.0, 1.0]])
    expected = {-1.0: 0.1, 0.5: 0.1, 0.7: 0.3, 0.9: 0.5, 0.95: 0.75, 1.0: 1.0, 2.0: 1.0}
    assert {score: pytest.approx(calibration.probability(score)) for score in expected} == expected


POINTS = st.lists(st.tuples(st.floats(-1, 9), st.floats(0, 1)), min_size=1, max_size=6).map(
    lambda points: list(
        zip(sorted({score for score, _ in points}), sorted(probability for _, probability in points), strict=False)
    )
)


@given(POINTS, st.floats(-2, 10), st.floats(-2, 10))
def test_a_higher_score_is_never_less_probable(points, one, other):
    calibration = Calibration.of(points)
    low, high = sorted((one, other))
    assert 0.0 <= calibration.probability(low) <= calibration.probability(high) + 1e-12 <= 1.0 + 1e-9


@pytest.mark.parametrize(
    "points", [[[0.5, 0.5], [0.5, 0.6]], [[0.6, 0.5], [0.5, 0.6]], [[0.5, 0.6], [0.6, 0.5]], [[0.5, 1.2]], [[0.5, -1]]]
)
def test_points_that_fall_are_refused(points):
    with pytest.raises(ConfigError, match="scores must rise"):
        Calibration.of(points)


def test_no_points_no_probability():
    assert Calibration.of(()) is None
    assert Zones(0.8, 0.8).opinion(0.9, "it").probability is None


def test_every_zone_carries_score_and_probability():
    zones = Zones(7.0, 3.0, Calibration.of([[0, 0.0], [9, 0.9]]), top=9.0)
    found = [zones.opinion(score, "the mark") for score in (8.0, 5.0, 1.0)]
    assert [opinion.decision for opinion in found] == [Decision.ACCEPT, Decision.UNSURE, Decision.REJECT]
    assert [opinion.score for opinion in found] == [8.0, 5.0, 1.0]
    assert [opinion.probability for opinion in found] == pytest.approx([0.8, 0.5, 0.1])


def test_zones_above_the_top_are_refused():
    with pytest.raises(ConfigError, match="between 0 and 9"):
        Zones(10.0, 3.0, top=9.0)
