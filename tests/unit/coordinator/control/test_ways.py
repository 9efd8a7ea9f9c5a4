"""Guided, or in a window; and whether hints pay at all."""

from __future__ import annotations

import pytest

from actors.messages import Delta, Ending, Prefix, StepRequest, StepRule
from deployments.coordinator.control.batch_cost import TargetCost
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.estimates import Streaming
from deployments.coordinator.control.guidance import MOST_FIRST_STEPS, STEPS_APART, TRY_STEPS, Guidance
from deployments.coordinator.control.pacer import Manner, Pacer
from deployments.coordinator.control.ways import FIRST_TRY, LEAST_TOKENS, LEAST_WINDOWS, TRY_EVERY, Ways
from deployments.coordinator.events import StartStream, Streamed

UNTIL_KNOWN = LEAST_WINDOWS * FIRST_TRY + 1
"""After so many requests alone both ways are compared, if windows are the faster ones."""


def live(ways: Ways, num_requests: int, guided_s: float, window_s: float) -> list[bool]:
    """Which of so many requests alone were guided, a token taking so long in either way."""
    chosen = []
    for _ in range(num_requests):
        guided = ways.guides(0, hints_pay=True)
        ways.finished(guided, 200, 200 * (guided_s if guided else window_s))
        chosen.append(guided)
    return chosen


def test_the_first_requests_are_guided_and_then_a_window_is_tried() -> None:
    assert live(Ways(), FIRST_TRY + 1, 0.02, 0.03) == [True] * FIRST_TRY + [False]


def test_one_window_that_was_faster_by_chance_changes_nothing() -> None:
    ways = Ways()
    live(ways, FIRST_TRY, 0.02, 0.01)
    assert not ways.guides(0, hints_pay=True)
    ways.finished(False, 200, 200 * 0.01)
    assert live(ways, 2 * TRY_EVERY, 0.02, 0.025).count(False) == 2


def test_the_faster_way_is_taken_and_the_other_one_tried_now_and_then() -> None:
    slow = live(Ways(), FIRST_TRY + 1 + 3 * TRY_EVERY, 0.02, 0.03)
    assert slow.count(False) == 4
    fast = live(Ways(), UNTIL_KNOWN + 3 * TRY_EVERY, 0.03, 0.02)
    assert fast.count(True) == UNTIL_KNOWN - LEAST_WINDOWS + 3


def test_a_window_must_be_clearly_faster() -> None:
    assert live(Ways(), UNTIL_KNOWN + 20, 0.0201, 0.02).count(False) == LEAST_WINDOWS


def test_one_request_that_was_held_up_changes_nothing() -> None:
    ways = Ways()
    live(ways, FIRST_TRY + 2, 0.04, 0.05)
    for _ in range(LEAST_WINDOWS):
        ways.finished(False, 200, 200 * 0.05)
    ways.finished(True, 200, 200 * 0.04 + 40.0)
    assert ways.guides(0, hints_pay=True)


def test_another_kind_of_text_is_noticed() -> None:
    ways = Ways()
    live(ways, 10, 0.02, 0.04)
    later = live(ways, 5 * TRY_EVERY, 0.06, 0.02)
    assert later[-10:].count(True) <= 1


def test_beside_others_and_without_hints_that_pay_nothing_is_tried() -> None:
    ways = Ways()
    live(ways, UNTIL_KNOWN, 0.03, 0.02)
    assert not ways.guides(0, hints_pay=True)
    assert ways.guides(1, hints_pay=True)
    assert ways.guides(0, hints_pay=False)


def test_requests_with_a_verifier_are_guided_until_windows_were_faster() -> None:
    ways = Ways(is_exact=False)
    assert ways.guides(1, hints_pay=True), "nothing is known"
    assert not ways.guides(0, hints_pay=False), "there is nothing to be guided by"
    assert live(ways, UNTIL_KNOWN, 0.03, 0.02)[: FIRST_TRY + 1] == [True] * FIRST_TRY + [False]
    assert not ways.guides(1, hints_pay=True)
    live(ways, 5 * TRY_EVERY, 0.02, 0.03)
    assert ways.guides(1, hints_pay=True)


