"""What is read of a recorded request: which verdict is whose, how long it took, and what was written on a path that was
left."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from actors.draft import Draft
from actors.engines.hint_matching import MatchRules
from actors.messages import Prompt, StepRule, TokenIds
from actors.target import TargetModel
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.pipeline import Patience, Pipeline, Roles
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.cost_file import PassTimes, RoleCosts
from deployments.simulation.cutting import cut_at_words
from deployments.simulation.hinted_writing import END
from deployments.simulation.replay_engine import VOCABULARY, PassCost, ReplayEngine
from deployments.simulation.replay_text import ReplayText, Vocabulary, replay_text
from deployments.simulation.virtual_loop import run_virtually
from deployments.telemetry.timeline import Trace, read_trace
from deployments.telemetry.trace import TraceRecorder


def span(kind: str, position: int, step: int | None, outcome: str, text: str = "", **other: Any) -> dict[str, Any]:
    written = {"text": text, "num_tokens": len(text.split())} if text else {}
    times = {"start_s": float(position), "end_s": position + 0.5}
    return {"kind": kind, "position": position, "step": step, "outcome": outcome, **times, **written, **other}


def commit(step: int, text: str, origin: str) -> dict[str, Any]:
    return {"step": step, "at_s": step + 1.0, "origin": origin, "num_tokens": len(text.split()), "text": text}


def read(spans: list[dict[str, Any]], commits: list[dict[str, Any]]) -> ReplayText:
    """As an engine counts: the end of the answer is a token of the last commit."""
    ended = [*commits[:-1], commits[-1] | {"num_tokens": commits[-1]["num_tokens"] + 1}]
    return replay_text(read_trace({"spans": spans, "commits": ended}), Vocabulary())


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


def test_behind_a_rejected_step_of_its_own_the_draft_goes_on_as_it_did() -> None:
    spans = [
        span("draft", 0, 0, "rejected", "To begin we look\n"),
        span("draft", 1, None, "cancelled", "1. at the ducks\n"),
        span("target", 1, None, "cancelled", "1. at ducks\n"),
        span("verdict", 1, None, "rejected", end_s=1.2),
        span("draft", 2, None, "cancelled", "and\n"),
        span("draft", 3, None, "cancelled"),
        span("verdict", 0, 0, "rejected"),
        span("draft", 4, 1, "accepted", "it lays eggs\n"),
    ]
    text = read(spans, [commit(0, "Step 1\n", "recovered"), commit(1, "it lays eggs\n", "accepted")])
    rejected = ids(text, "To begin we look\n")
    beyond = ids(text, "1. at the ducks\n", "and\n")
    text.target_after(())
    assert text.draft_after(())[: len(rejected + beyond)] == rejected + beyond
    assert text.draft_after(rejected)[: len(beyond)] == beyond
    assert text.target_after(rejected)[:3] == ids(text, "1. at ducks\n")
    assert text.target_after(rejected + ids(text, "1. at the ducks\n"))[:1] == ids(text, "and\n")
    judged = text.judged(rejected, ids(text, "1. at the ducks\n"))
    assert (judged.accepted, judged.seconds) == (False, pytest.approx(0.2))
    behind_target = text.draft_after(ids(text, "Step 1\n"))
    assert behind_target[:3] == ids(text, "it lays eggs\n")


@pytest.mark.parametrize("is_cut_short", [False, True])
@pytest.mark.parametrize("num_counted", [6, 9])
def test_the_token_that_ends_an_answer_is_one_of_those_that_were_counted(is_cut_short: bool, num_counted: int) -> None:
    """It has no text; an answer that was cut short has none."""
    last = commit(0, "so x is 5", "target") | {"num_tokens": num_counted}
    trace = read_trace({"spans": [], "commits": [last]})
    text = replay_text(trace, Vocabulary(), is_cut_short=is_cut_short)
    assert len(text.truth) == num_counted - (not is_cut_short)
    assert text.target_after(()) == (*text.truth, END)
    assert "".join(text.vocabulary.text(token) for token in text.truth) == "so x is 5"


def test_an_accepted_end_is_judged_as_it_was() -> None:
    spans = [span("draft", 0, 0, "accepted", "so it is\n"), span("verdict", 0, 0, "accepted", end_s=0.3)]
    spans += [span("draft", 1, 1, "accepted", "five"), span("verdict", 1, 1, "accepted", end_s=1.2)]
    text = read(spans, [commit(0, "so it is\n", "accepted"), commit(1, "five", "accepted")])
    draft = text.draft_after(ids(text, "so it is\n"))
    assert draft[-1] == END
    assert text.judged(ids(text, "so it is\n"), draft).seconds == pytest.approx(0.2)


@pytest.mark.parametrize("is_equal", [True, False])
def test_a_step_that_the_draft_did_not_write_is_drawn_by_how_often_it_agreed(is_equal: bool) -> None:
    first, alone = "so x is y\n", "and y is two\n"
    draft = first if is_equal else "No way at all\n"
    spans = [span("draft", 0, 0, "rejected", draft), span("target", 0, 0, "recovered", first)]
    text = read(spans, [commit(0, first, "recovered"), commit(1, alone, "target"), commit(2, "Done", "target")])
    assert text.agreement == is_equal
    written = ids(text, alone)
    drawn = text.draft_after(ids(text, first))[: len(written)]
    assert (drawn == written) is is_equal
    assert drawn[-1] == written[-1], "the step ends there"
    assert len(set(drawn)) == len(drawn)


def test_what_was_accepted_without_a_version_of_the_target_s_was_not_compared() -> None:
    spans = [span("draft", 0, 0, "accepted", "so it is\n"), span("verdict", 0, 0, "accepted")]
    assert read(spans, [commit(0, "so it is\n", "accepted"), commit(1, "Done", "target")]).agreement == 0.0


async def guided(text: ReplayText, max_lookahead: int, draft_s: float) -> Trace:
    """What the server's own recorder says of a guided request whose engines write `text`."""
    prompt, rule = (10**5,), StepRule("line", 10**9)

    def engine(pass_s: float, *, is_draft: bool) -> ReplayEngine:
        cost = PassCost(RoleCosts(model="m", passes=[PassTimes(proposed=0, pass_s=[(1, pass_s)])]))
        return ReplayEngine(text, prompt, cost, is_draft=is_draft, rules=MatchRules(num_hint_tokens=8))

    target, draft = engine(0.1, is_draft=False), engine(draft_s, is_draft=True)
    settings = SessionSettings("s", prompt, prompt, VOCABULARY, 10**6, rule=rule, max_lookahead=max_lookahead)
    recorder = TraceRecorder("r", "lookahead", 0.0, asyncio.get_running_loop().time, texts=True)
    roles = Roles(TargetModel(target), Draft(draft))
    async with aclosing(
        Pipeline(GuidedSession(settings), roles, Prompt(text=""), Patience(), (recorder,)).run()
    ) as outputs:
        async for _ in outputs:
            pass
    await asyncio.gather(target.shutdown(), draft.shutdown())
    return read_trace(recorder.as_dict())


@pytest.mark.parametrize(
    ("max_lookahead", "draft_s"),
    [
        pytest.param(4, 0.06, id="the target writes a word of its own before the draft's first chunk is there"),
        pytest.param(1, 0.06, id="and look-aheads are short"),
        pytest.param(1, 0.005, id="the target leaves the words of a look-ahead that has ended"),
    ],
)
def test_a_guided_draft_is_read_where_it_wrote(max_lookahead: int, draft_s: float) -> None:
    """Where two places in a row differ the draft begins anew behind a word that the target wrote meanwhile."""
    letters, wrong = "abcdefgh", {9, 10, 30, 31, 45, 47}
    text = ReplayText(vocabulary := Vocabulary(), ())
    text.truth = tuple(vocabulary.id(f" {one}{other}") for one in letters for other in letters)
    text.agrees = {at: at not in wrong for at in range(len(text.truth))}
    found = replay_text(run_virtually(guided(text, max_lookahead, draft_s)), Vocabulary())
    assert found.agrees == text.agrees
    assert set(found.strays) == wrong, "what was written behind words that were left was compared with nothing"
