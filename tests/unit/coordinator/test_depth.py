"""A depth that is decided anew at every event: 0 streams, anything else looks ahead, and nothing is lost between."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.engines.scripted import detokenize
from actors.messages import Delta, Ending, StepRule
from deployments.coordinator.events import (
    Cancel,
    Decision,
    DraftStep,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetStep,
)
from deployments.coordinator.session import Session
from deployments.generation import Channel, Committed
from tests.unit.coordinator.test_session import MODES, ORDERS, PROGRESS, STRAYING, check_books, run_in_order
from tests.unit.coordinator.world import TARGET, THINK, World, settings, target_only


class Depth:
    """A decision that a test sets."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __call__(self) -> Decision:
        return Decision(self.depth, f"set to {self.depth}")


@given(
    order=ORDERS,
    draft=STRAYING,
    mode=MODES,
    progress=PROGRESS,
    think=st.booleans(),
    failures=st.booleans(),
    max_tokens=st.sampled_from([40, 10_000]),
)
@hypothesis_settings(max_examples=400, deadline=None)
def test_a_depth_that_changes_at_every_event_changes_no_word(
    order: Random, draft: object, mode: str, progress: float, think: bool, failures: bool, max_tokens: int
) -> None:
    decisions = Random(order.random())

    def decide() -> Decision:
        return Decision(decisions.choice([0, 0, 1, 2, 5]), "at random")

    target, marks = replace(TARGET, think=think), {"marks": THINK} if think else {}
    verifier = "v" if mode == "specreason" else decisions.choice([None, "v"])
    fixed = settings(target, mode=mode, progress_s=progress, verifier=verifier, max_attempts=10**6, **marks)
    session = Session(replace(fixed, max_tokens=max_tokens), decide)
    w = run_in_order(World(session, target, replace(draft, think=think), lambda a, b: False), order, failures)  # type: ignore[type-var]
    rule = StepRule(close="</think>" if think else None)
    expected = detokenize(target_only(target, max_tokens, rule)).removeprefix("<think>\n").replace("</think>", "")
    texts = [o.text for o in w.outputs if isinstance(o, Committed)]
    assert "".join(texts) == expected
    assert {o.channel for o in w.outputs if isinstance(o, Committed) and o.text} >= {Channel.CONTENT} - {
        Channel.CONTENT if think and max_tokens == 40 else Channel.REASONING
    }
    check_books(w)


def talking(depth: Depth, **changes: object) -> World:
    draft = replace(TARGET, role="draft")
    return World(Session(settings(TARGET, **changes), depth), TARGET, draft, lambda a, b: False)


def streamed_to_the_end_of_a_step(w: World) -> None:
    (call,) = w.choices()
    while isinstance(w.under_way.get(call, [None])[0], Streamed):
        event = w.under_way[call][0]
        assert isinstance(event, Streamed)
        w.do(call)
        if event.delta.ending is not None:
            return


def test_depth_zero_streams_and_looks_ahead_from_the_end_of_a_step_on() -> None:
    depth = Depth(0)
    w = talking(depth)
    w.start()
    assert [type(c) for c in w.log] == [Decision, StartStream]
    streamed_to_the_end_of_a_step(w)
    assert not [c for c in w.log if isinstance(c, StartDraft | StartTarget)]
    depth.depth = 2
    (call,) = w.choices()
    w.do(call)
    assert not [c for c in w.log if isinstance(c, StartDraft)], "not in the middle of a step"
    streamed_to_the_end_of_a_step(w)
    assert [c.call for c in w.log if isinstance(c, Cancel)] == [call]
    (start,) = [c for c in w.log if isinstance(c, StartDraft)]
    assert start.depth == 2
    assert start.request.prefix.pieces[-1].text == w.text


def test_a_window_that_is_given_up_is_finished_first() -> None:
    depth = Depth(3)
    w = talking(depth)
    w.start()
    draft = next(c for c in w.choices() if isinstance(w.under_way[c][0], DraftStep))
    w.do(draft)
    depth.depth = 0
    w.do(draft)
    assert any(isinstance(c, Cancel) and c.call == draft for c in w.log)
    while not any(isinstance(c, StartStream) for c in w.log):
        w.do(next(c for c in w.choices() if isinstance(w.under_way[c][0], TargetStep)))
    assert w.session.summary().num_accepted_steps >= 1
    assert w.session.num_live_calls == 1


def test_each_change_of_the_decision_is_told_once() -> None:
    depth = Depth(1)
    w = talking(depth)
    w.start()
    for _ in range(4):
        w.do(w.choices()[0])
    depth.depth = 2
    while not w.session.finished:
        w.do(w.choices()[0])
    assert [c.depth for c in w.log if isinstance(c, Decision)] == [1, 2]


def test_nothing_is_speculated_behind_the_reasoning() -> None:
    depth = Depth(0)
    target = replace(TARGET, think=True)
    session = Session(settings(target, marks=THINK, speculate_content=False), depth)
    w = World(session, target, target, lambda a, b: True)
    w.start()
    closed = False
    while not w.session.finished:
        (call,) = w.choices()
        event = w.under_way[call][0]
        assert isinstance(event, Streamed)
        assert isinstance(event.delta, Delta)
        closed |= event.delta.ending is Ending.CLOSE
        depth.depth = 4 if closed else 0
        w.do(call)
    assert closed
    assert not [c for c in w.log if isinstance(c, StartDraft | StartTarget)]
