"""The target may be kept from writing many steps of a window at once."""

from __future__ import annotations

from deployments.coordinator.events import Decision, StartDraft, StartTarget
from deployments.coordinator.session import Session
from tests.unit.coordinator.world import TARGET, World, settings


def most_at_once(here: World) -> int:
    """How many steps the target wrote at once, at most, where the draft is faster than it."""
    here.start()
    most = 0
    while here.choices():
        starts = {c.call for c in here.log if isinstance(c, StartTarget)}
        most = max(most, len(starts & set(here.under_way)))
        drafts = [c.call for c in here.log if isinstance(c, StartDraft) and c.call in here.under_way]
        here.do(drafts[0] if drafts else here.choices()[0])
    return most


def test_the_target_writes_only_the_first_steps_of_the_window() -> None:
    here = World(Session(settings(max_lookahead=4, max_target_steps=2)), TARGET, TARGET, lambda *_: True)
    assert most_at_once(here) == 2
    assert here.finished.summary.accept_rate == 1.0


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
