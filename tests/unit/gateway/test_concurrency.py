"""How many run at once: when the limit changes, and when it must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gateway.concurrency import Concurrency
from deployments.gateway.drain import Drain


def pressed(limit: Concurrency, rates: list[float], used: float = 0.1) -> list[int]:
    """As much runs as may and more waits; so many tokens a second are written at each measurement."""
    now, seen = 0.0, []
    limit.lateness.began("a", now)
    for rate in rates:
        before, at = limit.limit, now
        while limit.limit == before and now < at + 4.0:
            limit.watch(before, True, now)
            for _ in range(before):
                limit.add(int(rate * 0.1 / before) or 1)
                limit.lateness.answered("a", used)
            now += 0.1
        limit.watch(limit.limit, True, now)
        seen.append(limit.limit)
    return seen


@given(st.integers(1, 500))
def test_a_fixed_limit_stays(number: int) -> None:
    assert set(pressed(Concurrency(number, number, number), [100.0, 1000.0])) == {number}


@given(st.lists(st.floats(100, 100_000), max_size=12), st.integers(1, 300))
def test_it_stays_within_its_bounds(rates: list[float], first: int) -> None:
    assert all(8 <= limit <= 200 for limit in pressed(Concurrency(first, 8, 200), rates))


def test_nothing_changes_while_nobody_waits() -> None:
    limit = Concurrency(64, 8, 640)
    for tick in range(1000):
        limit.add(100)
        limit.watch(64, False, tick * 0.1)
    assert limit.limit == 64


def test_it_rises_while_more_bring_more_and_falls_while_fewer_cost_nothing() -> None:
    rising = pressed(Concurrency(64, 8, 640), [6_400.0, 8_000.0, 10_000.0])
    assert rising == sorted(rising)
    assert rising[-1] > 64
    falling = pressed(Concurrency(64, 8, 640), [6_400.0] * 5)
    assert falling[0] > falling[-1]


def test_it_falls_when_answers_take_most_of_their_time() -> None:
    assert pressed(Concurrency(64, 8, 640), [6_400.0, 9_000.0], used=0.9)[-1] < 64


def test_it_does_not_fall_for_one_holder_whose_answers_alone_take_most_of_their_time() -> None:
    limit = Concurrency(64, 8, 640)
    limit.lateness.began("b", 0.0)
    assert pressed(limit, [6_400.0, 9_000.0], used=1.0)[-1] > 64


def test_the_rate_is_of_busy_time_only() -> None:
    drain = Drain()
    assert drain.rate() is None
    drain.advance(0.0, True)
    for second in range(1, 11):
        drain.add(50)
        drain.advance(float(second), True)
    assert drain.rate() == pytest.approx(50, rel=0.1)
    drain.advance(10_000.0, False)
    assert drain.rate() == pytest.approx(50, rel=0.1)
