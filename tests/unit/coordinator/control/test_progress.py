"""What the words of running steps teach before the steps are done."""

from __future__ import annotations

import pytest

from actors.messages import Delta
from deployments.coordinator.control.estimates import NEWS, PART_WEIGHT, Estimates


def words(num_tokens: int, num_passes: float = 0.0) -> Delta:
    return Delta("w" * num_tokens, tuple(range(num_tokens)), num_passes=num_passes)


def begun(*calls: str) -> Estimates:
    estimates = Estimates()
    for call in calls:
        estimates.begin(call, 0.0, is_target=True)
    return estimates


def test_the_first_words_have_the_wait_for_them_in_them() -> None:
    estimates = begun("head")
    assert not estimates.progress("head", words(5), 9.0)
    assert not estimates.target_cost.is_known
    assert estimates.progress("head", words(2), 9.4)
    assert estimates.target_cost.window_s(1.0) == pytest.approx(0.2)


def test_tokens_that_a_hint_gave_do_not_make_a_pass_shorter() -> None:
    estimates = begun("head")
    estimates.progress("head", words(1), 1.0)
    assert not estimates.progress("head", words(9, num_passes=1.0), 1.1), "a single pass says little"
    assert estimates.progress("head", words(9, num_passes=1.0), 1.2)
    assert estimates.target_cost.window_s(1.0) == pytest.approx(0.1)


def test_the_time_in_which_another_prompt_is_read_does_not_count() -> None:
    estimates = begun("head")
    estimates.progress("head", words(1), 1.0)
    estimates.begin("deeper", 1.0, is_target=True)
    assert not estimates.progress("head", words(4), 3.0), "the other call has not written"
    estimates.progress("deeper", words(1), 3.1)
    assert not estimates.progress("head", words(4), 3.4), "it had not when this part began"
    assert estimates.progress("head", words(4), 4.2)
    assert estimates.target_cost.window_s(2.0) == pytest.approx(0.2)


def test_in_a_large_batch_one_prompt_more_counts_like_the_rest() -> None:
    estimates = begun(*"abcdef")
    for call in "bcdefa":
        estimates.progress(call, words(1), 1.0)
    estimates.begin("g", 1.0, is_target=True)
    assert estimates.progress("a", words(2), 1.2)


def test_what_is_known_is_no_news_and_unknown_calls_teach_nothing() -> None:
    estimates = begun("head")
    estimates.progress("head", words(1), 1.0)
    news = [estimates.progress("head", words(2), 1.0 + 0.2 * i) for i in range(1, 8)]
    assert news[0]
    assert not news[-1]
    assert sum(news) == pytest.approx(NEWS / PART_WEIGHT, abs=1)
    assert not estimates.progress("gone", words(2), 9.0)
