"""Parts of steps: what is certain leaves before the step is decided, and a draft that strays starts anew at once."""

from __future__ import annotations

import pytest

from actors.messages import Delta, Ending, Piece, Step, StepRule, TokenIds, Verdict
from deployments.coordinator.events import (
    AddHints,
    Cancel,
    Commit,
    Continued,
    Decision,
    DraftStep,
    Finish,
    Judge,
    Judged,
    StartDraft,
    StartStream,
    StartTarget,
    TargetFailed,
    TargetProgress,
    TargetStep,
)
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.window import Writing
from deployments.generation import Committed, Origin
from tests.unit.coordinator.talk import Talk, V, part, step, words


def test_where_only_equal_steps_count_all_of_the_targets_head_is_certain() -> None:
    talk = Talk()
    target = talk.last(StartTarget).call
    talk.hear(TargetProgress(target, part(1, 2)))
    assert talk.sent == words(1, 2)
    talk.hear(TargetProgress(target, part(3)))
    assert (talk.sent, talk.num_tokens) == (words(1, 2, 3), 3)
    talk.hear(TargetStep(target, step(1, 2, 3, 4)))
    assert (talk.sent, talk.num_tokens) == (words(1, 2, 3, 4), 4)


def test_with_a_verifier_only_what_both_say_is_certain() -> None:
    talk = Talk(verifier="judge")
    target, draft = talk.last(StartTarget).call, talk.last(StartDraft).call
    talk.hear(TargetProgress(target, part(1, 2)))
    assert talk.sent == "", "the draft's step may still come and stand"
    talk.hear(DraftStep(draft, step(1, 2, 3, 4, 9)))
    assert talk.sent == words(1, 2)
    talk.hear(TargetProgress(target, part(3)))
    talk.hear(TargetProgress(target, part(4, 5)))
    talk.hear(TargetProgress(target, part(6)))
    assert talk.sent == words(1, 2, 3), "a part is certain as a whole or not at all"
    talk.hear(TargetStep(target, step(1, 2, 3, 4, 5, 6, 7)))
    judge = next(c for c in talk.said if isinstance(c, Judge))
    talk.hear(Judged(judge.call, Verdict(True, "judge", "same")))
    assert (talk.sent, talk.num_tokens) == (words(1, 2, 3, 4, 9), 5)


def test_the_same_text_in_other_tokens_is_certain_only_in_another_vocabulary() -> None:
    for vocabulary, sent in ((V, ""), ("w", words(1, 2))):
        talk = Talk(verifier="judge")
        target = talk.last(StartTarget).call
        talk.hear(DraftStep(talk.last(StartDraft).call, Step(words(1, 2, 3), (7, 8), vocabulary, Ending.BOUNDARY)))
        talk.hear(TargetProgress(target, part(1, 2)))
        assert talk.sent == sent


def test_a_deeper_step_is_sent_when_it_becomes_the_head() -> None:
    talk = Talk(verifier="judge")
    head = talk.last(StartTarget).call
    draft = talk.last(StartDraft).call
    talk.hear(DraftStep(draft, step(1, 2)))
    second = talk.last(StartTarget).call
    talk.hear(DraftStep(draft, step(3, 4, 5)))
    talk.hear(TargetProgress(second, part(3)))
    talk.hear(TargetProgress(second, part(4)))
    assert talk.sent == ""
    talk.hear(TargetStep(head, step(1, 2)))
    assert talk.sent == words(1, 2, 3, 4)
    assert talk.num_tokens == 4


def test_a_draft_that_strays_starts_anew_while_the_target_goes_on() -> None:
    talk = Talk()
    target, draft = talk.last(StartTarget).call, talk.last(StartDraft).call
    talk.hear(DraftStep(draft, step(1, 2, 3)))
    deeper = talk.last(StartTarget).call
    talk.hear(TargetProgress(target, part(1)))
    said = talk.hear(TargetProgress(target, part(2, 8)))
    assert {c.call for c in said if isinstance(c, Cancel)} == {draft, deeper}
    assert not [c for c in said if isinstance(c, StartTarget)], "the running call writes the rest"
    again = talk.last(StartDraft)
    assert isinstance(again, StartDraft)
    assert again.request.prefix.pieces[-1].token_ids == (1, 2, 8)
    assert [(c.call, c.ahead.token_ids) for c in said if isinstance(c, Continued)] == [(target, (1, 2, 8))]
    said = talk.hear(DraftStep(again.call, step(9, 10)))
    assert [c.hints for c in said if isinstance(c, AddHints)] == [((1, 2, 8, 9, 10),)], "from the call's first token on"
    talk.hear(TargetStep(target, step(1, 2, 8, 9, 10)))
    assert (talk.sent, talk.num_tokens) == (words(1, 2, 8, 9, 10), 5)
    summary = talk.session.summary()
    assert (summary.num_recovered_steps, summary.num_accepted_steps) == (1, 1)


def test_a_step_can_be_cut_more_than_once() -> None:
    talk = Talk()
    target = talk.last(StartTarget).call
    for first in (1, 2, 3):
        talk.hear(DraftStep(talk.last(StartDraft).call, step(0)))
        talk.hear(TargetProgress(target, part(first)))
    talk.hear(TargetStep(target, step(1, 2, 3, 4)))
    assert (talk.sent, talk.num_tokens) == (words(1, 2, 3, 4), 4)
    assert talk.session.summary().num_recovered_steps == 3


