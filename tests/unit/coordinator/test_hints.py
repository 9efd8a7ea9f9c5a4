"""Hints: what goes to whom, within bounds, and that it changes no word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.engines.scripted import ScriptOptions, detokenize
from actors.messages import Ending, Nearby, Sampling, Step, StepRule, TokenIds
from deployments.coordinator.events import AddHints, DraftStep, StartDraft, StartStream, StartTarget, TargetFailed
from deployments.coordinator.hints import MARGIN, MAX_TOKENS, NUM_KEPT, Hints
from deployments.coordinator.session import Session
from tests.unit.coordinator.world import TARGET, World, settings, target_only


def step(first: int, size: int = 10, vocabulary: str = "v") -> Step:
    return Step("text", tuple(range(first, first + size)), vocabulary, Ending.BOUNDARY)


def test_steps_that_followed_one_another_are_one_sequence() -> None:
    hints = Hints(4)
    hints.leave(100, [step(0), step(10), step(20)])
    assert hints.near(100, "v") == (Nearby(tuple(range(30)), 0),)


def test_sequences_stay_in_their_vocabulary() -> None:
    hints = Hints(4)
    hints.leave(0, [step(0), step(50, vocabulary="w"), step(20)])
    assert hints.near(10, "v") == (Nearby(tuple(range(20, 30)), -10), Nearby(tuple(range(10)), 10))
    assert hints.near(10, "w") == (Nearby(tuple(range(50, 60)), 0),)
    assert hints.near(10, "x") == ()


def test_only_what_is_near_is_sent_the_newest_first() -> None:
    hints = Hints(2)
    for first in (0, 1000, 2000, 3000):
        hints.leave(100, [step(first)])
    assert hints.near(100, "v") == (Nearby(step(3000).token_ids, 0), Nearby(step(2000).token_ids, 0))
    assert hints.near(109 + MARGIN, "v") != ()
    assert hints.near(110 + MARGIN, "v") == hints.near(99 - MARGIN, "v") == ()


def test_what_lies_far_behind_a_place_is_cut_off() -> None:
    hints = Hints(1)
    hints.leave(0, [step(0, 300)])
    assert hints.near(200, "v") == (Nearby(tuple(range(200 - MARGIN, 300)), MARGIN),)


def test_nothing_is_kept_of_a_path_that_ended_where_it_was_left() -> None:
    hints = Hints(1)
    hints.leave(100, [step(0, 2)])
    hints.leave(100, [step(0, 0)])
    assert hints.near(100, "v") == (Nearby((0, 1), 0),)


def test_what_is_kept_and_sent_is_bounded() -> None:
    hints = Hints(10**6)
    for number in range(1000):
        hints.leave(0, [step(1000 * number, 60)])
    assert sum(len(near.token_ids) for near in hints.near(0, "v")) == MAX_TOKENS
    short = Hints(10**6)
    for number in range(1000):
        short.leave(0, [step(1000 * number, 2)])
    assert len(short.near(0, "v")) == NUM_KEPT
    none = Hints(0)
    none.leave(0, [step(0)])
    assert none.near(0, "v") == ()


def drafted(w: World) -> tuple[StartTarget, DraftStep]:
    """The session has started and its first draft step is there."""
    w.start()
    target = next(c for c in w.log if isinstance(c, StartTarget))
    call = next(c.call for c in w.log if isinstance(c, StartDraft))
    event = w.under_way[call][0]
    assert isinstance(event, DraftStep)
    w.do(call)
    return target, event


def speculating(draft: ScriptOptions, **changes: object) -> World:
    return World(Session(settings(TARGET, **changes)), TARGET, draft, lambda a, b: False)


DRAFT = replace(TARGET, role="draft", agree=0.0)


def test_a_draft_step_is_handed_to_the_targets_running_call() -> None:
    w = speculating(DRAFT)
    target, event = drafted(w)
    assert [c for c in w.log if isinstance(c, AddHints)] == [
        AddHints(target.request.call_id, target.request.session_id, (event.step.token_ids,))
    ]


def test_a_call_that_starts_again_carries_the_draft_step() -> None:
    w = speculating(DRAFT)
    target, event = drafted(w)
    w.fail(target.call)
    again = [c for c in w.log if isinstance(c, StartTarget) and c.position == target.position][1]
    assert again.request.hints == (event.step.token_ids,)
    assert isinstance(w.session.handle(TargetFailed(again.call, RuntimeError())), list)


def test_rejected_steps_are_hints_for_target_and_draft() -> None:
    w = speculating(DRAFT, verifier=None)
    target, event = drafted(w)
    num = len(w.log)
    w.do(target.call)
    after = w.log[num:]
    (start,) = [c for c in after if isinstance(c, StartTarget)]
    (draft,) = [c for c in after if isinstance(c, StartDraft)]
    for request in (start.request, draft.request):
        num_before = sum(len(piece.token_ids) for piece in request.prefix.pieces)
        assert num_before > 0
        assert request.nearby == (Nearby(event.step.token_ids, num_before),)
        assert request.hints == (), "it does not begin where they go on"


def seeds_of(**changes: object) -> tuple[set[int | None], set[int | None]]:
    """With which seeds the target and the draft are asked, from the beginning to the end of a sampled request."""
    w = speculating(DRAFT, sampling=Sampling(1.0, seed=7), **changes)
    w.start()
    while not w.session.finished:
        w.do(w.choices()[0])
    asked = [[c.request.sampling.seed for c in w.log if isinstance(c, kind)] for kind in (StartTarget, StartDraft)]
    assert asked[0][0] == 7, "whatever is hinted, the target's seeds are the request's"
    return set(asked[0]), set(asked[1])


@pytest.mark.parametrize("verifier", ["v", None])
def test_no_hint_is_drawn_with_a_seed_of_the_target_s(verifier: str | None) -> None:
    target, draft = seeds_of(takes_hints=True, verifier=verifier)
    assert len(target) > 3
    assert len(draft) > 3
    assert not target & draft


@pytest.mark.parametrize("changes", [{}, {"takes_hints": True, "token_speculation": "ngram"}])
def test_where_no_hints_go_both_draw_alike(changes: dict[str, object]) -> None:
    """So that they write the same where they are as sure of it."""
    target, draft = seeds_of(**changes)
    assert 7 in target & draft


@pytest.mark.parametrize("how", ["ngram", "none"])
@pytest.mark.parametrize("mode", ["target", "lookahead"])
def test_without_hints_nothing_is_sent_and_every_call_says_how(how: str, mode: str) -> None:
    w = speculating(DRAFT, token_speculation=how, mode=mode)
    w.start()
    while not w.session.finished:
        w.do(w.choices()[0])
    assert not any(isinstance(c, AddHints) for c in w.log)
    requests = [c.request for c in w.log if isinstance(c, StartTarget | StartDraft | StartStream)]
    assert requests
    assert all(r.hints == r.nearby == () and r.token_speculation == how for r in requests)


def test_another_vocabulary_gets_no_ids() -> None:
    target = replace(TARGET, vocabulary="other")
    w = World(Session(settings(target)), target, DRAFT, lambda a, b: False)
    w.start()
    seen: dict[str, set[TokenIds]] = {"scripted": set(), "other": set()}
    while not w.session.finished:
        w.do(w.choices()[-1])
    for command in w.log:
        if isinstance(command, StartTarget | StartDraft):
            name = "other" if isinstance(command, StartTarget) else "scripted"
            seen[name] |= {*command.request.hints, *(near.token_ids for near in command.request.nearby)}
    assert not any(isinstance(c, AddHints) for c in w.log)
    assert seen["scripted"], "the draft's own rejected steps"
    assert w.text == detokenize(target_only(target, 10_000, StepRule()))
