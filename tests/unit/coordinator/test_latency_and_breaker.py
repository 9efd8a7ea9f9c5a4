"""Time limits from recent latencies, and who is left alone: pure, with times handed in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Verdict
from deployments.coordinator.breaker import Breaker, Circuit, Fuse
from deployments.coordinator.latency import MIN_KNOWN, NUM_RECENT, REFRESH_EVERY, Bounds, TimeLimit
from deployments.coordinator.vigilance import Vigilance

BOUNDS = Bounds(0.5, 20.0, 5.0)


def limit_after(*seconds: float) -> float:
    limit = TimeLimit(BOUNDS)
    for each in seconds:
        limit.took(each)
    return limit.limit_s()


def test_until_enough_is_known_the_limit_is_the_ceiling() -> None:
    assert limit_after(*[0.2] * (MIN_KNOWN - 1)) == 20.0
    assert limit_after(*[0.2] * MIN_KNOWN) == pytest.approx(1.0)


def test_the_limit_is_many_times_what_nearly_all_calls_take() -> None:
    assert limit_after(*[0.1] * 60, *[0.4] * 4) == pytest.approx(2.0), "a sixteenth of them is slow"
    assert limit_after(*[0.2] * 62, 3.0, 3.0) == pytest.approx(1.0), "two slow ones of 64 move nothing"


def test_a_role_that_becomes_slower_is_heard_at_a_later_attempt_and_takes_its_limit_along() -> None:
    limit = TimeLimit(BOUNDS)
    for _ in range(NUM_RECENT):
        limit.took(0.2)
    assert [limit.limit_s(attempt) for attempt in range(6)] == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0]
    num_given_up = 0
    for _ in range(NUM_RECENT):
        attempt = next(attempt for attempt in range(9) if limit.limit_s(attempt) >= 3.0)
        num_given_up += attempt
        limit.took(3.0)
    assert limit.limit_s() == pytest.approx(15.0)
    assert num_given_up <= NUM_RECENT // 5, "few calls are given up before"


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e6), max_size=300))
def test_the_limit_keeps_its_bounds(times: list[float]) -> None:
    assert 0.5 <= limit_after(*times) <= 20.0


def test_the_median_is_told_once_it_is_known() -> None:
    limit = TimeLimit(BOUNDS)
    for number in range(REFRESH_EVERY - 1):
        limit.took(number)
        assert limit.typical_s() is None
    limit.took(100.0)
    assert limit.typical_s() == 4.0


def judged(vigilance: Vigilance, seconds: float, num: int = MIN_KNOWN, unasked: int = 0, cached: bool = False) -> None:
    for _ in range(num):
        verdict = Verdict(True, "cascade", "", num_unasked=unasked, is_cached=cached)
        vigilance.judged("cascade", verdict, seconds)


def test_a_verdict_may_take_as_long_as_a_step() -> None:
    vigilance = Vigilance(BOUNDS, BOUNDS, Bounds(0.25, 2.0), Fuse())
    assert vigilance.verdict_s("cascade") == 2.0
    judged(vigilance, 0.01)
    assert vigilance.verdict_s("cascade") == 0.25
    assert vigilance.verdict_s("another, not heard of yet") == 2.0
    for _ in range(MIN_KNOWN):
        vigilance.step.took(0.9)
    assert vigilance.verdict_s("cascade") == 0.9
    for _ in range(NUM_RECENT):
        vigilance.step.took(9.0)
    assert vigilance.verdict_s("cascade") == 2.0, "but never longer than it was allowed"


def test_a_check_that_is_seldom_asked_keeps_its_own_time() -> None:
    """Numbers that differ reject in a millisecond, a judge behind them takes 0.3 s and is asked once in fifty."""
    vigilance = Vigilance(BOUNDS, BOUNDS, Bounds(0.25, 2.0), Fuse())
    judged(vigilance, 0.001, NUM_RECENT, unasked=1)
    assert vigilance.verdict_s("cascade") == 2.0, "the judge was never heard"
    for _ in range(MIN_KNOWN):
        judged(vigilance, 0.3, 1)
        judged(vigilance, 0.001, 49, unasked=1)
    assert vigilance.verdict_s("cascade") == pytest.approx(1.5)
    judged(vigilance, 0.001, NUM_RECENT, unasked=0, cached=True)
    assert vigilance.verdict_s("cascade") == pytest.approx(1.5), "what was judged before says nothing of the judge"


def test_a_slow_check_in_the_middle_counts_as_well() -> None:
    vigilance = Vigilance(BOUNDS, BOUNDS, Bounds(0.25, 2.0), Fuse())
    judged(vigilance, 0.3, unasked=1)
    judged(vigilance, 0.02)
    assert vigilance.verdict_s("cascade") == pytest.approx(1.5)


def test_a_probe_is_listened_to_and_keeps_its_step_waiting_no_longer_than_a_step() -> None:
    vigilance = Vigilance(BOUNDS, BOUNDS, Bounds(0.25, 2.0), Fuse(1, 1.0))
    vigilance.verdict_breaker.failed(0.0)
    assert vigilance.verdict_breaker.lets_through(1.0)
    assert vigilance.verdict_s("cascade") == vigilance.hearing_s("cascade") == 2.0, "nothing is known yet"
    for _ in range(MIN_KNOWN):
        vigilance.step.took(0.9)
    assert (vigilance.verdict_s("cascade"), vigilance.hearing_s("cascade")) == (0.9, 2.0)
    judged(vigilance, 0.3)
    assert (vigilance.verdict_s("cascade"), vigilance.hearing_s("cascade")) == (0.9, 2.0)
    vigilance.verdict_breaker.succeeded()
    assert vigilance.verdict_s("cascade") == vigilance.hearing_s("cascade") == pytest.approx(1.5)


def failing(breaker: Breaker, times: list[float]) -> None:
    for now in times:
        assert breaker.lets_through(now)
        breaker.failed(now)


def test_a_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(Fuse(3, 2.0, 30.0))
    failing(breaker, [0.0, 0.1])
    breaker.succeeded()
    failing(breaker, [0.2, 0.3])
    assert breaker.state is Circuit.CLOSED
    failing(breaker, [0.4])
    assert breaker.state is Circuit.OPEN
    assert not breaker.lets_through(2.3)


def test_one_probe_closes_it_or_opens_it_for_twice_as_long() -> None:
    breaker = Breaker(Fuse(1, 2.0, 7.0))
    failing(breaker, [0.0])
    now = 2.0
    for pause in (4.0, 7.0, 7.0):
        assert breaker.lets_through(now)
        assert breaker.state is Circuit.HALF_OPEN
        assert not breaker.lets_through(now + 0.1), "one probe at a time"
        breaker.failed(now + 0.5)
        assert not breaker.lets_through(now + 0.4 + pause)
        now += 0.5 + pause
    assert breaker.lets_through(now)
    breaker.succeeded()
    assert breaker.lets_through(now)
    failing(breaker, [now])
    assert breaker.lets_through(now + 2.0), "the pause is short again after a success"


def test_a_probe_that_is_never_heard_of_blocks_nobody() -> None:
    breaker = Breaker(Fuse(1, 2.0, 30.0))
    failing(breaker, [0.0])
    assert breaker.lets_through(2.0)
    assert not breaker.lets_through(3.9)
    assert breaker.lets_through(4.0)


def test_a_probe_that_was_cancelled_gives_its_place_to_another_at_once() -> None:
    breaker = Breaker(Fuse(1, 2.0, 30.0))
    breaker.left()
    failing(breaker, [0.0])
    breaker.left()
    assert not breaker.lets_through(1.9), "only a probe can make room for another"
    assert breaker.lets_through(2.0)
    breaker.left()
    assert breaker.lets_through(2.1)
    assert not breaker.lets_through(2.2), "one probe at a time"
    breaker.failed(2.3)
    assert not breaker.lets_through(6.2), "its failure opens for twice as long as the first one"
    assert breaker.lets_through(6.3)


def test_late_failures_of_calls_from_before_do_not_lengthen_the_pause() -> None:
    breaker = Breaker(Fuse(2, 2.0, 30.0))
    for _ in range(6):
        assert breaker.lets_through(0.0)
    for now in (1.0, 1.0, 1.5, 1.6, 1.7, 1.8):
        breaker.failed(now)
    assert breaker.lets_through(3.0)


def test_quick_chunks_of_a_draft_say_nothing_of_its_whole_steps() -> None:
    vigilance = Vigilance(BOUNDS, Bounds(1.0, 30.0), BOUNDS, Fuse())
    for _ in range(20):
        vigilance.draft(2).took(0.06)
    assert vigilance.draft(2).limit_s() == 1.0
    assert vigilance.draft(128).limit_s() == 30.0, "nothing is known of them yet"
    for _ in range(20):
        vigilance.draft(128).took(1.5)
    assert vigilance.draft(128).limit_s() == 7.5
    assert vigilance.draft(200).limit_s() == 7.5
    assert vigilance.draft(2).limit_s() == 1.0


def test_the_first_word_of_a_draft_may_take_as_long_as_its_prompt_is_read() -> None:
    vigilance = Vigilance(BOUNDS, Bounds(1.0, 30.0), BOUNDS, Fuse())
    for _ in range(20):
        vigilance.draft(128).took(0.1)
        vigilance.first_draft(128, 0).took(0.1)
    assert vigilance.draft(128).limit_s() == 1.0
    assert vigilance.first_draft(128, 0).limit_s() == 3.0, "it may wait in the engine's queue"
    assert vigilance.first_draft(128, 5000).limit_s() == 30.0, "nothing is known of long prompts yet"
    for _ in range(20):
        vigilance.first_draft(128, 5000).took(4.0)
    assert vigilance.first_draft(128, 6000).limit_s() == 20.0
    assert vigilance.first_draft(128, 0).limit_s() == 3.0


def test_the_first_word_of_a_target_may_take_as_long_as_its_prompt_is_read() -> None:
    vigilance = Vigilance(Bounds(10.0, 120.0), BOUNDS, BOUNDS, Fuse())
    for _ in range(NUM_RECENT):
        vigilance.first(0).took(0.1)
        vigilance.first(100).took(0.2)
    assert vigilance.first(0).limit_s() == 30.0, "it may wait in the engine's queue"
    assert vigilance.first(20_000).limit_s() == 120.0, "nothing is known of long prompts yet"
    for _ in range(MIN_KNOWN):
        vigilance.first(20_000).took(20.0)
    assert vigilance.first(30_000).limit_s() == 100.0
    assert vigilance.first(100).limit_s() == 30.0
