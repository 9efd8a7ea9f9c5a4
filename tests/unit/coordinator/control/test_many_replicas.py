"""Over several replicas the controller learns and chooses as over one with the same load."""

from __future__ import annotations

import heapq
from itertools import count

import pytest

from actors.messages import Delta, Ending, Step
from deployments.coordinator.control.choice import Candidate, Conditions, choose
from deployments.coordinator.control.estimates import Engine, Estimates

LOADS = (2, 8, 4, 12)
"""Sequences that run together in a replica, one batch after another."""
NUM_TOKENS = 20
USERS_A_REPLICA = 4
READ_S = 1e-6


def token_s(num_running: int) -> float:
    return 0.05 + 0.005 * (num_running - 1)


def learn(num_replicas: int, num_foreign: int = 0) -> Estimates:
    """From batches that come and go in each replica by itself, with so many sequences of others in each."""
    estimates, names = Estimates(), count()
    under_way: list[tuple[float, int, int, list[int]]] = []

    def begin(replica: int, batch: int, now: float) -> None:
        calls = [next(names) for _ in range(LOADS[(batch + replica) % len(LOADS)])]
        for call in calls:
            estimates.begin(call, now, is_target=True)
        for call in calls:
            estimates.progress(call, Delta("a", (1,), replica=f"target-{replica}"), now + READ_S)
        ends = now + NUM_TOKENS * token_s(len(calls) + num_foreign)
        heapq.heappush(under_way, (ends, replica, batch, calls))

    for replica in range(num_replicas):
        begin(replica, 0, 0.0)
    for _ in range(60 * num_replicas):
        now, replica, batch, calls = heapq.heappop(under_way)
        for number, call in enumerate(calls):
            num_running = len(calls) - number + num_foreign
            step = Step(
                "a", (1,) * NUM_TOKENS, "v", Ending.BOUNDARY, replica=f"target-{replica}", num_running=num_running
            )
            estimates.step(call, step, now)
            estimates.end(call, now)
        begin(replica, batch + 1, now)
    return estimates


def chosen(estimates: Estimates, num_replicas: int) -> set[int]:
    conditions = Conditions(
        estimates.target_cost,
        estimates.draft_cost,
        target_others=estimates.target.others,
        num_targets=estimates.target.num_replicas,
    )
    return set(choose(conditions, [Candidate(0.8, 8)] * (USERS_A_REPLICA * num_replicas), 24.0))


@pytest.mark.parametrize("num_replicas", [2, 4, 8])
def test_the_same_load_for_each_replica_gives_the_same_depth(num_replicas: int) -> None:
    one, many = learn(1), learn(num_replicas)
    assert max(chosen(one, 1)) > 1
    assert chosen(many, num_replicas) == chosen(one, 1)


@pytest.mark.parametrize("num_replicas", [1, 4, 8])
def test_a_step_costs_what_the_batch_of_its_own_replica_makes_it_cost(num_replicas: int) -> None:
    cost = learn(num_replicas).target_cost
    for num in LOADS:
        assert cost.window_s(num) == pytest.approx(token_s(num), rel=0.1)


@pytest.mark.parametrize(("num_replicas", "num_foreign"), [(1, 0), (4, 0), (8, 0), (1, 3), (4, 3)])
def test_unequal_replicas_are_not_taken_for_the_load_of_others(num_replicas: int, num_foreign: int) -> None:
    assert learn(num_replicas, num_foreign).target.others == pytest.approx(num_foreign, abs=0.05)


def test_a_step_is_timed_with_the_others_that_are_there_now() -> None:
    """The choice goes by how many there are on average; what a step took, by those beside it."""
    engine = Engine()
    engine.begin(0.0)
    engine.place("", "target-0", 0.0)
    for number in range(44):
        engine.saw("target-0", 1 if number < 40 else 9, float(number))
    assert engine.others < 2.0
    assert engine.mean_sequences("target-0", engine.mark(43.0), 44.0) == pytest.approx(9.0, abs=2.0)


def test_a_stream_shows_who_else_is_there() -> None:
    estimates = Estimates()
    estimates.begin("stream", 0.0, is_target=True)
    for number in range(1, 9):
        delta = Delta("a" * 8, (1,) * 8, Ending.BOUNDARY, "target-0", num_running=5)
        estimates.streamed("stream", delta, float(number))
    assert estimates.target.others == pytest.approx(4.0)
    assert estimates.target.num_sequences == pytest.approx(5.0)


def test_calls_that_have_not_arrived_are_not_made_up_for() -> None:
    """One that is counted before the engine has it weighs as much as one that the engine still has after it was
    cancelled."""
    engine = Engine()
    for _ in range(4):
        engine.begin(0.0)
        engine.place("", "target-0", 0.0)
    for num_running in (3, 5) * 20:
        engine.saw("target-0", num_running, 0.0)
    assert engine.others == pytest.approx(0.0, abs=0.1)


def test_a_call_that_goes_on_elsewhere_leaves_the_replica_where_it_was() -> None:
    estimates = Estimates()
    estimates.begin("call", 0.0, is_target=True)
    estimates.progress("call", Delta("a", (1,), replica="target-0"), 1.0)
    estimates.progress("call", Delta("a", (1,), replica="target-1"), 2.0)
    estimates.end("call", 5.0)
    mark, target = Estimates().target.mark(0.0), estimates.target
    assert target.mean_sequences("target-0", mark, 10.0) == pytest.approx(0.15)
    assert target.mean_sequences("target-1", mark, 10.0) == pytest.approx(0.35)


def work(engine: Engine, replica: str, since: float, until: float) -> None:
    """Calls of a second in `replica`, one after the other."""
    while since < until:
        engine.begin(since)
        engine.place("", replica, since)
        since += 1.0
        engine.saw(replica, 1, since)
        engine.end(replica, since)


def test_a_replica_that_is_gone_is_forgotten_and_one_that_comes_back_is_as_new() -> None:
    engine = Engine()
    for number in range(4):
        work(engine, f"target-{number}", 0.0, 1.0)
    before = engine.mark(1.0)
    assert engine.num_replicas == 4
    work(engine, "target-0", 1000.0, 1001.0)
    assert engine.num_replicas == 4, "where nobody asks nobody is gone"
    work(engine, "target-0", 1001.0, 2001.0)
    assert engine.num_replicas == 1
    engine.begin(2001.0)
    engine.place("", "target-3", 2001.0)
    assert engine.num_replicas == 2
    assert engine.mean_sequences("target-3", before, 2003.0) == pytest.approx(2.0 / 2002.0)


def test_any_number_of_replicas_that_come_and_go_leaves_few() -> None:
    engine = Engine()
    for number in range(1000):
        work(engine, "target", 10.0 * number, 10.0 * number + 9.0)
        work(engine, f"target-{number}", 10.0 * number + 9.0, 10.0 * number + 10.0)
    assert engine.num_replicas < 40
    assert len(engine.mark(10_000.0).placed) < 40
