"""What a committed step costs the controller, by the number of requests."""

from __future__ import annotations

from functools import partial

import pytest

from actors.messages import Ending, Step
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.pacer import Manner, Pacer
from deployments.coordinator.events import Basis, Outcome, Placed, Retired
from tests.unit.num_calls import num_calls

STEP = Step("So 3. ", (1,) * 10, "v", Ending.BOUNDARY)
MOST = 512
"""Sequences in a batch that costs the target no more than one."""


def requests(num: int, *, knows_alone: bool, probe_share: float = 0.0) -> list[Pacer]:
    """So many requests at once, on engines of which all is measured but, perhaps, what the target does alone."""
    controller = Controller(probe_share)
    for _ in range(10):
        for batch in (1.0, float(MOST)):
            controller.estimates.target_cost.add_window(batch, 0.1)
            controller.estimates.draft_cost.add(batch, 0.01)
        if knows_alone:
            controller.estimates.target_cost.add_stream(float(num), 0.1)
    return [controller.open(str(number), Manner(8), lambda: 0.0) for number in range(num)]


def commit(pacers: list[Pacer], rounds: range) -> None:
    """An accepted step of each request, so many times."""
    for at in rounds:
        for pacer in pacers:
            pacer.on_command(Placed(at, 0, STEP))
            pacer.on_command(Retired(at, Outcome.ACCEPTED, at, Basis(STEP)))


@pytest.mark.parametrize(
    ("num_before", "knows_alone"), [(5, True), (40, True), (40, False)], ids=["young", "nothing to try", "too dear"]
)
def test_a_step_of_many_requests_costs_no_more_than_one_of_few(num_before: int, knows_alone: bool) -> None:
    """Also where it is time to try something, and there is nothing to be tried or it would cost too much."""
    cost = []
    for num in (6, 48):
        pacers = requests(num, knows_alone=knows_alone)
        commit(pacers, range(num_before))
        reasons = [pacer.decision.reason for pacer in pacers]
        asked = num_calls(partial(commit, pacers, range(num_before, num_before + 4)))
        cost.append(asked / (4 * num))
        assert all("looking ahead pays" in reason for reason in reasons)
        assert [pacer.decision.reason for pacer in pacers] == reasons
    assert cost[1] < 1.2 * cost[0]


def test_what_was_too_dear_is_tried_as_soon_as_it_can_be_afforded() -> None:
    """By many requests as soon as by one, which is asked at each of its steps."""
    steps = []
    for num in (1, 5):
        pacers = requests(num, knows_alone=False, probe_share=0.05)
        tried = (at for at in range(400) if try_alone(pacers, at))
        steps.append(next(tried))
    assert steps[0] > 60, "it was too dear at first"
    assert abs(steps[1] - steps[0]) <= 2


def try_alone(pacers: list[Pacer], at: int) -> bool:
    commit(pacers, range(at, at + 1))
    return any("trying out the target alone" in pacer.decision.reason for pacer in pacers)
