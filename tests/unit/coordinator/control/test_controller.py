"""What the controller does over time: it measures first, reacts, does not flap, and tries little."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import simpy

from deployments.coordinator.control.controller import BASELINE_STEPS, MIN_DWELL, Controller
from deployments.coordinator.control.pacer import Manner
from deployments.coordinator.events import Command, Decision, Event, Retired, Streamed
from deployments.coordinator.pipeline import Observer
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.controller_grid import Cell, run_controlled
from deployments.simulation.driver import measure_fast
from deployments.simulation.scripts import Agreement, StepPair
from deployments.simulation.workload import Opening


@dataclass
class Diary:
    """The depth at which each step of a request was committed, and the decisions."""

    def __post_init__(self) -> None:
        self.depths: list[int] = []
        self.decisions: list[Decision] = []

    def on_command(self, command: Command) -> None:
        if isinstance(command, Decision):
            self.decisions.append(command)
        elif isinstance(command, Retired) and command.step is not None:
            self._commit()

    def on_event(self, event: Event) -> None:
        if isinstance(event, Streamed) and event.delta.ending is not None:
            self._commit()

    def _commit(self) -> None:
        self.depths.append(self.decisions[-1].depth if self.decisions else 0)

    @property
    def num_changes(self) -> int:
        return sum(a != b for a, b in pairwise(self.depths))


def write(cell: Cell, num_steps: int) -> Diary:
    """One user's steps, as one long request."""
    diary = Diary()
    watch = lambda _: (diary,)  # noqa: E731
    run_controlled(replace(cell, steps_per_request=num_steps + 1), num_steps, watch)
    return diary


def test_the_target_alone_is_measured_first() -> None:
    diary = write(Cell(0.8, 0.2, 0.0), 60)
    assert diary.decisions[0].depth == 0
    assert "measured first" in diary.decisions[0].reason
    first = next(i for i, depth in enumerate(diary.depths) if depth)
    assert BASELINE_STEPS <= first <= BASELINE_STEPS + 2


def test_it_goes_as_deep_as_it_pays_within_few_steps() -> None:
    diary = write(Cell(0.9, 0.1, 0.0), 120)
    assert max(diary.depths[:25]) >= 4
    assert sum(diary.depths[60:]) / 60 >= 6


def test_decisions_say_why() -> None:
    diary = write(Cell(0.6, 0.2, 0.1), 200)
    looking = [decision for decision in diary.decisions if decision.depth]
    assert any("acceptance 0." in d.reason and "of a target step" in d.reason for d in looking)
    assert all(decision.reason for decision in diary.decisions)
    assert max(decision.predicted_speed_up for decision in looking) > 1.2


@pytest.mark.parametrize(("alpha", "share"), [(0.6, 0.15), (0.5, 0.3), (0.75, 1.0), (0.3, 0.05)])
def test_it_does_not_flap(alpha: float, share: float) -> None:
    """Near break-even too: on average a depth lasts for ten steps or more, and nearly never for less than the dwell."""
    diary = write(Cell(alpha, 0.2, share), 800)
    assert diary.num_changes <= 80
    lengths, start = [], 0
    for i, (a, b) in enumerate(pairwise(diary.depths), 1):
        if a != b:
            lengths.append(i - start)
            start = i
    short = sum(length < MIN_DWELL for length in lengths)
    assert short <= max(0.2 * len(lengths), 2)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_where_nothing_is_accepted_little_is_tried(share: float) -> None:
    diary = write(Cell(0.0, 0.1, share), 800)
    assert sum(depth > 0 for depth in diary.depths) <= 0.05 * 800
    assert any("trying out" in decision.reason for decision in diary.decisions)


def test_the_target_alone_is_measured_again_now_and_then() -> None:
    diary = write(Cell(0.9, 0.1, 0.0), 1500)
    tries = [decision for decision in diary.decisions if "trying out the target alone" in decision.reason]
    assert 1 <= len(tries) <= 12


@dataclass(frozen=True)
class Turning:
    """Agreed on up to a step, and never after it; or the other way round."""

    turn: int
    first: bool

    @property
    def num_steps(self) -> int:
        return 10**6

    def pair(self, index: int, attempt: int) -> StepPair:
        agreed = (index < self.turn) is self.first
        return StepPair(10, 10, Agreement.EQUAL if agreed else Agreement.DIFFERENT)


def follow(text: Turning, cell: Cell, num_steps: int) -> Diary:
    diary = Diary()

    def opening(env: simpy.Environment) -> Opening:
        controller = Controller()

        def open_request(settings: SessionSettings) -> tuple[Session, tuple[Observer, ...]]:
            pacer = controller.open(settings.session_id, Manner(8), lambda: env.now)
            return Session(settings, pacer.decide), (pacer, diary)

        return open_request

    measure_fast(cell.machine(), cell.settings(8), 1, num_steps, lambda _: text, opening)
    return diary


def test_it_stops_within_few_steps_where_the_draft_loses_the_thread() -> None:
    diary = follow(Turning(150, first=True), Cell(0.0, 0.1, 0.3), 220)
    assert max(diary.depths[140:150]) > 0
    assert max(diary.depths[175:]) == 0


def test_it_goes_on_where_the_draft_finds_the_thread_again() -> None:
    """Found by trying, so later: what may be lost to trying is bounded."""
    diary = follow(Turning(150, first=False), Cell(0.0, 0.1, 0.05), 700)
    assert sum(diary.depths[100:150]) <= 10
    assert min(diary.depths[600:]) > 0


def test_requests_that_never_speculate_are_load_only() -> None:
    controller = Controller()
    pacer = controller.open("r", Manner(0), lambda: 0.0)
    assert pacer.decide().depth == 0
    assert "alone" in pacer.decide().reason
    pacer.close()
    pacer.close()


def test_closed_requests_leave_nothing_behind() -> None:
    controllers: list[Controller] = []
    cell = Cell(0.6, 0.2, 0.05, users=4, steps_per_request=5)

    def opening(env: simpy.Environment) -> Opening:
        controllers.append(Controller())

        def open_request(settings: SessionSettings) -> tuple[Session, tuple[Observer, ...]]:
            pacer = controllers[0].open(settings.session_id, Manner(8), lambda: env.now)
            return Session(settings, pacer.decide), (pacer,)

        return open_request

    measure_fast(cell.machine(), cell.settings(8), cell.users, 400, cell.script, opening)
    estimates = controllers[0].estimates
    assert len(controllers[0]._pacers) <= cell.users
    assert estimates.target.meter.num <= cell.users * 9
    assert estimates.draft.meter.num <= cell.users