def test_cutting_can_be_switched_off_and_never_happens_with_a_verifier_or_steps_of_a_set_length() -> None:
    for changes in ({"restart_in_step": False}, {"verifier": "judge"}, {"rule": StepRule("tokens", 9)}):
        talk = Talk(**changes)
        talk.hear(DraftStep(talk.last(StartDraft).call, step(1, 2, 3)))
        said = talk.hear(TargetProgress(next(c.call for c in talk.said if isinstance(c, StartTarget)), part(7)))
        assert not [c for c in said if isinstance(c, Cancel | Continued)]


def test_a_call_that_breaks_off_is_continued_behind_what_was_sent() -> None:
    talk = Talk(verifier="judge")
    target = talk.last(StartTarget).call
    talk.hear(DraftStep(talk.last(StartDraft).call, step(1, 2, 3, 4, 5)))
    talk.hear(TargetProgress(target, part(1, 2)))
    talk.hear(TargetProgress(target, part(9)))
    said = talk.hear(TargetFailed(target, RuntimeError("gone")))
    (again,) = [c for c in said if isinstance(c, StartTarget)]
    assert again.request.prefix.pieces[-1].token_ids == (1, 2), "what was not sent is written anew"
    assert again.request.max_tokens == 998
    assert again.request.rule.max_tokens == 254
    assert again.request.hints == ((3, 4, 5),)
    talk.hear(TargetProgress(again.call, part(3)))
    assert talk.sent == words(1, 2, 3)
    talk.hear(TargetStep(again.call, step(3, 4, 5)))
    assert (talk.sent, talk.num_tokens) == (words(1, 2, 3, 4, 5), 5)
    assert talk.session.summary().num_accepted_steps == 1


def test_half_a_character_that_was_sent_stands_though_the_draft_is_left_alone_from_then_on() -> None:
    depths = [1]
    settings = SessionSettings("r", (1,), (1,), V, 1000, progress_s=0.1)
    session = Session(settings, lambda: Decision(depths[0], "now"))
    (target,) = [c.call for c in session.start() if isinstance(c, StartTarget)]
    (sent,) = [c.output for c in session.handle(TargetProgress(target, Delta("", (7,)))) if isinstance(c, Commit)]
    assert (sent.text, sent.num_tokens) == ("", 1)
    depths[0] = 0
    said = session.handle(TargetFailed(target, RuntimeError("gone")))
    assert not [c for c in said if isinstance(c, StartStream)]
    (again,) = [c for c in said if isinstance(c, StartTarget)]
    assert again.request.prefix.pieces[-1].token_ids == (7,)


def test_a_stop_string_inside_a_part_ends_the_request() -> None:
    talk = Talk(stop=("w3",))
    target = talk.last(StartTarget).call
    talk.hear(DraftStep(talk.last(StartDraft).call, step(1, 2, 3, 4)))
    said = talk.hear(TargetProgress(target, part(1, 2, 3)))
    (finish,) = [c for c in said if isinstance(c, Finish)]
    assert (finish.output.finish_reason, finish.output.stop_reason) == ("stop", "w3")
    assert talk.sent == words(1, 2)
    assert talk.session.num_live_calls == 0
    summary = finish.output.summary
    assert (summary.num_steps, summary.num_target_steps, summary.num_cancelled_steps) == (1, 1, 1)


def test_parts_before_the_decision_are_the_targets_in_the_books() -> None:
    talk = Talk()
    target = talk.last(StartTarget).call
    talk.hear(TargetProgress(target, part(1)))
    outputs = [c.output for c in talk.said if isinstance(c, Commit)]
    assert outputs == [Committed(words(1), outputs[0].channel, Origin.TARGET, 1, 0)]


@pytest.mark.parametrize("mode", ["lookahead", "target"])
def test_without_progress_nothing_is_asked_for(mode: str) -> None:
    talk = Talk(progress_s=0.0, mode=mode)
    assert all(c.progress_s == 0.0 for c in talk.said if isinstance(c, StartTarget))


def test_deeper_steps_are_told_of_more_seldom_where_only_the_head_matters() -> None:
    for changes, expected in (
        ({"verifier": "judge"}, [0.1, 0.2, 0.4, 0.8]),
        ({"verifier": "judge", "max_progress_s": 0.3}, [0.1, 0.2, 0.3, 0.3]),
        ({}, [0.1] * 4),
    ):
        talk = Talk(**changes)
        for first in (1, 2, 3):
            talk.hear(DraftStep(talk.last(StartDraft).call, step(first)))
        told = [c.progress_s for c in talk.said if isinstance(c, StartTarget)]
        assert told == pytest.approx(expected)


def test_a_cut_call_keeps_its_place_in_its_own_text() -> None:
    def piece(*ids: TokenIds) -> Piece:
        return Piece("".join(words(*i) for i in ids), sum(ids, ()), V)

    writing = Writing(3, piece((1, 2)), piece(), [piece((3,))])
    first, rest = writing.cut()
    assert (first.token_ids, rest.before, rest.ahead) == ((1, 2, 3), piece(), piece((3,)))
    rest.parts.append(piece((4,)))
    second, rest = rest.cut()
    assert (second.token_ids, rest.ahead) == ((4,), piece((3, 4)))
    assert rest.whole(step(3, 4, 5)).token_ids == (5,)
    assert rest.whole(step(3, 4, 5)).text == words(5)
