"""The target may be kept from writing many steps of a window at once, whatever the strategy."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from actors.engines.scripted import detokenize
from actors.messages import StepRule
from deployments.coordinator.events import Decision, DraftEnded, DraftStep, StartDraft, StartTarget, TargetStep
from deployments.coordinator.session import Session
from deployments.coordinator.strategies import STRATEGIES
from tests.unit.coordinator.world import TARGET, World, settings, target_only

DRAFT = replace(TARGET, role="draft", agree=0.6, paraphrase=0.2)


def num_written(here: World) -> int:
    """Steps that the target writes now."""
    return len({c.call for c in here.log if isinstance(c, StartTarget)} & set(here.under_way))


def most_at_once(here: World) -> int:
    """How many steps the target wrote at once, at most, where the draft is faster than it."""
    here.start()
    most = 0
    while here.choices():
        most = max(most, num_written(here))
        drafts = [c.call for c in here.log if isinstance(c, StartDraft) and c.call in here.under_way]
        here.do(drafts[0] if drafts else here.choices()[0])
    return most


def test_the_target_writes_only_the_first_steps_of_the_window() -> None:
    here = World(Session(settings(max_lookahead=4, max_target_steps=2)), TARGET, TARGET, lambda *_: True)
    assert most_at_once(here) == 2
    assert here.finished.summary.accept_rate == 1.0


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("mode", sorted(STRATEGIES))
def test_no_strategy_has_the_target_write_more_at_once_and_every_text_comes_to_its_end(mode: str, most: int) -> None:
    for seed in range(60):
        order = Random(seed)
        branches = 1 + 2 * (mode == "lookahead" and seed % 2)
        chosen = settings(mode=mode, max_lookahead=4, max_target_steps=most, branches=branches)
        here = World(Session(chosen), TARGET, DRAFT, lambda *_: False)
        here.start()
        while not here.session.finished:
            assert num_written(here) <= most
            call = order.choice(here.choices())
            if order.randrange(8) == 0 and not isinstance(here.under_way[call][0], DraftStep):
                here.fail(call)
            else:
                here.do(call)
        assert here.text == detokenize(target_only(TARGET, 10_000, StepRule()))


@pytest.mark.parametrize(("most", "steps"), [(None, 4), (2, 4), (3, 4), (1, 3)])
def test_a_synchronous_round_has_all_its_steps_under_the_bound(most: int | None, steps: int) -> None:
    """And the target's one more, unless it is alone with the drafted ones: then the next round begins with it."""
    chosen = settings(mode="lookahead_sync", max_lookahead=3, max_target_steps=most)
    here = World(Session(chosen), replace(TARGET, num_steps=20), replace(TARGET, num_steps=20), lambda *_: True)
    here.start()
    drafted = [DraftStep, DraftEnded]
    while any(isinstance(here.under_way[call][0], tuple(drafted)) for call in here.choices()):
        here.do(here.choices()[0])
    num_rounds = sum(isinstance(c, StartDraft) for c in here.log)
    assert (num_rounds, num_written(here)) == (1, min(most or 4, 4))
    while sum(isinstance(c, StartDraft) for c in here.log) == 1:
        assert isinstance(here.under_way[here.choices()[0]][0], TargetStep), (
            "nothing is drafted before the round is over"
        )
        here.do(here.choices()[0])
    assert sum(isinstance(c, StartTarget) for c in here.log) == steps
    assert here.session.summary().num_steps == steps


def test_while_it_is_only_watched_the_target_writes_no_step_ahead() -> None:
    decision = Decision(3, "watching", watches=True)
    here = World(Session(settings(), lambda: decision), TARGET, TARGET, lambda *_: True)
    assert most_at_once(here) == 1
    assert here.finished.summary.accept_rate == 1.0


def test_where_the_target_is_faster_alone_it_begins_no_further_step_of_the_window() -> None:
    decisions = [Decision(3, "watching", watches=True)]
    here = World(Session(settings(), lambda: decisions[-1]), TARGET, TARGET, lambda *_: True)
    here.start()
    decisions.append(Decision(0, "the target is faster alone"))
    (draft,) = [c.call for c in here.log if isinstance(c, StartDraft) and c.call in here.under_way]
    here.do(draft)
    assert [c.position for c in here.log if isinstance(c, StartTarget)] == [0]
