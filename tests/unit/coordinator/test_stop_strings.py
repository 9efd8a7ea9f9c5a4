"""A stop string ends the text: whether it does is never the draft's to say alone."""

from __future__ import annotations

import pytest

from actors.messages import Ending, JudgeRequest, Step, Verdict
from deployments.coordinator.events import (
    DraftEnded,
    DraftStep,
    Event,
    Finish,
    Judge,
    Judged,
    StartDraft,
    StartTarget,
    TargetStep,
)
from tests.unit.coordinator.talk import Talk, V, step


def written(text: str) -> Step:
    """A step of this text, a token a character."""
    return Step(text, tuple(map(ord, text)), V, Ending.BOUNDARY)


def asked(talk: Talk) -> list[JudgeRequest]:
    return [c.request for c in talk.said if isinstance(c, Judge)]


def hear(talk: Talk, event: Event) -> None:
    """`event`, and a verdict that accepts whatever is asked about."""
    said = talk.hear(event)
    while judges := [c for c in said if isinstance(c, Judge)]:
        said = [c for judge in judges for c in talk.hear(Judged(judge.call, Verdict(True, "v", "yes")))]


def ends(talk: Talk) -> list[str | None]:
    return [c.output.stop_reason for c in talk.said if isinstance(c, Finish)]


@pytest.mark.parametrize(
    ("before", "draft", "target", "ends_it"),
    [
        ("", "a\n\n", "a\n", False),
        ("", "a\n", "a\n\n", True),
        ("a\n", "\nb", "b", False),
        ("a\n", "b", "\nb", True),
        ("", "aQ:", "a\n\n", True),
    ],
)
def test_where_only_one_of_both_completes_a_stop_string_the_targets_step_stands(
    before: str, draft: str, target: str, ends_it: bool
) -> None:
    talk = Talk(verifier="v", stop=("\n\n", "Q:"))
    look_ahead = talk.last(StartDraft).call
    for ours, theirs in [(before, before), (draft, target)] if before else [(draft, target)]:
        call = talk.last(StartTarget).call
        talk.hear(DraftStep(look_ahead, written(ours)))
        hear(talk, TargetStep(call, written(theirs)))
    assert not asked(talk)
    assert talk.session.summary().num_recovered_steps == 1
    assert ends(talk) == (["\n\n"] if ends_it else [])


def test_two_steps_that_complete_the_same_one_are_compared() -> None:
    talk = Talk(verifier="v", stop=("\n\n", "Q:"))
    call = talk.last(StartTarget).call
    talk.hear(DraftStep(talk.last(StartDraft).call, written("b\n\n")))
    hear(talk, TargetStep(call, written("a\n\n")))
    assert len(asked(talk)) == 1
    assert (talk.sent, ends(talk)) == ("b", ["\n\n"])


def test_a_span_in_which_the_draft_alone_completes_one_is_not_asked_about() -> None:
    talk = Talk(verifier="v", stop=("Q:",))
    call, look_ahead = talk.last(StartTarget).call, talk.last(StartDraft).call
    for text in ("abc ", "def Q:"):
        talk.hear(DraftStep(look_ahead, written(text)))
    (judge,) = [c for c in talk.hear(TargetStep(call, written("uvw xyz."))) if isinstance(c, Judge)]
    talk.hear(Judged(judge.call, Verdict(False, "v", "no")))
    assert len(asked(talk)) == 1
    assert (talk.sent, ends(talk)) == ("uvw xyz.", [])


def test_a_version_that_alone_completes_one_is_not_asked_about() -> None:
    talk = Talk(verifier="v", stop=("w5",), branches=2, max_lookahead=1)
    call, look_ahead = talk.last(StartTarget).call, talk.last(StartDraft).call
    talk.hear(DraftStep(look_ahead, step(1, 2, 3)))
    talk.hear(DraftEnded(look_ahead))
    talk.hear(DraftStep(talk.last(StartDraft).call, step(4, 5)))
    talk.hear(TargetStep(call, step(9)))
    assert [request.draft for request in asked(talk)] == [step(1, 2, 3)]


@pytest.mark.parametrize(("target", "sent", "ends_it"), [(step(6), "w6 ", False), (step(8, 5), "w4 ", True)])
def test_a_step_that_completes_one_is_not_accepted_by_its_score_alone(target: Step, sent: str, ends_it: bool) -> None:
    talk = Talk(mode="specreason", verifier="v", stop=("w5",))
    hear(talk, DraftStep(talk.last(StartDraft).call, step(4, 5)))
    assert not asked(talk)
    hear(talk, TargetStep(talk.last(StartTarget).call, target))
    assert [request.target for request in asked(talk)] == ([target] if ends_it else [])
    assert (talk.sent, ends(talk)) == (sent, ["w5"] if ends_it else [])
