"""What calls could find of each other's text, and what of it they found."""

from __future__ import annotations

from deployments.bench.reuse import Reuse

PROMPT = tuple(range(10))


def test_what_was_read_and_written_can_be_found_in_whole_blocks() -> None:
    reuse = Reuse(4)
    first = reuse.begin(PROMPT)
    assert first.num_reusable == 0
    assert reuse.begin(PROMPT).num_reusable == 0, "nobody has read it yet"
    first.wrote((10,), 0, "a")
    assert reuse.begin(PROMPT).num_reusable == 8
    first.wrote((11, 12, 13), 0, "a")
    text = tuple(range(20))
    assert reuse.begin(text).num_reusable == 12, "the last token was written and not read"
    assert reuse.begin(text[:12]).num_reusable == 8, "the last token of a text is always read again"
    assert reuse.begin((0, 1, 2, 3, 9, 9, 9, 9, 9)).num_reusable == 4, "what branches off shares its beginning"
    assert reuse.begin((9, *PROMPT)).num_reusable == 0


def test_calls_in_turns_keep_their_own_texts() -> None:
    reuse = Reuse(2)
    one, other = reuse.begin((1, 2, 3)), reuse.begin((1, 2, 4))
    for number in range(4):
        one.wrote((10 + number,), 0, "a")
        other.wrote((20 + number,), 0, "b")
    assert reuse.known((1, 2, 3, 10, 11, 12, 13, 0)) == 6
    assert reuse.known((1, 2, 4, 20, 11, 12, 13, 0)) == 4


def test_found_counts_no_more_than_was_there_and_only_of_calls_that_wrote() -> None:
    reuse = Reuse(4)
    reuse.begin(PROMPT).wrote((10,), 4, "a")
    reuse.begin(PROMPT).wrote((10,), 8, "a")
    elsewhere = reuse.begin(PROMPT)
    elsewhere.wrote((10,), 0, "b")
    elsewhere.wrote((11,), 8, "b")
    reuse.begin(PROMPT)
    figures = reuse.figures()
    assert (figures["num_calls"], figures["num_calls_without_words"]) == (3, 1)
    assert (figures["reusable_tokens"], figures["found_tokens"], figures["found_of_reusable"]) == (16, 8, 0.5)
    assert figures["prefix_tokens"] == 30
