"""A verifier that gives no verdicts says nothing of the draft's steps, and nothing is speculated until it is back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from actors.errors import RoleUnavailable
from actors.messages import Delta, Ending, JudgeRequest, Prefix, Prompt, Step, StepRequest, StepRule, Verdict
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.pacer import FIRST_REST, MOST_MISSED, MOST_REST, Manner, Pacer
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.events import (
    Judge,
    Judged,
    Outcome,
    Placed,
    Retired,
    StartStream,
    StartTarget,
    Streamed,
    TargetStep,
)
from deployments.generation import Finished
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import Bench, config, request
from tests.unit.coordinator.test_controlled import LONG

WORDS = Step("w", (1,) * 10, "v", Ending.BOUNDARY)
REQUEST = StepRequest("c", "s", Prefix((1,)), StepRule(), 9)
ASKED = JudgeRequest("s", "v", "?", "", WORDS, WORDS)
YES, NO = Verdict(True, "v", "yes"), Verdict(False, "v", "no")


class Play:
    """One request, event by event."""

    def __init__(self) -> None:
        self.now = 0.0
        self.controller = Controller()
        self.pacer: Pacer = self.controller.open("r", Manner(4, "v"), lambda: self.now)
        self._num_calls = 0

    def judge(self, verdict: Verdict = NO, degraded: str | None = None, waited_s: float = 0.0) -> None:
        """A step in the window, on whose draft there is this verdict."""
        pacer, target, call = self.pacer, self._call(), self._call()
        pacer.on_command(StartTarget(target, target, REQUEST))
        pacer.on_command(Placed(target, 0, WORDS))
        self.now += 1.0
        pacer.on_event(TargetStep(target, WORDS))
        pacer.on_command(Judge(call, target, ASKED))
        self.now += waited_s
        pacer.on_event(Judged(call, verdict, degraded))
        outcome = Outcome.ACCEPTED if verdict.accepted else Outcome.RECOVERED
        pacer.on_command(Retired(target, outcome, pacer.num_steps))

    def stream(self) -> int:
        """Steps that the target streams until it is to look ahead."""
        call, num_before = self._call(), self.pacer.num_steps
        self.pacer.on_command(StartStream(call, REQUEST))
        while self.pacer.decision.depth == 0:
            self.now += 1.0
            self.pacer.on_event(Streamed(call, Delta("w", WORDS.token_ids, ending=Ending.BOUNDARY)))
        return self.pacer.num_steps - num_before

    def _call(self) -> int:
        self._num_calls += 1
        return self._num_calls


FAILED = [
    (NO, "verifier_failed"),
    (NO, "verifier_late"),
    (NO, "verifier_left_alone"),
    (Verdict(False, "v", "a check broke", has_failed=True), None),
]


@pytest.mark.parametrize(("verdict", "degraded"), FAILED)
def test_a_verdict_that_was_not_given_says_nothing_of_the_draft(verdict: Verdict, degraded: str | None) -> None:
    play = Play()
    for _ in range(10):
        play.judge(YES, waited_s=0.5)
    estimates = play.controller.estimates
    known = estimates.alpha("v").value, play.pacer.alpha, estimates.verdict_tokens_s("v")
    assert known[2] > 0.0
    for _ in range(10):
        play.judge(verdict, degraded)
    assert (estimates.alpha("v").value, play.pacer.alpha, estimates.verdict_tokens_s("v")) == known
    play.judge(NO)
    assert estimates.alpha("v").value < known[0], "the verifier says no itself"


@pytest.mark.parametrize(("verdict", "degraded"), FAILED)
def test_the_target_streams_for_a_while_after_verdicts_that_were_not_given(
    verdict: Verdict, degraded: str | None
) -> None:
    play = Play()
    for number in range(MOST_MISSED):
        assert play.pacer.decision.depth > 0, f"{number} of them are no reason"
        play.judge(verdict, degraded)
    assert play.pacer.decision.depth == 0
    assert "verifier" in play.pacer.decision.reason
    rests = [play.stream() + 1]
    for _ in range(4):
        play.judge(verdict, degraded)
        rests.append(play.stream() + 1)
    assert rests == [FIRST_REST, 2 * FIRST_REST, MOST_REST, MOST_REST, MOST_REST]
    play.judge(YES)
    play.judge(verdict, degraded)
    assert play.pacer.decision.depth > 0, "one was given in between"


class Fallible:
    """A verifier that says yes while it is up."""

    is_up = True

    async def judge(self, request: JudgeRequest) -> Verdict:
        await asyncio.sleep(0.1)
        if not self.is_up:
            raise RoleUnavailable("gone")
        return Verdict(True, request.verifier, "yes")


@dataclass
class Served:
    token_s: float
    num_judged: int
    num_steps: int


async def serve(coordinator: Coordinator, name: str) -> Served:
    loop, one = asyncio.get_running_loop(), replace(request(verifier="always"), request_id=name)
    start = loop.time()
    outputs = [output async for output in coordinator.generate(replace(one, prompt=Prompt(text=f"Question {name}?")))]
    last, trace = outputs[-1], coordinator.trace(name)
    assert isinstance(last, Finished)
    assert trace is not None
    judged = [span for span in trace["spans"] if span["kind"] == "verdict"]
    return Served((loop.time() - start) / last.num_output_tokens, len(judged), last.summary.num_steps)


def test_an_outage_of_the_verifier_costs_little_while_it_lasts_and_nothing_afterwards() -> None:
    """A draft that says the same in other words, and a target that each further sequence slows down."""
    target = replace(LONG, num_steps=60, sequence_s=LONG.token_s / 10)
    draft = replace(target, role="draft", agree=0.0, paraphrase=1.0, token_s=LONG.token_s / 10, sequence_s=0.0)
    bench, verifier = Bench(target, draft, config(controller={"enabled": True})), Fallible()
    bench.roles = replace(bench.roles, verifier=verifier)

    async def scene() -> list[Served]:
        coordinator, served = await bench.coordinator(), []
        for name in ("first", "before", "during", "after"):
            verifier.is_up = name != "during"
            served.append(await serve(coordinator, name))
            await asyncio.sleep(60.0)
        return served

    _, before, during, after = run_virtually(scene())
    assert before.token_s < 0.7 * target.token_s
    assert during.token_s < 1.1 * target.token_s
    assert during.num_judged < 0.2 * during.num_steps
    assert after.token_s == pytest.approx(before.token_s, rel=0.1)
