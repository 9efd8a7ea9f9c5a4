"""Where steps end: every rule, however the characters are spread over tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.boundaries import BOUNDARIES, DeltaCutter, StepSplitter, boundary_text, ends_sentence, stop_ids
from actors.errors import ConfigError
from actors.messages import Delta, Ending, StepRule

BLANK_LINE = StepRule(boundary="blank_line", max_tokens=100)
THINKING = StepRule(boundary="blank_line", max_tokens=100, close="</think>")


def split(tokens: list[str], rule: StepRule = BLANK_LINE, **options: object) -> list[tuple[str, Ending | None]]:
    """The steps of `tokens` and their endings; the last is None if the text goes on."""
    splitter = StepSplitter(rule, **options)  # type: ignore[arg-type]
    steps: list[tuple[str, Ending | None]] = []
    text = ""
    for token in tokens:
        text += token
        if ending := splitter.feed(token):
            steps.append((text, ending))
            text = ""
    return [*steps, (text, None)] if text else steps


def test_a_blank_line_ends_a_step_and_belongs_to_it() -> None:
    assert split(["One", ".\n\n", "Two"]) == [("One.\n\n", Ending.BOUNDARY), ("Two", None)]


@pytest.mark.parametrize(
    "tokens",
    [["One", "\n", "\n"], ["One.\n", "\n"], ["One", ".", "\n\n"], ["One", ".\n", "\n  "], ["One\n\n"]],
)
def test_a_blank_line_may_be_spread_over_tokens(tokens: list[str]) -> None:
    assert split(tokens) == [("".join(tokens), Ending.BOUNDARY)]


def test_a_token_without_text_does_not_hide_a_boundary() -> None:
    assert split(["One", "\n", "", "\n"]) == [("One\n\n", Ending.BOUNDARY)]


def test_more_blank_lines_open_the_next_step_instead_of_making_empty_ones() -> None:
    assert split(["One\n\n", "\n", "\n\n", "Two", "\n\n"]) == [
        ("One\n\n", Ending.BOUNDARY),
        ("\n\n\nTwo\n\n", Ending.BOUNDARY),
    ]


def test_blank_lines_at_the_start_of_the_text_belong_to_the_first_step() -> None:
    assert split(["\n\n", "\n\nOne", " is one", "\n\n"]) == [("\n\n\n\nOne is one\n\n", Ending.BOUNDARY)]


def test_the_line_rule_ends_at_every_visible_line() -> None:
    rule = StepRule(boundary="line", max_tokens=100)
    assert split(["One", "\n", "\n", "  ", "Two", ".\n\n"], rule) == [
        ("One\n", Ending.BOUNDARY),
        ("\n  Two.\n\n", Ending.BOUNDARY),
    ]


def test_the_cap_cuts_a_step_and_the_next_one_goes_on() -> None:
    rule = StepRule(max_tokens=3)
    assert split(["a", "b", "c", "d", "e\n\n"], rule) == [("abc", Ending.CAP), ("de\n\n", Ending.BOUNDARY)]


def test_the_cap_counts_white_space_so_that_a_silent_model_ends() -> None:
    assert split(["\n\n"] * 3, StepRule(max_tokens=3)) == [("\n" * 6, Ending.CAP)]


def test_a_boundary_on_the_last_token_of_the_cap_is_a_boundary() -> None:
    assert split(["a", "b", "\n\n"], StepRule(max_tokens=3)) == [("ab\n\n", Ending.BOUNDARY)]


def test_without_a_cap_steps_are_marked_but_never_cut() -> None:
    assert split(["a", "b", "c", "\n\n"], StepRule(max_tokens=2), capped=False) == [("abc\n\n", Ending.BOUNDARY)]


def test_a_line_break_before_a_cut_does_not_count_for_the_next_step() -> None:
    assert split(["a", "\n", "\n", "b"], StepRule(max_tokens=2)) == [("a\n", Ending.CAP), ("\nb", Ending.CAP)]


@pytest.mark.parametrize(
    "tokens",
    [["So 4.", "</think>"], ["So 4.", "</", "think", ">"], ["So 4.</think>"], ["So 4.", "</", "think", ">\n\n"]],
)
def test_the_closing_text_ends_the_reasoning(tokens: list[str]) -> None:
    assert split(tokens, THINKING) == [("".join(tokens), Ending.CLOSE)]


def test_a_blank_line_after_the_closing_text_opens_the_answer() -> None:
    assert split(["Hm.", "</think>", "\n\n", "Four", ".\n\n"], THINKING) == [
        ("Hm.</think>", Ending.CLOSE),
        ("\n\nFour.\n\n", Ending.BOUNDARY),
    ]


def test_reasoning_may_close_without_a_visible_word() -> None:
    assert split(["\n\n", "</think>"], THINKING) == [("\n\n</think>", Ending.CLOSE)]


def test_a_closing_text_cut_by_the_cap_is_found_in_the_next_step() -> None:
    rule = StepRule(max_tokens=2, close="</think>")
    assert split(["a", "</th", "ink>"], rule) == [("a</th", Ending.CAP), ("ink>", Ending.CLOSE)]


def test_a_closing_text_cut_by_the_last_call_is_found() -> None:
    assert split(["ink>"], THINKING, before="So 4.</th") == [("ink>", Ending.CLOSE)]


def test_a_closed_prefix_does_not_close_again() -> None:
    assert split(["Four"], THINKING, before="So 4.</think>") == [("Four", None)]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("tokens", [["a", "QED"], ["a", "Q", "", "ED"], ["aQE", "D and"], ["\n", "a Q", "E", "D"]])
def test_a_stop_string_ends_a_step_with_the_token_that_completes_it(boundary: str, tokens: list[str]) -> None:
    rule = StepRule(boundary, 100, "</think>", ("never", "QED"))
    for capped in (True, False):
        assert split([*tokens, "b"], rule, capped=capped) == [("".join(tokens), Ending.BOUNDARY), ("b", None)]


def test_a_stop_string_is_found_over_steps_and_calls_and_once() -> None:
    rule = StepRule("line", 100, stop=("Q:", ".\n\nThe end"))
    assert split(["Yes", ".\n", "\nThe", " end", " of"], rule) == [
        ("Yes.\n", Ending.BOUNDARY),
        ("\nThe end", Ending.BOUNDARY),
        (" of", None),
    ]
    assert split([" end", " of"], rule, before="Q: It is so.\n\nThe") == [(" end", Ending.BOUNDARY), (" of", None)]
    assert split(["a", "b"], rule, before="Q:") == [("ab", None)]


def test_stop_ids_are_those_whose_own_text_can_end_a_step() -> None:
    texts = {0: "\n", 1: "\n\n", 2: ".\n\n", 3: "</think>", 4: "a", 5: "</"}
    assert stop_ids(texts, BLANK_LINE) == {1, 2}
    assert stop_ids(texts, THINKING) == {1, 2, 3}
    assert stop_ids(texts, StepRule(boundary="line")) == {0, 1, 2}


def test_an_unknown_rule_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="blank_line, line, sentence, tokens"):
        boundary_text("paragraph")


pieces = st.lists(st.sampled_from(["a", " ", "\n", "\n\n", ".\n\n", "\n\n\n", "</", "think", ">", "</think>", ""]))


@given(pieces, st.sampled_from(["blank_line", "line", "tokens"]), st.integers(1, 6), st.booleans())
def test_steps_are_a_partition_and_each_ends_for_its_reason(
    tokens: list[str], boundary: str, cap: int, capped: bool
) -> None:
    rule = StepRule(boundary, cap, "</think>")
    splitter = StepSplitter(rule, capped=capped)
    step: list[str] = []
    so_far = ""
    for token in tokens:
        step.append(token)
        so_far += token
        ending = splitter.feed(token)
        visible = "".join(step).lstrip()
        mark = BOUNDARIES[boundary]
        has_boundary = mark in visible if mark is not None else len(step) == cap
        # "</think>" ends here if one is complete in this very token, wherever it began.
        closes = so_far.count("</think>") > so_far[: len(so_far) - len(token)].count("</think>")
        if closes:
            assert ending is Ending.CLOSE
        elif has_boundary:
            assert ending is Ending.BOUNDARY
        elif capped and len(step) == cap:
            assert ending is Ending.CAP
        else:
            assert ending is None
        if ending is not None:
            step = []


SENTENCE = StepRule(boundary="sentence", max_tokens=100)


@pytest.mark.parametrize(
    "text",
    [
        "So there are 12.",
        "It costs $3.50.",
        "Is it 4?",
        "Yes!",
        'He says "no."',
        "That is all (as before).",
        "Then **x = 5.**",
        "We call it x.",
        "Now wait...",
        "Take steps 1, 2, etc.",
    ],
)
def test_a_sentence_ends_here(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "So there are 12",
        "It costs 3.5",
        "1.",
        "12.",
        "  3.",
        "**2.",
        "(4.",
        "a.",
        "Step 3.",
        "We ask Dr.",
        "Some of them, e.g.",
        "It is (i.e.",
        "2, 4, 6, ...",
        "So 5!",
        "Then (",
    ],
)
def test_no_sentence_ends_here(text: str) -> None:
    assert not ends_sentence(text)


@pytest.mark.timeout(10)  # it takes a few milliseconds
@pytest.mark.parametrize(
    "kind", [".", ".)", "!", "a", "a.", " ", "\n", "1", "\\", "{", "$", "*", "a ", "step 1."], ids=ascii
)
def test_no_text_takes_long(kind):
    assert not ends_sentence(kind * (20_000 // len(kind)) + "x")


@pytest.mark.parametrize(
    ("tokens", "steps"),
    [
        (["It is", " so", ".", " Then", " it", " is", "."], ["It is so.", " Then it is."]),
        (["It is", " 4", ".", " Then", " 5", "."], ["It is 4. Then", " 5."]),
        (["It is", " 4", ".", "5", " m", "."], ["It is 4.5 m."]),
        (["So 4.", " ", " ", "Then", " 5.\n", "6"], ["So 4. ", " Then 5.\n", "6"]),
        (["1", ".", " Add", " 2", ".", "\n", "2", ".", " Add"], ["1. Add 2.\n", "2. Add"]),
        (["He", " said", ' "', "no", ".", '"', " Then"], ['He said "no.', '" Then']),
        (["He", " said", ' "', "no", '."', " Then"], ['He said "no."', " Then"]),
        (["The", " U", ".", "S", ".", " e", ".", "g", ".", " it"], ["The U.S. e", ".g. it"]),
        (["Really", "?", "", " Yes", "!", "\n\n"], ["Really?", " Yes!", "\n\n"]),
        (["One. Two"], ["One. Two"]),
        (["One.", "Two. Three", " four"], ["One.", "Two. Three", " four"]),
        (["No end\n", "more"], ["No end\n", "more"]),
        (["\n", ".", " So", " it", "."], ["\n. So it."]),
        (["一共是3。", "然后", "呢\uff1f」", "好"], ["一共是3。", "然后呢\uff1f」", "好"]),
    ],
)
def test_steps_end_with_sentences_however_the_white_space_comes(tokens: list[str], steps: list[str]) -> None:
    found = split(tokens, SENTENCE)
    assert [text for text, _ in found] == steps
    assert {ending for _, ending in found[:-1]} <= {Ending.BOUNDARY}


def test_the_tokens_rule_counts_and_nothing_else() -> None:
    rule = StepRule(boundary="tokens", max_tokens=3, close="</think>")
    for capped in (True, False):
        assert split(["a", "\n\n", "b.", " c", "</think>", "d"], rule, capped=capped) == [
            ("a\n\nb.", Ending.BOUNDARY),
            (" c</think>", Ending.CLOSE),
            ("d", None),
        ]
    assert stop_ids({1: "\n\n", 2: "</think>"}, rule) == {2}


WORDS = st.lists(
    st.sampled_from(
        ["It", " is", " 4", ".", "5", "!", "?", '"', "\n", " ", " Then", ".\n\n", " e", ".g", ". So", "。", ""]
    )
)


@given(
    WORDS,
    st.sampled_from(list(BOUNDARIES)),
    st.integers(1, 6),
    st.lists(st.integers(1, 4), min_size=1),
    st.integers(1, 5),
)
def test_steps_asked_for_one_by_one_are_those_of_one_generation(
    words: list[str], boundary: str, cap: int, sizes: list[int], depth: int
) -> None:
    """However many tokens an engine tells at once, the steps are the same, nothing is lost between them, a step asked
    for alone is the first of those asked for together, and that it ends is known without the token behind it."""
    rule = StepRule(boundary, cap)

    def steps_of(tokens: list[int], max_steps: int, sizes: list[int]) -> list[tuple[int, ...]]:
        cutter = DeltaCutter(StepSplitter(rule), words.__getitem__, max_steps)
        steps: list[tuple[int, ...]] = [()]
        at = 0
        while at < len(tokens) and not cutter.finished:
            size = sizes[at % len(sizes)]
            final = Ending.END if at + size >= len(tokens) else None
            for delta in cutter.feed(tokens[at : at + size], final):
                steps[-1] += delta.token_ids
                if delta.ending is not None:
                    steps.append(())
            at += size
        assert cutter.finished or not tokens
        assert steps[-1] == ()
        return steps[:-1]

    tokens = list(range(len(words)))
    together = steps_of(tokens, depth, sizes)
    assert together == steps_of(tokens, depth, [1])
    written: list[int] = []
    for step in together:
        (alone,) = steps_of(tokens[len(written) :], 1, [1])
        assert alone == step
        written += step
        if len(written) < len(tokens):
            cutter = DeltaCutter(StepSplitter(rule), words.__getitem__, 1)
            cutter.feed(step)
            assert cutter.finished
    assert written == tokens[: len(written)]
    assert len(together) == depth or len(written) == len(tokens)


TEXTS = {1: "a", 2: "b", 3: "\n\n", 4: "</think>", 9: ""}


def cut(
    outputs: list[tuple[list[int], Ending | None]], max_steps: int | None, rule: StepRule = THINKING
) -> list[Delta]:
    """The deltas of all `outputs` of an engine; fails if outputs are asked for after the cutter has finished."""
    splitter = StepSplitter(rule, capped=max_steps is not None)
    cutter = DeltaCutter(splitter, TEXTS.__getitem__, max_steps)
    deltas = []
    for token_ids, final in outputs:
        assert not cutter.finished
        deltas += cutter.feed(token_ids, final)
    assert cutter.finished == (final is not None or max_steps is not None)
    return deltas


def test_a_delta_never_reaches_over_a_step() -> None:
    deltas = cut([([1, 3, 2, 1], None), ([3, 1], None)], max_steps=2)
    assert deltas == [
        Delta("a\n\n", (1, 3), Ending.BOUNDARY),
        Delta("ba", (2, 1)),
        Delta("\n\n", (3,), Ending.BOUNDARY),
    ]


def test_tokens_after_the_last_wanted_step_are_dropped() -> None:
    assert cut([([1, 3, 2, 2], None)], max_steps=1) == [Delta("a\n\n", (1, 3), Ending.BOUNDARY)]


def test_nothing_is_written_after_the_reasoning_closed() -> None:
    assert cut([([1, 4, 2, 2], None)], max_steps=5) == [Delta("a</think>", (1, 4), Ending.CLOSE)]


def test_a_stream_goes_on_after_the_reasoning_closed() -> None:
    deltas = cut([([1, 4, 3, 2], None), ([9], Ending.END)], max_steps=None)
    assert deltas == [Delta("a</think>", (1, 4), Ending.CLOSE), Delta("\n\nb", (3, 2)), Delta("", (9,), Ending.END)]


def test_the_end_of_the_text_wins_over_every_other_ending() -> None:
    assert cut([([1, 9], Ending.END)], 1, StepRule(max_tokens=2)) == [Delta("a", (1, 9), Ending.END)]


def test_the_last_delta_of_a_stream_says_that_it_was_cut() -> None:
    assert cut([([1, 3], Ending.CAP)], max_steps=None) == [Delta("a\n\n", (1, 3), Ending.CAP)]


def test_a_step_that_just_fits_keeps_its_own_ending() -> None:
    assert cut([([1, 3], Ending.CAP)], max_steps=3) == [Delta("a\n\n", (1, 3), Ending.BOUNDARY)]


def test_an_engine_that_ends_without_a_token_still_ends_the_step() -> None:
    assert cut([([1], None), ([], Ending.CAP)], max_steps=1) == [Delta("a", (1,)), Delta("", (), Ending.CAP)]
