"""What is read of a recorded request: which verdict is whose, and how long it took."""

from __future__ import annotations

from typing import Any

import pytest

from actors.messages import TokenIds
from deployments.simulation.cutting import cut_at_words
from deployments.simulation.replay_text import ReplayText, Vocabulary, replay_text
from deployments.telemetry.timeline import read_trace


def span(kind: str, position: int, step: int | None, outcome: str, text: str = "", **other: Any) -> dict[str, Any]:
    written = {"text": text, "num_tokens": len(text.split())} if text else {}
    times = {"start_s": float(position), "end_s": position + 0.5}
    return {"kind": kind, "position": position, "step": step, "outcome": outcome, **times, **written, **other}


def commit(step: int, text: str, origin: str) -> dict[str, Any]:
    return {"step": step, "at_s": step + 1.0, "origin": origin, "num_tokens": len(text.split()), "text": text}


def read(spans: list[dict[str, Any]], commits: list[dict[str, Any]]) -> ReplayText:
    return replay_text(read_trace({"spans": spans, "commits": commits}), Vocabulary())


def ids(text: ReplayText, *steps: str) -> TokenIds:
    return tuple(text.vocabulary.id(piece) for step in steps for piece in cut_at_words(step, len(step.split())))


def test_verdicts_that_were_cancelled_say_nothing_of_how_long_one_takes() -> None:
    """A score that is taken back when an earlier step is rejected was cut short."""
    spans = [
        span("draft", 0, 0, "rejected", "one two\n"),
        span("verdict", 0, 0, "rejected", end_s=0.8),
        span("draft", 1, None, "cancelled", "three four\n"),
        span("verdict", 1, None, "cancelled", end_s=1.1),
        span("verdict", 2, None, "cancelled", end_s=2.1),
    ]
    assert read(spans, [commit(0, "un deux\n", "recovered")]).verdict_s == [pytest.approx(0.8)]


def test_a_verdict_is_that_of_its_place_and_takes_as_long_as_it_did() -> None:
    """Steps of the same words are judged more than once, and not always alike."""
    formula = "so x is y\n"
    spans, commits = list[dict[str, Any]](), list[dict[str, Any]]()
    for step, outcome in enumerate(("accepted", "rejected", "accepted")):
        spans.append(span("draft", step, step, outcome, formula))
        spans.append(span("verdict", step, step, outcome, end_s=step + 0.1 * (step + 1)))
        commits.append(commit(step, formula if outcome == "accepted" else "then x is z\n", outcome))
    commits[1]["origin"] = "recovered"
    text = read(spans, commits)
    text.draft_after(())
    text.target_after(ids(text, formula))
    text.draft_after(ids(text, formula, "then x is z\n"))
    found = [
        text.judged(before, ids(text, formula))
        for before in ((), ids(text, formula), ids(text, formula, "then x is z\n"))
    ]
    assert [one.accepted for one in found] == [True, False, True]
    assert [one.seconds for one in found] == pytest.approx([0.1, 0.2, 0.3])
    elsewhere = text.judged(ids(text, "elsewhere\n"), ids(text, formula))
    assert elsewhere.seconds == pytest.approx(0.2), "the median"


def test_the_second_verdict_of_a_step_is_about_it_and_those_behind_it() -> None:
    first, second = "open\n", "x is one\n"
    spans = [
        span("target", 0, 0, "accepted", "open x is one\n"),
        span("draft", 0, 0, "accepted", first),
        span("draft", 1, 1, "accepted", second),
        span("verdict", 0, 0, "rejected"),
        span("verdict", 0, 0, "accepted"),
    ]
    text = read(spans, [commit(0, first, "accepted"), commit(1, second, "accepted")])
    assert not text.judged((), ids(text, first)).accepted
    assert text.judged((), ids(text, first, second)).accepted
