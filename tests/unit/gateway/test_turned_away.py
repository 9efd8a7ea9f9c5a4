"""What was refused, as demand."""

from __future__ import annotations

import pytest

from actors.errors import CapacityError
from deployments.gateway.admission import Admission, Bounds
from deployments.gateway.fair_queue import Wish
from deployments.gateway.turned_away import TurnedAway

STAY_S = 10.0


@pytest.mark.parametrize("every_s", [2.0, 0.05])
def test_by_little_s_law_it_is_what_is_refused_in_the_time_that_one_takes(every_s: float) -> None:
    turned_away = TurnedAway()
    turned_away.ended(STAY_S)
    for number in range(round(60 / every_s)):
        turned_away.add(1, number * every_s)
    assert turned_away.number(60.0) == pytest.approx(STAY_S / every_s, rel=0.1, abs=1)


def test_it_is_gone_when_those_who_were_let_in_are() -> None:
    turned_away = TurnedAway()
    turned_away.add(500, 1.0)
    assert turned_away.number(3600.0) == 500  # nothing has ended yet: they would be there still
    turned_away.ended(STAY_S)
    turned_away.add(100, 100.0)
    assert [turned_away.number(at) for at in (100.0, 109.0, 112.0)] == [100, 100, 0]


def test_what_is_kept_does_not_grow_with_what_is_refused() -> None:
    turned_away = TurnedAway()
    turned_away.ended(STAY_S)
    for number in range(10_000):
        turned_away.add(1, number / 100)
    assert len(turned_away._refused) <= STAY_S + 2


def test_an_admission_says_what_it_holds_back() -> None:
    admission = Admission(Bounds(1, 1, 1, 2, 1_000_000, 30.0))
    assert admission.held_back(0.0) == {"waiting_generations": 0, "refused_generations": 0}
    running = admission.ask(Wish("a", 10), 0.0)
    waiting = [admission.ask(Wish(holder, 10, num_generations=3), 0.0) for holder in ("a", "b")]
    with pytest.raises(CapacityError):
        admission.ask(Wish("c", 10, num_generations=2), 0.0)
    assert admission.held_back(0.0) == {"waiting_generations": 6, "refused_generations": 2}
    admission.leave(running, STAY_S)
    for ticket in waiting:
        admission.leave(ticket, STAY_S)
    assert admission.held_back(STAY_S + 2) == {"waiting_generations": 0, "refused_generations": 0}


def test_who_has_waited_in_vain_was_asked_for_as_well() -> None:
    admission = Admission(Bounds(1, 1, 1, 2, 1_000_000, 30.0))
    admission.ask(Wish("a", 10), 0.0)
    admission.give_up(admission.ask(Wish("b", 10, deadline=5.0), 0.0), 5.0)
    assert admission.held_back(5.0) == {"waiting_generations": 0, "refused_generations": 1}