def test_where_hints_do_not_pay_one_request_in_many_finds_out_whether_they_do_again() -> None:
    ways = Ways(is_exact=False)
    assert [ways.guides(0, hints_pay=False) for _ in range(2 * TRY_EVERY)].count(True) == 2


def test_short_requests_say_nothing() -> None:
    ways = Ways()
    for _ in range(50):
        assert ways.guides(0, hints_pay=True)
        ways.finished(True, LEAST_TOKENS - 1, 1.0)


def play(
    guidance: Guidance, num_steps: int, alone_s: float, guided_s: float, num_sequences: float = 1.0, stalls: str = ""
) -> list[bool]:
    """Whether each step of one request was guided. The first one in the way `stalls` takes 0.8 s a token longer."""
    taken: list[bool] = []
    for _ in range(num_steps):
        guides, _, _ = guidance.decide(num_sequences, 1)
        stall_s = 0.8 if stalls == ("guided" if guides else "alone") and guides not in taken else 0.0
        token_s = (guided_s if guides else alone_s) + stall_s
        guidance.streamed(Streaming(20, num_sequences, token_s, True), guides)
        taken.append(guides)
    return taken


def test_a_fresh_server_measures_the_target_alone_and_then_guides() -> None:
    steps = play(Guidance(TargetCost(), 0.007), STEPS_APART, 0.1, 0.05)
    assert steps == [False, False] + [True] * (STEPS_APART - 2)


def test_hints_that_cost_much_are_given_up_at_once() -> None:
    steps = play(Guidance(TargetCost(), 0.007), STEPS_APART, 0.1, 0.2)
    assert steps == [False, False, True, True] + [False] * (STEPS_APART - 4)


def test_what_does_not_pay_by_far_is_tried_seldom() -> None:
    guidance = Guidance(TargetCost(), 0.007)
    steps = play(guidance, 2000, 0.1, 0.2)
    assert 0.001 * 2000 < steps.count(True) <= 0.008 * 2000


def test_a_stall_in_the_first_step_with_hints_does_not_decide_for_long() -> None:
    steps = play(Guidance(TargetCost(), 0.007), 600, 0.05, 0.03, stalls="guided")
    assert all(steps[300 : STEPS_APART * 4])
    assert steps.count(True) > 0.7 * len(steps)


def test_a_stall_in_the_first_step_without_hints_does_not_decide_for_long() -> None:
    steps = play(Guidance(TargetCost(), 0.007), 600, 0.05, 0.06, stalls="alone")
    assert steps[200:].count(True) <= 0.1 * 400


def until_alone_is_tried(guidance: Guidance, alone_s: float, guided_s: float) -> None:
    """Hints pay, and a try of the target alone has begun: one step of it is streamed."""
    play(guidance, 3, alone_s, guided_s)
    while guidance.guides:
        play(guidance, 1, alone_s, guided_s)


def test_what_is_tried_is_not_what_pays() -> None:
    guidance = Guidance(TargetCost(), 0.007)
    assert guidance.pays, "it is supposed to"
    until_alone_is_tried(guidance, 0.1, 0.05)
    assert guidance.pays, "the target alone is tried"
    play(guidance, TRY_STEPS + 2, 0.1, 0.05)
    assert guidance.guides
    assert guidance.pays
    play(guidance, 400, 0.1, 0.3)
    assert not guidance.guides
    assert not guidance.pays


@pytest.mark.parametrize("gain", [1.02, 1.05, 1.10, 2.0])
def test_after_a_try_the_way_that_was_faster_goes_on_at_once(gain: float) -> None:
    """However little faster: whoever begins meanwhile gets the way that was measured to be so."""
    guidance = Guidance(TargetCost(), 0.007)
    until_alone_is_tried(guidance, 0.1 * gain, 0.1)
    taken = []
    for _ in range(2 * TRY_STEPS):
        assert guidance.pays
        taken += play(guidance, 1, 0.1 * gain, 0.1)
    assert taken == [False] * (TRY_STEPS - 1) + [True] * (TRY_STEPS + 1)


