"""The formula at its known points."""

from __future__ import annotations

import pytest

from deployments.coordinator.theory import async_speed_up


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


@pytest.mark.parametrize(("alpha", "c", "k"), [(1.1, 0.5, 2), (-0.1, 0.5, 2), (0.5, 0.0, 2), (0.5, 0.5, 0)])
def test_what_has_no_meaning_is_refused(alpha: float, c: float, k: int) -> None:
    with pytest.raises(ValueError, match="no speed-up"):
        async_speed_up(alpha, c, k)
