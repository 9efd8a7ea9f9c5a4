"""Pairs written and read again, from their own file, a benchmark's requests, and a trace."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import RequestError
from actors.messages import Ending, Prefix
from deployments.calibration.pairs import StepPair, pairs_of_trace, read_pairs

PAIR = StepPair("Q?", "So far.", "a\n\n", "b\n\n", Ending.CAP, Ending.END, True, "judge", (1, 2), (3, 4), "v", "w")


def write(tmp_path, *lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_what_was_written_is_read_back_equal(tmp_path):
    assert read_pairs(write(tmp_path, PAIR.line())) == [PAIR]


TEXT = st.text(max_size=20)


def texts(pair):
    return (pair.question, pair.context, pair.draft, pair.target)


@given(st.lists(st.builds(StepPair, TEXT, TEXT, TEXT, TEXT, same=st.sampled_from([True, False, None])), min_size=1))
def test_any_pairs_are_read_back_but_equal_ones(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(pair.line() + "\n" for pair in pairs), encoding="utf-8")
    differing = [pair for pair in pairs if pair.draft != pair.target]
    if differing:
        found = read_pairs(path)
        assert set(found) <= set(differing)
        assert [texts(pair) for pair in found] == list(dict.fromkeys(map(texts, differing)))
    else:
        with pytest.raises(RequestError, match="holds no pair of differing steps"):
            read_pairs(path)


def test_texts_alone_are_enough_and_the_limit_counts(tmp_path):
    path = write(tmp_path, {"draft": "a", "target": "b", "same": False}, "", {"draft": "c", "target": "d"})
    assert read_pairs(path) == [StepPair("", "", "a", "b", same=False), StepPair("", "", "c", "d")]
    assert len(read_pairs(path, 1)) == 1


def test_a_pair_that_stands_there_often_is_one_and_has_the_label_that_was_given(tmp_path):
    lines = [{"draft": draft, "target": "t", "same": same} for draft, same in (("a", True), ("b", None), ("b", False))]
    once = read_pairs(write(tmp_path, *lines))
    assert [(pair.draft, pair.same) for pair in once] == [("a", True), ("b", False)]
    assert read_pairs(write(tmp_path, *lines * 4)) == once


def test_of_a_benchmarks_requests_the_answers_that_count_are_read(tmp_path):
    other = {"commits": TRACE["commits"], "spans": [one | {"text": f"Other {one['text']}"} for one in TRACE["spans"]]}
    key = {"concurrency": 1, "rate": None, "index": 0, "question": "Q?"}
    lines = [
        key | {"mode": "lookahead", "trace": other},
        key | {"mode": "lookahead", "trace": TRACE},
        key | {"mode": "lookahead:exact", "trace": TRACE},
        key | {"mode": "target", "trace": {"error": "gone"}},
    ]
    assert read_pairs(write(tmp_path, *lines)) == list(pairs_of_trace(TRACE, "Q?"))


def test_the_request_that_a_session_would_make():
    request = PAIR.request("balanced", "s")
    assert (request.session_id, request.verifier, request.question, request.context) == (
        "s",
        "balanced",
        "Q?",
        "So far.",
    )
    assert (request.draft.text, request.draft.token_ids, request.draft.ending) == ("a\n\n", (1, 2), Ending.CAP)
    assert request.target is not None
    assert (request.target.text, request.target.ending) == ("b\n\n", Ending.END)
    assert (request.prefix, request.draft.vocabulary, request.vocabulary) == (Prefix((3, 4)), "v", "w")
    assert StepPair("", "", "a", "b").request("v", "s").prefix is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not an object"),
        ('{"a": 1}', "line 2: neither 'draft' and 'target' nor a trace"),
        ('{"draft": 1, "target": "b"}', "'draft' is not text"),
        ('{"draft": "a", "target": "b", "same": "yes"}', "'same' is neither true nor false"),
        ('{"draft": "a", "target": "b", "sam": true}', "unknown key 'sam'"),
        ('{"draft": "a", "target": "b", "draft_ending": "x"}', "'x' is not a valid Ending"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, words):
    with pytest.raises(RequestError, match=words):
        read_pairs(write(tmp_path, PAIR.line(), line))


def test_no_file_is_one_sentence(tmp_path):
    with pytest.raises(RequestError, match=r"none\.jsonl cannot be read"):
        read_pairs(tmp_path / "none.jsonl")


def span(kind, position, text=None, step=None):
    return {"kind": kind, "position": position, "text": text, "step": step}


TRACE = {
    "commits": [{"step": n, "text": f"Step {n}.\n\n"} for n in range(3)],
    "spans": [
        span("draft", 0, "Step 0.\n\n", 0),
        span("target", 0, "Step 0.\n\n", 0),  # equal: no verdict
        span("draft", 1, "Draft 1.\n\n", 1),
        span("target", 1, "Step 1.\n\n", 1),
        span("verdict", 1, None, 1),
        span("draft", 2, "Draft 2.\n\n"),
        span("target", 2, "Target 2.\n\n"),
        span("verdict", 2),  # discarded: nobody knows after which words
        span("draft", 3, "Draft 3.\n\n", 2),
        span("verdict", 3, None, 2),  # the target's span has no text
        span("target", 3, None, 2),
    ],
}


def test_a_trace_has_the_pairs_that_were_judged_and_kept():
    assert list(pairs_of_trace(TRACE, "Q?")) == [StepPair("Q?", "Step 0.\n\n", "Draft 1.\n\n", "Step 1.\n\n")]


def test_a_benchmarks_requests_and_a_saved_trace_are_read(tmp_path):
    lines = [
        {"request_id": "a", "question": "Q?", "trace": TRACE},
        {"request_id": "b", "question": "Q?", "trace": None},
        {"request_id": "c", "question": "Q?", "trace": {"error": "gone"}},
    ]
    assert read_pairs(write(tmp_path, *lines)) == list(pairs_of_trace(TRACE, "Q?"))
    assert read_pairs(write(tmp_path, json.dumps(TRACE, indent=2))) == list(pairs_of_trace(TRACE, ""))
