"""A batch by hand: rates, waiting, cancellation, changes of speed and cost."""

from __future__ import annotations

import pytest

from deployments.simulation.batch import Batch
from deployments.simulation.clock import Clock
from deployments.simulation.costs import EngineCost, linear_cost
from deployments.simulation.engine import Engine, Tempo


def finish_times(batch: Batch) -> list[tuple[float, str]]:
    """Runs `batch` dry."""
    found = []
    while (due := batch.next_done()) is not None:
        found += [(round(due, 6), name) for name in batch.take_done(due)]
    return found


def test_a_pass_costs_what_its_points_say() -> None:
    cost = EngineCost(((1, 1.0), (4, 1.0), (8, 3.0)), context_s=0.5)
    assert [cost.seconds(n) for n in (1, 3, 4, 6, 8, 10)] == [1.0, 1.0, 1.0, 2.0, 3.0, 4.0]
    assert cost.seconds(4, 10) == 6.0
    assert linear_cost(0.1, 0.5).seconds(3) == pytest.approx(0.2)


@pytest.mark.parametrize("points", [(), ((2, 1.0),), ((1, 1.0), (1, 2.0)), ((1, 0.0),), ((1, 1.0), (4, 1.0), (3, 1.0))])
def test_points_that_are_no_line_are_refused(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="pass_s"):
        EngineCost(points)


def test_sequences_share_the_engine() -> None:
    batch = Batch(linear_cost(1.0, 1.0))
    batch.add(0.0, "long", 10)
    batch.add(4.0, "short", 3)  # six tokens of the first are left; from now on a pass takes two seconds
    assert finish_times(batch) == [(10.0, "short"), (13.0, "long")]
    assert batch.sequence_seconds == pytest.approx(4 + 2 * 6 + 3)


def test_a_free_batch_delays_nobody() -> None:
    batch = Batch(linear_cost(1.0, 0.0))
    batch.add(0.0, "a", 10)
    batch.add(1.0, "b", 2)
    assert finish_times(batch) == [(3.0, "b"), (10.0, "a")]


def test_who_finds_no_slot_waits_by_priority() -> None:
    batch = Batch(EngineCost(((1, 1.0),), max_num_seqs=1))
    for name, priority in (("first", 5), ("deep", 3), ("head", 0), ("gone", 1)):
        batch.add(0.0, name, 2, priority=priority)
    assert batch.size == 4
    batch.remove(1.0, "gone")
    assert finish_times(batch) == [(2.0, "first"), (4.0, "head"), (6.0, "deep")]


def test_cancelled_work_makes_room_at_once() -> None:
    batch = Batch(EngineCost(((1, 1.0),), max_num_seqs=1))
    batch.add(0.0, "a", 10)
    batch.add(0.0, "b", 1)
    batch.remove(2.0, "a")
    batch.remove(2.0, "never there")
    assert finish_times(batch) == [(3.0, "b")]


def test_a_hint_speeds_up_the_rest() -> None:
    batch = Batch(EngineCost(((1, 1.0),), max_num_seqs=1))
    batch.add(0.0, "a", 10)
    batch.add(0.0, "b", 4)
    batch.set_speed(4.0, "a", 2.0)
    batch.set_speed(4.0, "b", 4.0)
    batch.set_speed(4.0, "never there", 4.0)
    assert finish_times(batch) == [(7.0, "a"), (8.0, "b")]


def test_context_makes_passes_longer() -> None:
    batch = Batch(EngineCost(((1, 1.0),), context_s=0.1))
    batch.add(0.0, "a", 5, num_context=10)
    batch.add(0.0, "b", 10, num_context=0)
    assert finish_times(batch) == [(10.0, "a"), (15.0, "b")]


def test_many_changes_of_speed_keep_the_order() -> None:
    batch = Batch(linear_cost(1.0, 0.0))
    batch.add(0.0, "a", 1000)
    batch.add(0.0, "b", 500)
    for i in range(300):
        batch.set_speed(i / 10, "a", 1.0 + i % 2)
    batch.set_speed(30.0, "a", 1.0)
    (first, _), (second, _) = finish_times(batch)
    assert first == pytest.approx(500.0)
    assert second == pytest.approx(1000.0 - 15.0)


def test_a_batch_goes_on_at_another_pace_where_passes_cost_something_else() -> None:
    batch = Batch(linear_cost(1.0, 0.0))
    batch.add(0.0, "a", 10)
    batch.set_cost(5.0, linear_cost(2.0, 0.0))
    assert batch.next_done() == pytest.approx(15.0)


class Noted:
    """A piece of work; when it was done."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at = 0.0

    def done(self) -> None:
        self.at = self._clock.now

    def lost(self) -> None:
        raise AssertionError("no engine dies")


def test_engines_that_share_a_machine_are_slower_just_while_both_have_work() -> None:
    clock = Clock()
    tempos = [Tempo(linear_cost(1.0, 0.0)) for _ in range(2)]
    tempos[0].share_machine(tempos[1], linear_cost(2.0, 0.0))
    one, other = (Engine(clock, tempo) for tempo in tempos)
    long, short, later = (Noted(clock) for _ in range(3))
    one.write(long, 10)
    clock.after(2.0, lambda: other.write(short, 2))
    clock.after(6.0, lambda: other.write(later, 100))
    clock.after(7.0, lambda: other.cancel(later))
    clock.run_until(50.0)
    assert (short.at, long.at) == (pytest.approx(4.0), pytest.approx(11.5))
