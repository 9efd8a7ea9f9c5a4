"""What a stream of the target's teaches: the time of a token once its prompt is read."""

from __future__ import annotations

import pytest

from actors.messages import Delta, Ending, Prefix, StepRequest, StepRule
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.estimates import LEAST_TIMED, Estimates, Streaming
from deployments.coordinator.control.pacer import Manner, Pacer
from deployments.coordinator.events import (
    Cancel,
    Commit,
    DraftAvailable,
    DraftFailed,
    DraftGone,
    StartDraft,
    Streamed,
)
from deployments.generation import Channel, Committed, Origin
from tests.unit.coordinator.control.test_progress import begun


def words(num_tokens: int, ending: Ending | None = None) -> Delta:
    return Delta("w" * num_tokens, tuple(range(num_tokens)), ending=ending)


def step(estimates: Estimates, call: str, num_tokens: int, now: float) -> Streaming:
    found = estimates.streamed(call, words(num_tokens, Ending.BOUNDARY), now)
    assert found is not None
    return found


def test_the_first_step_is_timed_from_its_first_words_on() -> None:
    estimates = begun("only")
    assert estimates.streamed("only", words(1), 9.0) is None
    first = step(estimates, "only", 8, 9.8)
    assert first.is_timed
    assert first.num_tokens == 9
    assert first.token_s == pytest.approx(0.1)
    assert step(estimates, "only", 5, 10.8).token_s == pytest.approx(0.2)


def test_a_step_of_few_words_is_not_timed() -> None:
    estimates = begun("only")
    assert not step(estimates, "only", 20, 1.0).is_timed, "all of it came when the prompt was read"
    assert not step(estimates, "only", LEAST_TIMED - 1, 2.0).is_timed
    assert step(estimates, "only", LEAST_TIMED, 3.0).is_timed


def test_the_time_in_which_most_read_their_prompts_says_nothing() -> None:
    estimates = begun("a", "b", "c")
    estimates.streamed("a", words(1), 1.0)
    estimates.streamed("b", words(1), 1.1)
    assert not step(estimates, "a", 8, 2.0).is_timed, "b and c read meanwhile"
    estimates.streamed("c", words(1), 2.1)
    assert step(estimates, "b", 8, 2.5).is_timed, "only c did"
    assert step(estimates, "a", 8, 3.0).is_timed
    assert step(estimates, "a", 8, 4.0).is_timed


def write(pacer: Pacer, num_tokens: int) -> None:
    """`num_tokens` come and are committed."""
    pacer.on_event(Streamed(0, words(num_tokens)))
    pacer.on_command(Commit(Committed("w" * num_tokens, Channel.CONTENT, Origin.TARGET, num_tokens, 0)))


def test_how_long_a_request_read_its_prompt_says_nothing_of_how_fast_it_writes() -> None:
    now = 0.0
    pacer = Controller().open("r", Manner(4, is_guided=True), lambda: now)
    assert pacer.written == (0, 0.0)
    now = 20.0
    write(pacer, 2)
    now = 24.0
    write(pacer, 40)
    assert pacer.written == (40, 4.0)


LOOK_AHEAD = StartDraft(1, 0, StepRequest("c", "s", Prefix((1,)), StepRule(), 9), 1)


def test_a_request_that_lost_its_draft_is_not_like_others() -> None:
    pacer = Controller().open("r", Manner(4, is_guided=True), lambda: 0.0)
    pacer.is_typical = True
    pacer.on_command(LOOK_AHEAD)
    pacer.on_event(DraftFailed(1, "draft_unavailable"))
    assert not pacer.is_typical
    assert not pacer.can_draft


def test_what_becomes_of_a_look_ahead_that_was_left_says_nothing_of_the_draft() -> None:
    """Its replica died while the request had gone on without it: the session asks the next one as before."""
    pacer = Controller().open("r", Manner(4, is_guided=True), lambda: 0.0)
    pacer.is_typical = True
    pacer.on_command(LOOK_AHEAD)
    pacer.on_command(Cancel(1, "left"))
    pacer.on_event(DraftFailed(1, "draft_unavailable"))
    assert pacer.can_draft
    assert pacer.is_typical


@pytest.mark.parametrize("is_guided", [False, True])
def test_a_request_that_its_draft_refuses_streams_to_its_end(is_guided: bool) -> None:
    controller = Controller()
    pacer = controller.open("r", Manner(4, is_guided=is_guided), lambda: 0.0)
    pacer.is_typical = True
    pacer.on_command(DraftGone())
    pacer.on_event(DraftAvailable((1,)))
    controller.decide(pacer)
    assert not pacer.takes_hints
    assert pacer.max_depth == pacer.decision.depth == 0
    assert not pacer.is_typical
