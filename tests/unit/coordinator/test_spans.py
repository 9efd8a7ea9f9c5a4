"""Several draft steps may stand for one step of the target."""

from __future__ import annotations

from random import Random

import pytest

from actors.messages import Ending, JudgeRequest, Step, Verdict
from deployments.coordinator.events import (
    Cancel,
    DraftEnded,
    DraftStep,
    Judge,
    Judged,
    Outcome,
    Retired,
    StartDraft,
    StartTarget,
    TargetStep,
)
from tests.unit.coordinator.talk import Talk, step, words


def drafted(talk: Talk, *steps: Step) -> list[int]:
    """The draft writes `steps`; the target's calls for their positions, and for the one behind them."""
    call = talk.last(StartDraft).call
    for each in steps:
        talk.hear(DraftStep(call, each))
    return [c.call for c in talk.said if isinstance(c, StartTarget)]


def asked(talk: Talk) -> list[JudgeRequest]:
    return [c.request for c in talk.said if isinstance(c, Judge)]


def answer(talk: Talk, accepted: bool, degraded: str | None = None) -> None:
    call = [c.call for c in talk.said if isinstance(c, Judge)][-1]
    talk.hear(Judged(call, Verdict(accepted, "judge", ""), degraded))


def test_two_draft_steps_stand_for_one_of_the_target() -> None:
    talk = Talk(verifier="judge")
    targets = drafted(talk, step(1, 2, 3), step(4, 5, 6), step(7, 8))
    talk.hear(TargetStep(targets[0], step(9, 8, 7, 6, 5, 4)))
    answer(talk, False)
    single, span = asked(talk)
    assert (single.draft, span.draft) == (step(1, 2, 3), step(1, 2, 3, 4, 5, 6))
    assert single.target == span.target
    num = len(talk.said)
    answer(talk, True)
    assert {c.call for c in talk.said[num:] if isinstance(c, Cancel)} == {targets[1]}, "what is built on it goes on"
    assert talk.sent == words(1, 2, 3, 4, 5, 6)
    summary = talk.session.summary()
    assert (summary.num_accepted_steps, summary.num_cancelled_steps) == (2, 0)


def test_a_span_that_says_something_else_is_recovered() -> None:
    talk = Talk(verifier="judge")
    targets = drafted(talk, step(1, 2, 3), step(4, 5, 6))
    talk.hear(TargetStep(targets[0], step(9, 8, 7, 6, 5, 4)))
    answer(talk, False)
    answer(talk, False)
    assert len(asked(talk)) == 2
    assert talk.sent == words(9, 8, 7, 6, 5, 4)
    assert talk.session.summary().num_recovered_steps == 1


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (step(9, 8, 7), "its own length fits best"),
        (step(*range(11, 41)), "nothing comes near"),
        (step(9, 8, 7, 6, 5, 4, ending=Ending.END), "only one of the two ends the text"),
    ],
)
def test_what_cannot_be_a_span_is_not_asked_about(target: Step, why: str) -> None:
    talk = Talk(verifier="judge")
    targets = drafted(talk, step(1, 2, 3), step(4, 5, 6))
    talk.hear(TargetStep(targets[0], target))
    if asked(talk):
        answer(talk, False)
    assert len(asked(talk)) <= 1, why
    assert talk.session.summary().num_recovered_steps == 1


def test_a_span_that_ends_the_text_as_the_target_does_is_asked_about_at_once() -> None:
    talk = Talk(verifier="judge")
    targets = drafted(talk, step(1, 2, 3), step(4, 5, 6, ending=Ending.END))
    talk.hear(TargetStep(targets[0], step(9, 8, 7, 6, 5, 4, ending=Ending.END)))
    (span,) = asked(talk)
    assert span.draft == step(1, 2, 3, 4, 5, 6, ending=Ending.END)
    answer(talk, True)
    assert talk.session.finished
    assert talk.sent == words(1, 2, 3, 4, 5, 6)


def test_a_verifier_that_fails_is_not_asked_again() -> None:
    talk = Talk(verifier="judge")
    targets = drafted(talk, step(1, 2, 3), step(4, 5, 6))
    talk.hear(TargetStep(targets[0], step(9, 8, 7, 6, 5, 4)))
    answer(talk, False, "verifier_late")
    assert len(asked(talk)) == 1
    assert talk.session.summary().num_recovered_steps == 1


@pytest.mark.parametrize("changes", [{"spans": False}, {"verifier": None}])
def test_spans_can_be_switched_off_and_are_nothing_for_equal_steps(changes: dict[str, object]) -> None:
    talk = Talk(**{"verifier": "judge", **changes})
    targets = drafted(talk, step(1, 2, 3), step(4, 5, 6))
    talk.hear(TargetStep(targets[0], step(9, 8, 7, 6, 5, 4)))
    if asked(talk):
        answer(talk, False)
    assert len(asked(talk)) <= 1
    assert talk.session.summary().num_recovered_steps == 1


def test_a_span_of_which_a_part_has_fallen_meanwhile_is_none() -> None:
    talk = Talk(verifier="judge")
    targets = drafted(talk, step(1, 2, 3), step(4, 5, 6))
    talk.hear(TargetStep(targets[0], step(9, 8, 7, 6, 5, 4)))
    answer(talk, False)
    span = [c.call for c in talk.said if isinstance(c, Judge)][-1]
    talk.hear(TargetStep(targets[1], step(9, ending=Ending.END)))
    talk.hear(Judged(span, Verdict(True, "judge", "")))
    assert talk.sent == words(9, 8, 7, 6, 5, 4), "the path has the target's step behind the first draft step"


def test_spans_in_any_order_keep_the_books() -> None:
    """Targets that write one step for the draft's one to three, verdicts and steps in any order."""
    num_spans = 0
    for seed in range(400):
        order = Random(seed)
        talk = Talk(verifier="judge", max_lookahead=order.randrange(2, 6), max_tokens=60)
        words_left = iter(range(1, 10**6))
        open_calls: dict[int, StartDraft | StartTarget | Judge] = {}
        said = talk.said
        while not talk.session.finished:
            for command in said:
                if isinstance(command, StartDraft | StartTarget | Judge):
                    open_calls[command.call] = command
                elif isinstance(command, Cancel):
                    del open_calls[command.call]
            call = order.choice(list(open_calls.values()))
            tokens = [next(words_left) for _ in range(order.randrange(1, 4))]
            if isinstance(call, StartDraft):
                last = order.randrange(3) == 0
                said = talk.hear(DraftStep(call.call, step(*tokens)))
                if last and call.call in open_calls and not any(isinstance(c, Cancel) for c in said):
                    said = [*said, *talk.hear(DraftEnded(call.call))]
                    del open_calls[call.call]
                continue
            del open_calls[call.call]
            if isinstance(call, StartTarget):
                longer = tokens * order.randrange(1, 4)
                said = talk.hear(TargetStep(call.call, step(*longer[: call.request.max_tokens])))
            else:
                num_spans += len(call.request.draft.token_ids) > 3
                said = talk.hear(Judged(call.call, Verdict(order.random() < 0.5, "judge", "")))
        summary = talk.session.summary()
        placed = summary.num_accepted_steps + summary.num_recovered_steps + summary.num_cancelled_steps
        assert placed == summary.num_draft_steps
        retired = [c for c in talk.said if isinstance(c, Retired)]
        assert len({c.position for c in retired}) == len(retired)
        assert sum(c.outcome is Outcome.ACCEPTED for c in retired) == summary.num_accepted_steps
        assert talk.num_tokens == summary.output_tokens
        assert talk.session.num_live_calls == 0
    assert num_spans > 30
