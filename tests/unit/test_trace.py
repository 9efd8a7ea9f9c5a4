"""The step trace: what an engine proposed to itself in a stream, how streams end, and what it holds without texts."""

from __future__ import annotations

import json

import pytest

from actors.errors import RequestError, RoleUnavailable
from actors.messages import Delta, Ending, JudgeRequest, Prefix, Step, StepRequest, StepRule, Verdict
from deployments.coordinator.events import (
    Cancel,
    Command,
    Commit,
    DraftStep,
    Fail,
    Finish,
    Judge,
    Judged,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
    TargetStep,
)
from deployments.generation import Channel, Committed, Finished, Origin, SpeculationSummary
from deployments.telemetry.trace import TraceRecorder


@pytest.mark.parametrize(("last", "detail"), [((9, 6), {"num_proposed": 9, "num_accepted": 6}), ((0, 0), {})])
def test_a_stream_ends_with_what_was_proposed_in_it(last: tuple[int, int], detail: dict[str, int]) -> None:
    trace = TraceRecorder("r", "target", 0.0, lambda: 0.0, texts=True)
    trace.on_command(StartStream(1, StepRequest("c", "s", Prefix((1,)), StepRule(), 9)))
    trace.on_event(Streamed(1, Delta("One.", (1, 2))))
    trace.on_event(Streamed(1, Delta(" Two.", (3,), Ending.END, num_proposed=last[0], num_accepted=last[1])))
    trace.close()
    (span,) = trace.as_dict()["spans"]
    assert (span["num_tokens"], span["detail"]) == (3, detail)


@pytest.mark.parametrize(("is_whole", "outcome"), [(True, "target"), (False, "cancelled")])
def test_a_stream_that_the_client_left_is_cancelled(is_whole: bool, outcome: str) -> None:
    """Who leaves raises no error: the generator is closed."""
    trace = TraceRecorder("r", "target", 0.0, lambda: 0.0, texts=True)
    trace.on_command(StartStream(1, StepRequest("c", "s", Prefix((1,)), StepRule(), 9)))
    trace.on_event(Streamed(1, Delta("One.", (1, 2))))
    if is_whole:
        trace.on_command(Finish(Finished("stop", 1, 2, 0, SpeculationSummary("target"))))
    trace.close()
    told = trace.as_dict()
    assert [span["outcome"] for span in told["spans"]] == [outcome]
    assert (told["summary"] is not None, told.get("error")) == (is_whole, None)


FINISH = Finish(Finished("stop", 1, 2, 0, SpeculationSummary("target")))
WINDOW = StartTarget(2, 0, StepRequest("d", "s", Prefix((1,)), StepRule(), 9))


@pytest.mark.parametrize(
    ("written", "then", "outcome"),
    [
        ((1, 2), [FINISH], "target"),
        ((1, 2), [WINDOW], "target"),
        ((1, 2), [WINDOW, Fail(RoleUnavailable("gone"))], "target"),
        ((1, 2), [Fail(RoleUnavailable("gone"))], "cancelled"),
        ((1, 2), [], "cancelled"),
        ((), [WINDOW], "cancelled"),
    ],
)
def test_a_stream_that_ends_before_its_end_was_the_targets_if_its_text_stays(
    written: tuple[int, ...], then: list[Command], outcome: str
) -> None:
    """A stop string was met, or steps are speculated from there on; or all of it failed."""
    trace = TraceRecorder("r", "lookahead", 0.0, lambda: 0.0, texts=True)
    trace.on_command(StartStream(1, StepRequest("c", "s", Prefix((1,)), StepRule(), 9)))
    if written:
        trace.on_event(Streamed(1, Delta("One.", written)))
    for command in (Cancel(1, "told to"), *then):
        trace.on_command(command)
    trace.close()
    answer = trace.as_dict()["spans"][0]
    assert (answer["outcome"], answer["detail"]["reason"]) == (outcome, "told to")


@pytest.mark.parametrize("texts", [True, False])
def test_without_texts_a_trace_holds_nothing_that_quotes_them(texts: bool) -> None:
    step = Step("It is 1250.", (1, 2), "v", Ending.BOUNDARY)
    quoting = "1250 against 1520"
    trace = TraceRecorder("r", "lookahead", 0.0, lambda: 0.0, texts=texts)
    for call in (1, 2):
        trace.on_command(StartTarget(call, 0, StepRequest("c", "s", Prefix((1,)), StepRule(), 9)))
    trace.on_command(Judge(3, 0, JudgeRequest("s", "exact", "What is it?", "", step, step)))
    trace.on_event(TargetStep(1, step))
    trace.on_event(TargetFailed(2, RoleUnavailable(quoting)))
    trace.on_event(Judged(3, Verdict(False, "exact", quoting, 0.25)))
    trace.on_command(Commit(Committed("It is 1250.", Channel.CONTENT, Origin.TARGET, 2, 0)))
    trace.on_command(Fail(RequestError(quoting)))
    told = json.dumps(trace.as_dict())
    assert ("1250" in told) == texts
    verdict = next(span["detail"] for span in trace.as_dict()["spans"] if span["kind"] == "verdict")
    assert (verdict["verifier"], verdict["score"], verdict["accepted"]) == ("exact", 0.25, False)
    assert trace.as_dict()["error"] == (quoting if texts else "RequestError")


def test_a_look_ahead_says_behind_how_many_tokens_it_begins() -> None:
    """Of what this coordinator writes, be it the rest of another one's: 10 of 100 tokens were sent before."""

    def request(max_tokens: int) -> StepRequest:
        return StepRequest("c", "s", Prefix((1,)), StepRule(), max_tokens)

    trace = TraceRecorder("r", "lookahead", 0.0, lambda: 0.0, texts=True)
    trace.on_command(StartStream(0, request(90)))
    trace.on_command(StartDraft(1, 0, request(90), 4))
    for text, ids in (("One", (1, 2)), (" two", (3, 4))):
        trace.on_event(DraftStep(1, Step(text, ids, "v", Ending.CAP)))
    trace.on_command(Commit(Committed("One t", Channel.CONTENT, Origin.TARGET, 3, 0)))
    trace.on_command(StartDraft(2, 3, request(86), 4))
    trace.close()
    drafts = [span["detail"] for span in trace.as_dict()["spans"] if span["kind"] == "draft"]
    assert [(detail.get("place"), detail.get("ahead")) for detail in drafts] == [
        (0, 0),
        (None, None),
        (None, None),
        (4, 1),
    ]