@pytest.mark.parametrize("way", ["guided", "alone"])
def test_a_try_that_could_not_be_measured_changes_nothing(way: str) -> None:
    guidance = Guidance(TargetCost(), 0.007)
    play(guidance, STEPS_APART, 0.1, 0.05 if way == "guided" else 0.2)
    former = guidance.guides
    assert former is (way == "guided")
    while guidance.decide(1.0, 1)[0] is former:
        guidance.streamed(Streaming(20, 1.0, 0.05 if former else 0.1, True), former)
    for _ in range(TRY_STEPS):
        guides, reason, _ = guidance.decide(1.0, 1)
    assert guides is former
    assert guidance.pays is former
    assert reason.startswith("hints from the draft " + ("are supposed to pay" if former else "did not pay"))


def test_several_requests_know_sooner() -> None:
    guidance, taken = Guidance(TargetCost(), 0.007), []
    for _ in range(8 * 20):
        guides, _, _ = guidance.decide(8.0, 8)
        guidance.streamed(Streaming(20, 8.0, 0.3 if guides else 0.2, True), guides)
        taken.append(guides)
    assert taken.index(True) < 8
    assert taken.count(True) < 8, "not even a step of each"


def test_hints_are_given_where_nothing_is_learnt_of_the_target_alone() -> None:
    guidance = Guidance(TargetCost(), 0.007)
    decided = [guidance.decide(1.0, 1)[0] for _ in range(2 * MOST_FIRST_STEPS)]
    assert decided.index(True) == MOST_FIRST_STEPS - 1


def test_what_requests_for_the_target_alone_have_shown_is_not_tried() -> None:
    guidance = Guidance(TargetCost(), 0.007)
    for _ in range(10):
        guidance.streamed(Streaming(20, 1.0, 0.1, True), guided=False)
    assert all(play(guidance, 5 * STEPS_APART, 0.1, 0.05))
    assert not all(play(guidance, STEPS_APART, 0.1, 0.05)), "but now and then it is"


def test_hints_that_cost_more_than_they_give_are_stopped() -> None:
    guidance = Guidance(TargetCost(), 0.007)
    steps = play(guidance, 600, 0.1, 0.12)
    assert steps.count(True) <= 0.05 * 600
    _, reason, speed_up = guidance.decide(1.0, 1)
    assert "do not pay" in reason
    assert speed_up == 1.0


def test_it_is_tried_again_now_and_then() -> None:
    guidance = Guidance(TargetCost(), 0.007)
    play(guidance, 200, 0.1, 0.12)
    later = play(guidance, 400, 0.1, 0.05)
    assert all(later[-50:])


def test_with_more_users_at_once_it_is_decided_anew() -> None:
    """Alone hints pay; with forty sequences a pass has no room for them."""
    guidance = Guidance(TargetCost(), 0.007)
    play(guidance, 100, 0.1, 0.05, 1.0)
    crowd = play(guidance, 500, 0.2, 0.3, 40.0)
    assert crowd[-200:].count(True) <= 0.05 * 500
    assert play(guidance, 400, 0.1, 0.05, 1.0)[-200:].count(False) <= 0.05 * 400


GUIDED, ANSWERING = Manner(4, is_guided=True), Manner(0)


def opened(*manners: Manner) -> tuple[Controller, list[Pacer]]:
    """A controller that knows the target alone, with a request of each manner."""
    controller = Controller()
    for _ in range(3):
        controller.estimates.target_cost.add_stream(2.0, 0.1)
    return controller, [controller.open(str(number), manner, lambda: 0.0) for number, manner in enumerate(manners)]


def test_a_stream_beside_guided_ones_says_nothing_of_the_target_alone() -> None:
    controller, (guided, answering) = opened(GUIDED, ANSWERING)
    cost = controller.estimates.target_cost
    assert guided.decision.depth > 0
    before = cost.num_streamed
    controller.streamed(answering, Streaming(20, 2.0, 0.3, True))
    assert cost.num_streamed == before
    guided.can_draft = False
    controller.streamed(answering, Streaming(20, 2.0, 0.3, True))
    assert cost.num_streamed > before, "the draft is lost: nobody has hints"


