"""The published table: every row is there, and formula and session agree on it."""

from __future__ import annotations

import pytest

from deployments.coordinator.theory import async_speed_up, window_speed_up
from deployments.simulation.published import (
    COST_RATIO,
    DEPTH,
    PUBLISHED,
    SETS,
    Reproduced,
    _decisions,
    conclusion,
    fitted_overhead,
    session_speed_up,
)


def test_both_pairs_and_all_seven_sets_are_there() -> None:
    assert len(PUBLISHED) == 14
    assert [row.name for row in PUBLISHED[:7]] == [row.name for row in PUBLISHED[7:]] == list(SETS)
    gsm8k = PUBLISHED[2]
    assert (gsm8k.accept_rate, gsm8k.lookahead, gsm8k.ngram, gsm8k.both) == (0.63, 1.71, 1.39, 2.11)


def test_without_overhead_it_is_the_papers_formula() -> None:
    assert window_speed_up(0.6, COST_RATIO, DEPTH) == pytest.approx(async_speed_up(0.6, COST_RATIO, DEPTH + 1))


def test_the_fitted_overhead_is_the_best_one() -> None:
    best = fitted_overhead()

    def off(overhead: float) -> float:
        found = [window_speed_up(row.accept_rate, COST_RATIO, DEPTH, overhead) / row.lookahead for row in PUBLISHED]
        return sum((ratio - 1.0) ** 2 for ratio in found)

    assert 0.2 < best < 0.6
    assert off(best) < min(off(best - 0.1), off(best + 0.1))


def test_the_session_gives_what_the_formula_says() -> None:
    """Within chance: 2000 steps know an accept rate to 0.01."""
    measured = session_speed_up(_decisions(), 0.6, 0.25, 0.3, 2000)
    assert measured == pytest.approx(window_speed_up(0.6, 0.25, DEPTH, 0.3), rel=0.05)


def test_every_row_is_reproduced_and_the_worst_one_is_named() -> None:
    overhead = fitted_overhead()
    rows = [
        Reproduced(row, 1.4, *(window_speed_up(row.accept_rate, COST_RATIO, DEPTH, overhead),) * 2, 1.5, 1.6)
        for row in PUBLISHED
    ]
    words = conclusion(rows, overhead, True)
    assert "fitted" in words[0]
    assert f"{max(rows, key=lambda row: abs(row.lookahead_off)).published.name} of" in words[0]
    assert max(abs(row.lookahead_off) for row in rows) < 0.15
