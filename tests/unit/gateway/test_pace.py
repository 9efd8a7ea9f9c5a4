"""How long a token takes by how many run: what is foretold from what was measured."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gateway.pace import Pace


def measured(token_s: Callable[[int], float], numbers: list[int], each_s: float = 3.0) -> Pace:
    """So many run, one number after the other, and each writes a token in `token_s` of that number."""
    pace, now = Pace(), 0.0
    pace.advance(now, 0)
    for number in numbers:
        tick_s = token_s(number) / number
        for _ in range(int(each_s / tick_s)):
            now += tick_s
            pace.advance(now, number)
            pace.add(1)
    pace.advance(now, 0)
    return pace


def test_nothing_is_foretold_before_anything_was_measured() -> None:
    pace = Pace()
    assert pace.token_s(1) is None
    pace.advance(0.0, 4)
    pace.advance(5.0, 4)
    assert pace.token_s(1) is None, "nobody wrote anything"


def test_of_one_number_twice_as_many_are_expected_to_take_twice_as_long() -> None:
    pace = measured(lambda _: 0.1, [8])
    assert pace.token_s(8) == pytest.approx(0.1, rel=0.01)
    assert pace.token_s(16) == pytest.approx(0.2, rel=0.01)
    assert pace.token_s(9) == pace.token_s(8) == pace.token_s(1), "one more is tried out"


@pytest.mark.parametrize(
    ("token_s", "at_40"),
    [(lambda _: 0.05, 0.05), (lambda n: 0.01 * n, 0.4), (lambda n: 0.05 + 0.002 * n, 0.13)],
)
def test_engines_with_room_full_ones_and_batches_are_told_apart(token_s: Callable[[int], float], at_40: float) -> None:
    assert measured(token_s, [4, 10, 20, 10]).token_s(40) == pytest.approx(at_40, rel=0.1)


def test_what_others_cost_is_known_while_their_number_does_not_change() -> None:
    full, roomy = (measured(token_s, [4, 8, *[8] * 20]) for token_s in (lambda n: 0.01 * n, lambda _: 0.08))
    assert full.token_s(1) == pytest.approx(0.01, rel=0.2)
    assert full.token_s(9) == pytest.approx(0.09, rel=0.05)
    assert roomy.token_s(1) == pytest.approx(0.08, rel=0.05)
    assert roomy.token_s(100) == pytest.approx(0.08, rel=0.2)


def test_a_server_that_became_slower_is_believed() -> None:
    pace, now = Pace(), 0.0
    for number in range(400):
        now += 0.1 if number < 200 else 0.4
        pace.advance(now, 4)
        pace.add(4)
    assert pace.token_s(4) == pytest.approx(0.4, rel=0.1)


@given(st.lists(st.tuples(st.floats(0.01, 2.0), st.integers(0, 600), st.integers(0, 400)), max_size=60))
def test_more_at_once_are_never_foretold_to_be_faster(steps: list[tuple[float, int, int]]) -> None:
    pace, now = Pace(), 0.0
    for passed, number, tokens in steps:
        now += passed
        pace.advance(now, number)
        for _ in range(min(tokens, number)):
            pace.add(tokens)
    found = [pace.token_s(number) for number in (1, 2, 5, 50, 700)]
    if found[0] is not None:
        times = [each or 0.0 for each in found]
        assert times[0] >= -1e-9
        assert all(less <= more + 1e-9 for less, more in pairwise(times))
