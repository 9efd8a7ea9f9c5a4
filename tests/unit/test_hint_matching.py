"""What is proposed from hints and from the context."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engines.hint_matching import (
    MAX_HINTS,
    HintedSequence,
    HintTrack,
    MatchRules,
    Proposal,
    Source,
    cut_after,
    look_up,
)

RULES = MatchRules(num_hint_tokens=3, num_ngram_tokens=2)
PROMPT = [900, 901, 902]


def propose(hints: list[list[int]], written: list[int], rules: MatchRules = RULES, room: int = 99) -> Proposal:
    sequence = HintedSequence(rules)
    sequence.add(hints)
    return sequence.propose(np.array(PROMPT + written, dtype=np.int32), len(written), room)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([], [1, 2, 3]),
        ([1], [2, 3, 4]),
        ([1, 2, 3, 4, 5], [6, 7, 8]),
        ([1, 2, 3, 4, 5, 6, 7], [8]),
        ([1, 2, 50, 4, 5], [6, 7, 8]),  # another token
        ([1, 2, 50, 51, 3, 4], [5, 6, 7]),  # one more token
        ([1, 2, 5, 6], [7, 8]),  # some fewer
    ],
)
def test_a_hint_is_continued_and_taken_up_again(written: list[int], expected: list[int]) -> None:
    assert propose([[1, 2, 3, 4, 5, 6, 7, 8]], written) == Proposal(expected, Source.HINT)


@pytest.mark.parametrize("written", [[50], [50, 1], [1, 50], [1, 2, 50], [1, 2, 50, 4], list(range(1, 9))])
def test_without_agreement_of_two_tokens_nothing_is_proposed(written: list[int]) -> None:
    assert propose([[1, 2, 3, 4, 5, 6, 7, 8]], written) == Proposal([], Source.NOTHING)


def test_the_nearest_of_equal_places_is_taken() -> None:
    hint = [1, 2, 10, 3, 4, 1, 2, 20, 3, 4, 1, 2, 30]
    assert propose([hint], [1, 2, 10, 3, 4, 9, 2, 20, 3, 1, 2]).tokens == [30]
    assert propose([hint], [8, 9, 9, 9, 1, 2]).tokens == [20, 3, 4]
    assert propose([hint], [9, 1, 2]).tokens == [10, 3, 4]


def test_a_longer_agreement_beats_a_nearer_one() -> None:
    assert propose([[7, 1, 2, 50, 51, 9, 1, 2, 60]], [8, 9, 1, 2]).tokens == [60]


def test_a_hint_that_agreed_all_along_beats_one_taken_up_again_and_the_first_of_equals_wins() -> None:
    first, second = [9, 9, 1, 2, 3, 70], [1, 2, 3, 80]
    assert propose([first, second], [1, 2, 3]).tokens == [80]
    assert propose([[1, 2, 40], [1, 2, 41]], [1, 2]).tokens == [40]


def test_what_stood_before_the_call_helps_to_find_the_place() -> None:
    """A path that was left began before this call, and its words before the call's place are the prompt's."""
    assert propose([[7, 8, 901, 902, 30, 31, 32]], [30]) == Proposal([31, 32], Source.HINT)
    assert propose([[7, 8, 900, 902, 30, 31, 32]], [31]) == Proposal([], Source.NOTHING)


def first_of_nearby(num_before: int, hint: list[int]) -> Proposal:
    """What is proposed for the first pass behind the prompt."""
    sequence = HintedSequence(RULES)
    sequence.add([], [(num_before, hint)])
    return sequence.propose(np.array(PROMPT, dtype=np.int32), 0, 99)


def test_what_was_written_nearby_is_taken_up_where_the_prompt_ends_or_not_at_all() -> None:
    for num_before in (4, 2, -3):
        assert first_of_nearby(num_before, [7, 8, 901, 902, 30, 31, 32]) == Proposal([30, 31, 32], Source.HINT)
    for hint in ([7, 8, 900, 902, 30, 31, 32], [30, 31, 32, 33]):
        assert first_of_nearby(2, hint) == Proposal([], Source.NOTHING)
    assert first_of_nearby(5, [901, 902, 40, 901, 902, 50]).tokens == [50], "the nearest of equal places"
    assert first_of_nearby(1, [901, 902, 40, 901, 902, 50]).tokens == [40, 901, 902]


def test_a_hint_that_begins_here_goes_before_one_that_is_nearby_and_neither_takes_the_other_s_place() -> None:
    sequence = HintedSequence(RULES)
    sequence.add([[1, 2]], [(2, [901, 902, 30]), (1, [1, 2, 3])])
    context = np.array(PROMPT, dtype=np.int32)
    assert sequence.propose(context, 0, 99).tokens == [1, 2]
    sequence.forget()
    sequence.add([], [(2, [901, 902, 30])])
    sequence.add([[901, 902, 30, 31]])
    assert sequence.propose(context, 0, 99).tokens == [901, 902, 30]


def test_a_hint_that_comes_late_is_taken_up_where_it_begins_and_not_at_a_repetition() -> None:
    """It begins with the last words that were there when it was sent, and goes on with the draft's."""
    written = [*range(100, 150), 7, 8, 5, 10]
    hint = [7, 8, 5, 10, 30, 31, 32, 7, 8, 5, 10, 40, 41]
    assert propose([hint], written).tokens == [30, 31, 32]
    assert propose([hint], [*written, 30]).tokens == [31, 32, 7]


