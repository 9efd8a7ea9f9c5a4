"""What is learnt of the target alone, from which requests, and what need not be tried for that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.messages import Ending, Prompt, Step
from deployments.coordinator.control.batch_cost import TargetCost
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.estimates import Estimates, Streaming
from deployments.coordinator.control.guidance import MOST_SKIPPED, STEPS_APART, TRY_STEPS, Guidance
from deployments.coordinator.control.pacer import Manner
from deployments.generation import Finished
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import Bench, config, request
from tests.unit.coordinator.control.test_ways import GUIDED, opened, play
from tests.unit.coordinator.test_controlled import HINTED, LONG

# --- tries that need not be made -------------------------------------------------------------------------------------


def stream(guidance: Guidance, num_steps: int, token_s: float) -> None:
    """A request that wants the target alone, while no other one has hints."""
    for _ in range(num_steps):
        guidance.streamed(Streaming(20, 1.0, token_s, True), guided=False)


def test_a_fresh_server_tries_the_target_alone_once_more_and_then_seldom() -> None:
    """Two steps said that hints double the pace; a try costs as much as they gain in four steps."""
    steps = play(Guidance(TargetCost(), 0.007), 1000, 0.1, 0.05)
    assert False in steps[STEPS_APART : 2 * STEPS_APART]
    assert steps.count(False) == 2 + TRY_STEPS


def test_a_try_that_was_answered_by_requests_for_the_target_alone_is_left_out() -> None:
    """Between any two tries there is such a request; now and then it is tried all the same."""
    guidance, steps = Guidance(TargetCost(), 0.007), []
    for _ in range(12):
        steps += play(guidance, STEPS_APART // 2, 0.11, 0.1)
        stream(guidance, 2 * TRY_STEPS, 0.11)
    assert steps.count(False) == 2 + TRY_STEPS
    assert all(steps[2 : MOST_SKIPPED * STEPS_APART])


def test_a_target_that_has_become_faster_is_noticed_in_requests_for_it_alone() -> None:
    guidance = Guidance(TargetCost(), 0.007)
    stream(guidance, 60, 0.11)
    play(guidance, STEPS_APART // 2, 0.11, 0.1)
    assert guidance.guides
    stream(guidance, 2 * TRY_STEPS, 0.08)
    assert not all(play(guidance, 6, 0.08, 0.1)), "long before it would have been tried"


# --- what the target guesses inside a step ---------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "counts"), [("hints", True), ("ngram", True), ("none", False)])
def test_only_streams_that_look_the_text_up_are_what_guided_requests_are_without_hints(wish: str, counts: bool) -> None:
    controller, (plain,) = opened(Manner(0, token_speculation=wish))
    before = controller.estimates.target_cost.num_streamed
    controller.streamed(plain, Streaming(20, 2.0, 0.3, True))
    assert (controller.estimates.target_cost.num_streamed > before) is counts


def test_hints_that_only_beat_a_target_which_looks_nothing_up_are_withdrawn() -> None:
    controller = Controller()
    plain = controller.open("plain", Manner(0, token_speculation="none"), lambda: 0.0)
    for _ in range(40):
        controller.streamed(plain, Streaming(20, 1.0, 0.14, True))
        controller.decide(plain)
    plain.close()
    guided, hinted = controller.open("guided", GUIDED, lambda: 0.0), []
    for _ in range(STEPS_APART):
        hinted.append(guided.takes_hints)
        controller.streamed(guided, Streaming(20, 1.0, 0.12 if guided.takes_hints else 0.1, True))
        controller.decide(guided)
    assert hinted.count(True) <= 0.05 * len(hinted)


def written(wish: str, token_s: float) -> Estimates:
    """One window that wishes for `wish`."""
    estimates = Estimates()
    estimates.begin("call", 0.0, is_target=True, token_speculation=wish)
    estimates.step("call", Step("a", (1,) * 10, "v", Ending.BOUNDARY), 10 * token_s)
    return estimates


@pytest.mark.parametrize("wish", ["hints", "ngram", "none"])
def test_windows_teach_what_windows_with_the_same_wish_take(wish: str) -> None:
    estimates = written(wish, 0.3)
    known = {other for other in ("hints", "ngram", "none") if estimates.target_cost_of(other).is_known}
    assert known == {wish}
    assert estimates.target_cost_of(wish).window_s(1.0) == pytest.approx(0.3)


@pytest.mark.parametrize("wish", ["ngram", "none"])
def test_a_depth_rests_on_the_times_of_requests_with_the_same_wish(wish: str) -> None:
    """Where the target is as fast as the draft a window gains nothing; with the other wish it is much slower."""
    controller = Controller()
    for _ in range(10):
        controller.estimates.draft_cost.add(1.0, 0.1)
        for size in (1.0, 2.0, 4.0):
            controller.estimates.target_cost.add_window(size, 0.1)
            controller.estimates.target_cost_of(wish).add_window(size, 0.4)
    alone = controller.open("usual", Manner(4), lambda: 0.0)
    ahead = controller.open("other", Manner(4, token_speculation=wish), lambda: 0.0)
    assert alone.decision.depth == 0
    assert ahead.decision.depth > 1


@pytest.mark.parametrize("takes_hints", [True, False])
def test_the_wish_counts_where_the_engine_takes_notice_of_it(takes_hints: bool) -> None:
    options = HINTED if takes_hints else LONG
    bench = Bench(options, replace(options, role="draft"), config(controller={"enabled": True}))

    async def scene() -> Controller:
        coordinator = await bench.coordinator()
        one = request(mode="target", token_speculation="none", prompt=Prompt(text="Question?"))
        outputs = [output async for output in coordinator.generate(one)]
        assert isinstance(outputs[-1], Finished)
        assert coordinator._controller is not None
        return coordinator._controller

    controller = run_virtually(scene())
    assert (controller.estimates.target_cost.num_streamed > 0) is not takes_hints
