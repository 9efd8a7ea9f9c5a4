"""Who is next: shares by weight, ranks before shares, and nothing saved up by staying away."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.gateway.fair_queue import FairQueue, Wish


def serve(queue: FairQueue, number: int | None) -> Wish:
    assert number is not None
    wish = queue.remove(number)
    assert wish is not None
    queue.charge(wish)
    return wish


SIZES = st.lists(st.integers(1, 2000), min_size=100, max_size=100)


@settings(max_examples=40)
@given(SIZES, SIZES, st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]), st.lists(st.floats(0.2, 3), min_size=1))
def test_two_who_wait_share_by_weight_whatever_they_ask_for(
    first: list[int], second: list[int], weight: float, truths: list[float]
) -> None:
    """Also where requests turn out to need more or less than was expected."""
    queue = FairQueue()
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        queue.add(2 * number, Wish("a", one))
        queue.add(2 * number + 1, Wish("b", other, weight=weight))
    given_to: Counter[str] = Counter()
    largest = max(max(first), max(second) / weight) * max(1.0, *truths)
    left = Counter(a=len(first), b=len(second))
    for turn in range(10_000):
        wish = serve(queue, queue.head())
        left[wish.holder] -= 1
        needed = round(wish.num_tokens * truths[turn % len(truths)])
        queue.settle(wish, needed)
        given_to[wish.holder] += needed
        if not left[wish.holder]:
            break
        assert abs(given_to["a"] - given_to["b"] / weight) <= 2 * largest + 2


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 500))
def test_who_floods_does_not_keep_others_waiting(flood: int, size: int, small: int) -> None:
    queue = FairQueue()
    for number in range(flood):
        queue.add(number, Wish("flood", 10 * size))
    for _ in range(flood // 2):
        serve(queue, queue.head())
    ahead = queue.ahead_of(Wish("calm", small))
    queue.add(flood, Wish("calm", small))
    before = 0
    while (wish := serve(queue, queue.head())).holder != "calm":
        before += wish.num_tokens
    assert before <= 20 * size
    assert ahead <= small + 10 * size


def test_who_was_away_has_saved_up_nothing() -> None:
    queue = FairQueue()
    for number in range(100):
        queue.add(number, Wish("busy", 100))
    for _ in range(50):
        serve(queue, queue.head())
    for number in range(100, 200):
        queue.add(number, Wish("late", 100))
    served = Counter(serve(queue, queue.head()).holder for _ in range(40))
    assert abs(served["busy"] - served["late"]) <= 1


def test_ranks_go_before_shares_and_priorities_within_a_holder() -> None:
    queue = FairQueue()
    queue.add(0, Wish("a", 10, rank=1, priority=1))
    queue.add(1, Wish("a", 10))
    queue.add(2, Wish("a", 10, priority=-1))
    queue.add(3, Wish("b", 10_000))
    queue.add(4, Wish("b", 10, rank=-1))
    order = []
    while (number := queue.head()) is not None:
        order.append(number)
        serve(queue, number)
    assert order == [4, 2, 1, 3, 0]


def test_what_left_is_not_counted() -> None:
    queue = FairQueue()
    queue.add(0, Wish("a", 10))
    queue.add(1, Wish("a", 20, rank=5))
    assert queue.waiting_of("a", 0) == (1, 10)
    assert queue.waiting_of("a", 9) == (2, 30)
    assert queue.remove(0) is not None
    assert queue.remove(0) is None
    assert (len(queue), queue.num_tokens, queue.head()) == (1, 20, 1)
    assert queue.ahead_of(Wish("a", 5)) == 0
    assert queue.ahead_of(Wish("a", 5, rank=5)) == 20


def test_nothing_is_kept_of_those_that_come_and_go_behind_one_that_waits() -> None:
    queue = FairQueue()
    queue.add(0, Wish("a", 10))
    for number in range(1, 1000):
        queue.add(number, Wish("a", 10, priority=number % 3 + 1))
        queue.remove(number - 50 if number > 50 else number)
    assert len(queue._lines["a"].heap) < 200
    waiting = sorted((wish.priority, number) for number, wish in queue._waiting.items())
    served = []
    while (head := queue.head()) is not None:
        served.append((queue._waiting[head].priority, head))
        queue.remove(head)
    assert served == waiting


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 300)), min_size=3, max_size=60), st.integers(1, 300))
def test_what_is_foretold_to_go_before_does(waiting: list[tuple[str, int]], size: int) -> None:
    """Within what the largest requests of the other holders make uncertain."""
    queue = FairQueue()
    for number, (holder, num_tokens) in enumerate(waiting):
        queue.add(number, Wish(holder, num_tokens))
    mine = Wish("mine", size)
    foretold = queue.ahead_of(mine)
    queue.add(len(waiting), mine)
    before = 0
    while (wish := serve(queue, queue.head())).holder != "mine":
        before += wish.num_tokens
    largest = max(num_tokens for _, num_tokens in waiting)
    assert before == pytest.approx(foretold, abs=3 * (largest + size))
