"""The coordinator with its controller, over scripted engines on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptOptions
from actors.errors import ContextTooLong
from actors.messages import Message, Piece, Prompt, Step, StepRequest
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.ways import FIRST_TRY, LEAST_WINDOWS
from deployments.coordinator.coordinator import settle
from deployments.generation import Committed, Finished, SamplingOptions, Standing
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Bench, config, request
from tests.unit.coordinator.test_reasoning import thinking

LONG = replace(TARGET, num_steps=12, words=12)
HINTED = replace(LONG, hint_gain=3.0)


@dataclass
class Asked:
    token_s: float
    trace: dict[str, Any]
    metrics: str

    @property
    def depths(self) -> list[int]:
        return [decision["depth"] for decision in self.trace["decisions"]]

    @property
    def is_window(self) -> bool:
        return any(span["kind"] == "target" for span in self.trace["spans"])


def ask(target: ScriptOptions, num_requests: int = 1, *, agree: float = 1.0, **wishes: object) -> list[Asked]:
    """One request after another, each with a text of its own."""
    draft = replace(target, role="draft", token_s=target.token_s / 5, agree=agree)
    bench = Bench(target, draft, config(controller={"enabled": True}))

    async def all_of_them() -> list[Asked]:
        coordinator, loop, asked = await bench.coordinator(), asyncio.get_running_loop(), []
        for number in range(num_requests):
            one = replace(request(**wishes), request_id=f"r{number}", prompt=Prompt(text=f"Question {number}?"))
            start = loop.time()
            outputs = [output async for output in coordinator.generate(one)]
            assert isinstance(outputs[-1], Finished)
            trace = coordinator.trace(one.request_id)
            assert trace is not None
            elapsed = loop.time() - start
            asked.append(Asked(elapsed / outputs[-1].num_output_tokens, trace, coordinator.metrics()))
        return asked

    return run_virtually(all_of_them())


def test_the_first_request_of_a_fresh_server_is_faster_already() -> None:
    (asked,) = ask(LONG, verifier="always")
    assert asked.depths[0] == 1
    assert max(asked.depths) == 4
    assert asked.token_s < 0.6 * LONG.token_s
    assert f"lookahead_lookahead_depth {asked.depths[-1]}.0" in asked.metrics


def test_a_bad_draft_is_left_with_a_reason_and_costs_little() -> None:
    target = replace(LONG, num_steps=60, sequence_s=LONG.token_s / 2)
    (asked,) = ask(target, agree=0.0, verifier="numbers")
    assert asked.depths[0] > 0
    assert 0 in asked.depths
    reasons = [decision["reason"] for decision in asked.trace["decisions"] if decision["depth"] == 0]
    assert any("the target alone is faster: acceptance 0." in reason for reason in reasons)
    assert asked.token_s < 1.15 * target.token_s


def test_the_depth_that_a_request_wishes_is_the_most_it_gets() -> None:
    (asked,) = ask(LONG, max_lookahead=2, verifier="always")
    assert max(asked.depths) == 2


def test_a_request_may_switch_the_controller_off() -> None:
    (asked,) = ask(LONG, agree=0.0, verifier="numbers", controller=False)
    assert asked.depths == []
    assert asked.is_window


def test_what_is_accepted_of_sampled_text_says_nothing_of_greedy_text() -> None:
    bench = Bench(LONG, replace(LONG, role="draft"), config(controller={"enabled": True}))

    async def both() -> list[str]:
        coordinator = await bench.coordinator()
        for temperature in (0.0, 0.7):
            one = replace(
                request(verifier="always"), sampling=SamplingOptions(temperature), request_id=f"{temperature}"
            )
            outputs = [output async for output in coordinator.generate(one)]
            assert isinstance(outputs[-1], Finished)
        assert coordinator._controller is not None
        return list(coordinator._controller.estimates._steps)

    greedy, sampled = run_virtually(both())
    assert greedy.endswith("greedy")
    assert sampled.endswith("sampled")


@pytest.mark.parametrize("mode", ["target", "lookahead_sync"])
def test_other_modes_are_left_alone(mode: str) -> None:
    (asked,) = ask(LONG, mode=mode, verifier="always")
    assert asked.depths == []


ENOUGH = LEAST_WINDOWS * FIRST_TRY + 10
"""Requests one after another until both ways were taken; those in which the target alone was tried do not count."""


def test_an_exact_request_is_guided_until_a_window_was_found_to_be_faster() -> None:
    """An engine that takes few tokens of a hint in a pass and a draft that is nearly always right: several steps at
    once are faster."""
    asked = ask(HINTED, ENOUGH, agree=0.95)
    assert not any(one.is_window for one in asked[:FIRST_TRY])
    assert asked[0].token_s < 0.6 * HINTED.token_s
    assert asked[-1].is_window
    assert asked[-1].token_s < 0.9 * asked[0].token_s


@pytest.mark.parametrize(("fidelity", "agree"), [("exact", 0.7), ("balanced", 0.7)])
def test_a_request_stays_guided_where_a_window_is_slower(fidelity: str, agree: float) -> None:
    """More than one sequence costs this target a pass each."""
    target = replace(HINTED, num_steps=8, sequence_s=HINTED.token_s)
    asked = ask(target, ENOUGH, agree=agree, fidelity=fidelity)
    guided = ask(target, ENOUGH, agree=agree, verifier="exact", controller=False)
    windows = [(one, same_text) for one, same_text in zip(asked, guided, strict=True) if one.is_window]
    assert 1 <= len(windows) <= LEAST_WINDOWS
    assert not asked[-1].is_window
    assert all(same_text.token_s < window.token_s for window, same_text in windows)


@pytest.mark.parametrize(
    ("wishes", "may_guide"),
    [
        ({"fidelity": "balanced"}, True),
        ({"fidelity": "balanced", "controller": False}, False),
        ({"verifier": "numbers"}, False),
        ({"verifier": "exact", "controller": False}, True),
        ({"fidelity": "exact", "branches": 2}, False),
        ({"fidelity": "exact", "mode": "lookahead_sync"}, False),
        ({"fidelity": "exact", "token_speculation": "ngram"}, False),
    ],
)
def test_who_may_be_guided(wishes: dict[str, Any], may_guide: bool) -> None:
    assert settle(config(controller={"enabled": True}), request(**wishes)).may_guide is may_guide


def test_hints_that_never_come_true_are_no_reason_for_a_slow_request() -> None:
    asked = ask(HINTED, 2, agree=0.0)
    assert all(one.token_s < 1.03 * HINTED.token_s for one in asked)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_request_that_can_never_have_hints_teaches_nothing_about_them(resumed: bool) -> None:
    """Only reasoning is speculated: there is none behind a prompt of text, nor where it was closed before a seam."""
    draft = replace(HINTED, role="draft", token_s=HINTED.token_s / 5)
    bench = Bench(HINTED, draft, thinking(scope="think", controller={"enabled": True}))
    prompt, seam = Prompt(text="?"), None
    if resumed:
        prompt = Prompt(messages=(Message("user", "?"),))
        seam = Standing(3, (), (), 0, None, is_closed=True)

    async def scene() -> Controller:
        coordinator = await bench.coordinator()
        for _ in range(2):
            one = replace(request(prompt=prompt, fidelity="balanced"), resume=seam)
            _ = [output async for output in coordinator.generate(one)]
        assert coordinator._controller is not None
        return coordinator._controller

    controller = run_virtually(scene())
    assert not controller._ways, "which way is faster was not asked"
    assert all(not guidance._guided.is_known for guidance in controller._guidances.values())
    assert controller.estimates.target_cost.num_streamed > 0, "it is the target alone"


def test_the_draft_may_be_away() -> None:
    bench = Bench(LONG, DRAFT, config(controller={"enabled": True}))
    bench.roles = replace(bench.roles, drafter=None)
    answer = run_virtually(bench.ask(verifier="always"))
    decisions = answer.trace["decisions"]
    assert isinstance(decisions, list)
    assert [decision["depth"] for decision in decisions] == [1, 0], "there was nothing to watch"
    assert answer.finished.summary.num_draft_steps == 0


class Full(Draft):
    """A draft whose context the prompt fills."""

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        raise ContextTooLong("The context is full.")
        yield

    async def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[Piece | Step, None]:
        raise ContextTooLong("The context is full.")
        yield


@pytest.mark.parametrize(
    "wishes", [{"verifier": "always"}, {"fidelity": "balanced"}, {"verifier": "exact", "controller": False}]
)
@pytest.mark.parametrize("is_full", [False, True])
def test_a_request_that_its_draft_refuses_is_streamed_and_is_not_like_others(
    wishes: dict[str, Any], is_full: bool
) -> None:
    """The prompt is longer than the draft's context, or fills it: then it is found out with the first look-ahead."""
    draft = replace(HINTED, role="draft", max_model_len=HINTED.max_model_len if is_full else 3)
    bench = Bench(HINTED, draft, config(controller={"enabled": True}))
    if is_full:
        bench.roles = replace(bench.roles, drafter=Full(bench.draft_engine))

    async def scene() -> tuple[Controller, list[dict[str, Any]]]:
        coordinator = await bench.coordinator()
        controller = coordinator._controller
        assert controller is not None
        coordinator._draft_vocabulary = HINTED.vocabulary  # it has answered another request
        async for output in coordinator.generate(request(**wishes)):
            for pacer in controller._pacers.values() if isinstance(output, Committed) and output.step > 1 else ():
                assert not pacer.takes_hints
                assert pacer.max_depth == 0
                assert not pacer.is_typical
        assert isinstance(output, Finished)
        assert output.summary.degraded == ("draft_refused",)
        trace = coordinator.trace("r")
        assert trace is not None
        return controller, trace["spans"]

    controller, spans = run_virtually(scene())
    assert [span["kind"] for span in spans].count("answer") == 1
    assert sum(span["kind"] == "target" for span in spans) <= is_full, "the step that was being written"
    assert all(ways._num_guided == ways._num_windows == 0 for ways in controller._ways.values())
    assert all(not guidance._guided.is_known for guidance in controller._guidances.values())
    assert controller.estimates.target_cost.num_streamed > 0, "it is the target alone"