def test_following_token_by_token_finds_what_a_look_at_the_whole_finds_while_the_hint_fits() -> None:
    hint = list(range(1, 40))
    sequence = HintedSequence(RULES)
    sequence.add([hint])
    for size in range(len(hint)):
        found = sequence.propose(np.array(PROMPT + hint[:size]), size, 99)
        assert found.tokens == hint[size : size + 3]


def test_a_hint_pushed_later_comes_first_and_counts_from_the_beginning() -> None:
    sequence = HintedSequence(RULES)
    sequence.add([[1, 2, 3, 4]])
    written = [1, 2]
    sequence.propose(np.array(written), 2, 99)
    sequence.add([[1, 2, 30, 40]])
    assert sequence.propose(np.array(written), 2, 99).tokens == [30, 40]
    assert sequence.propose(np.array([1, 2, 3]), 3, 99).tokens == [4]


def test_a_hint_that_was_wrong_is_trusted_as_far_as_it_has_agreed_since() -> None:
    hint = list(range(1, 40))
    rules = MatchRules(num_hint_tokens=16)
    sizes = [
        len(propose([hint], [1, 99, *range(3, 3 + met)], rules).tokens)  # the second token is another one
        for met in (2, 3, 6, 9, 12)
    ]
    assert sizes == [4, 6, 12, 16, 16]
    assert len(propose([hint], [1, 2, 3], rules).tokens) == 16


def test_a_newer_hint_that_fits_as_well_comes_first() -> None:
    sequence = HintedSequence(MatchRules(num_hint_tokens=8))
    sequence.add([[5, 6, 7, 8, 9, 10]])
    written = [4, 5, 6, 7, 8, 9]
    context = np.array(PROMPT + written, dtype=np.int32)
    assert sequence.propose(context, len(written), 99).tokens == [10]
    sequence.add([[6, 7, 8, 9, 10, 11, 12]])
    assert sequence.propose(context, len(written), 99).tokens == [10, 11, 12]


def test_hints_are_few_and_never_twice() -> None:
    sequence = HintedSequence(RULES)
    for value in range(100):
        sequence.add([[value], [value]])
    assert len(sequence._tracks) == MAX_HINTS
    assert sequence._tracks[0].hint == [99]
    sequence.add([[]])
    assert sequence._tracks[0].hint == [99]
    sequence.forget()
    assert sequence._tracks == []


@pytest.mark.parametrize(("written", "expected"), [([9], [50]), ([100, 101], [102, 103, 104])])
@pytest.mark.parametrize("sizes", [range(1, 25), range(24, 0, -1)])
def test_a_hint_that_goes_on_takes_the_place_of_its_beginning_in_whichever_order_they_come(
    written: list[int], expected: list[int], sizes: range
) -> None:
    sequence = HintedSequence(RULES)
    sequence.add([[9, 50]])
    for size in sizes:
        sequence.add([list(range(100, 100 + size))])
    found = sequence.propose(np.array([1, *written]), len(written), 99)
    assert found.tokens == expected, "others are not pushed out, and the longest one is there"


def test_where_no_hint_fits_the_context_is_looked_up() -> None:
    written = [60, 61, 62, 63, 7, 60, 61]
    assert propose([[1, 2, 3]], written) == Proposal([62, 63], Source.NGRAM)
    assert propose([], [1, 2, 3]) == Proposal([], Source.NOTHING)