def test_a_stream_beside_one_that_is_always_guided_says_nothing_of_the_target_alone() -> None:
    """With `controller: false` nobody decides on its hints."""
    controller, (always, answering) = opened(Manner(0, is_guided=True), ANSWERING)
    cost = controller.estimates.target_cost
    before = cost.num_streamed
    controller.streamed(answering, Streaming(20, 2.0, 0.3, True))
    controller.streamed(always, Streaming(20, 2.0, 0.3, True))
    assert cost.num_streamed == before
    always.on_command(StartStream(0, StepRequest("c", "s", Prefix((1,)), StepRule(), 9)))
    always.on_event(Streamed(0, Delta("</think>", (1,), ending=Ending.CLOSE)))
    controller.streamed(answering, Streaming(20, 2.0, 0.3, True))
    assert cost.num_streamed > before, "the reasoning is closed: it has hints no more"


def test_the_target_alone_is_measured_beside_requests_that_always_stream() -> None:
    """Four guided requests and four that answer, by turns. Hints cost all of them more than they give."""
    controller, pacers = opened(*[GUIDED] * 4, *[ANSWERING] * 4)
    with_hints = []
    for _ in range(300):
        hinted = any(pacer.takes_hints for pacer in pacers)
        with_hints.append(hinted)
        for pacer in pacers:
            controller.streamed(pacer, Streaming(20, 8.0, 0.15 if hinted else 0.1, True))
            controller.decide(pacer)
    assert with_hints.count(True) <= 0.05 * len(with_hints)
    assert controller.estimates.target_cost.stream_s(8.0) == pytest.approx(0.1, rel=0.1)


def test_requests_without_a_draft_make_tries_no_rarer() -> None:
    controller, pacers = opened(*[GUIDED] * 8)
    for pacer in pacers[1:]:
        pacer.can_draft = False
        controller.decide(pacer)
    depths = []
    for _ in range(2 * STEPS_APART):
        controller.streamed(pacers[0], Streaming(20, 8.0, 0.05 if pacers[0].takes_hints else 0.1, True))
        controller.decide(pacers[0])
        depths.append(pacers[0].decision.depth)
    assert depths.count(0) == TRY_STEPS


def ask(controller: Controller, name: str, is_sampled: bool) -> list[bool]:
    """Whether each step of a request had hints, alone in the batch. They come true where nothing is sampled."""
    pacer, taken = controller.open(name, Manner(4, is_guided=True, is_sampled=is_sampled), lambda: 0.0), []
    for _ in range(40):
        taken.append(pacer.takes_hints)
        with_hints_s = 0.125 if is_sampled else 0.05
        controller.streamed(pacer, Streaming(20, 1.0, with_hints_s if pacer.takes_hints else 0.1, True))
        pacer.num_steps += 1
        controller.decide(pacer)
    pacer.close()
    return taken


def test_hints_that_pay_for_greedy_requests_are_not_given_to_sampled_ones() -> None:
    controller = Controller()
    greedy, sampled = [], []
    for number in range(10):
        greedy += ask(controller, f"greedy {number}", is_sampled=False)
        sampled += ask(controller, f"sampled {number}", is_sampled=True)
    assert greedy.count(False) <= 0.05 * len(greedy)
    assert sampled.count(True) <= 0.1 * len(sampled)


def test_greedy_and_sampled_requests_at_once_go_the_same_way() -> None:
    controller, (greedy, sampled) = opened(GUIDED, Manner(4, is_guided=True, is_sampled=True))
    ways = set()
    for _ in range(2 * STEPS_APART):
        for pacer in (greedy, sampled):
            assert greedy.takes_hints == sampled.takes_hints
            ways.add(greedy.takes_hints)
            controller.streamed(pacer, Streaming(20, 2.0, 0.08 if pacer.takes_hints else 0.1, True))
            pacer.num_steps += 1
            controller.decide(pacer)
    assert ways == {True, False}, "the target alone was tried"