def test_a_sequence_may_be_kept_from_hints_or_from_both() -> None:
    context = np.array([60, 61, 62, 63, 7, 60, 61])
    ngram = HintedSequence(RULES, uses_hints=False)
    ngram.add([[60, 61, 99]])
    assert ngram.propose(context, 2, 99) == Proposal([62, 63], Source.NGRAM)
    none = HintedSequence(RULES, uses_hints=False, uses_ngrams=False)
    assert none.propose(context, 2, 99) == Proposal([], Source.NOTHING)


def test_no_more_is_proposed_than_there_is_room() -> None:
    assert propose([[1, 2, 3, 4, 5]], [1], room=2).tokens == [2, 3]
    assert propose([], [60, 61, 62, 60, 61], room=1).tokens == [62]
    assert propose([], [60, 61, 62, 60, 61], room=0).tokens == []


def slow_look_up(context: list[int], rules: MatchRules, num_tokens: int) -> list[int]:
    for length in range(rules.ngram_max, rules.ngram_min - 1, -1):
        for end in range(len(context) - 1, length - 1, -1):
            if length <= len(context) and context[end - length : end] == context[-length:]:
                return context[end : end + num_tokens]
    return []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 3), st.integers(0, 2), st.integers(1, 5))
def test_the_look_up_is_the_obvious_one(context: list[int], least: int, more: int, num_tokens: int) -> None:
    rules = MatchRules(ngram_min=least, ngram_max=least + more)
    expected = slow_look_up(context, rules, num_tokens) if context else []
    assert look_up(np.array(context, dtype=np.int32), rules, num_tokens) == expected


@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=3), st.lists(st.integers(0, 3), max_size=30))
def test_whatever_is_written_a_proposal_is_a_part_of_a_hint_or_of_the_context(
    hints: list[list[int]], written: list[int]
) -> None:
    sequence = HintedSequence(RULES)
    sequence.add(hints)
    for size in range(len(written) + 1):
        context = PROMPT + written[:size]
        found = sequence.propose(np.array(context), size, 5)
        sources = hints if found.source is Source.HINT else [context]
        assert len(found.tokens) <= 5
        assert any(
            found.tokens == source[at : at + len(found.tokens)]
            for source in [*sources, []]
            for at in range(len(source) + 1)
        )


def test_nothing_is_proposed_behind_a_token_that_ends_the_sequence() -> None:
    assert cut_after([1, 2, 3, 4], frozenset({3, 4})) == [1, 2, 3]
    assert cut_after([1, 2], frozenset({3})) == [1, 2]


def followed_one_by_one(hint: list[int], num_seen_first: int, written: list[int]) -> tuple[int, int, bool]:
    """Where a sequence stands in a hint, each of its tokens looked at. The hint begins where the sequence was, if that
    was longer than it at the first look."""
    offset, agreement, diverged = 0, 0, num_seen_first > len(hint)
    for token in written[num_seen_first:] if diverged else written:
        fits = offset < len(hint) and hint[offset] == token
        agreement, diverged, offset = agreement + 1 if fits else 0, diverged or not fits, offset + 1
    return offset, agreement, diverged


FEW = st.integers(0, 2)


@given(st.lists(FEW, min_size=1, max_size=6), st.lists(st.lists(FEW, max_size=5), max_size=4))
def test_a_text_is_followed_as_far_as_the_hint_reaches(hint: list[int], parts: list[list[int]]) -> None:
    track, written, num_seen_first = HintTrack(hint), list[int](), 0
    unreachable = MatchRules(realign_min=99, realign_max=99)  # it stays where it is
    for part in parts:
        num_seen_first = num_seen_first if written else len(part)
        written += part
        track.follow(np.array(written, dtype=np.int32), [9], unreachable)
        assert (track.offset, track.agreement, track.diverged) == followed_one_by_one(hint, num_seen_first, written)


class Counted(list[int]):
    """Tokens, and how many of them were asked for."""

    num_read = 0

    def __getitem__(self, at: object) -> object:  # type: ignore[override]
        found = super().__getitem__(at)  # type: ignore[index]
        self.num_read += len(found) if isinstance(found, list) else 1
        return found


def test_a_new_hint_costs_its_own_length_whatever_was_written_before() -> None:
    written = Counted(range(100, 10_100))
    track = HintTrack([10_098, 10_099, 1, 2])
    track.follow(written, written[-4:], RULES)  # type: ignore[arg-type]
    assert written.num_read <= 4 + 4
    assert (track.fits(RULES), track.hint[track.offset :]) == (True, [1, 2])
