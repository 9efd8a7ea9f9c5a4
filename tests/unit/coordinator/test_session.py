"""The promises of the session, over thousands of event orders."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.engines.scripted import ScriptOptions, detokenize
from actors.messages import Ending, Step, StepRule
from deployments.coordinator.events import (
    Cancel,
    DraftEnded,
    DraftStep,
    Judge,
    Judged,
    Placed,
    Retired,
    StartDraft,
    StartTarget,
    TargetStep,
)
from deployments.coordinator.output import Marks
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.transitions import POSITION, IllegalTransition, Signal, State, follow, mermaid
from deployments.generation import Channel, Committed, Origin
from tests.unit.coordinator.world import PROMPT_IDS, TARGET, THINK, World, settings, steps_of, target_only

ORDERS = st.integers(0, 2**32).map(Random)
"""One event order each, drawn as a seed: a schedule has hundreds of choices, too many to draw one by one."""


def run_in_order(world: World, order: Random | None = None, failures: bool = False) -> World:
    """Let things happen until the end, in drawn order, or first come first served."""
    world.start()
    for _ in range(5000):
        if world.session.finished:
            break
        choices = world.choices()
        if order is None:
            if choices:
                world.do(choices[0])
            else:
                world.revive()
            continue
        revive = world.revivals > 0 and (not choices or order.randrange(6) == 0)
        if revive:
            world.revive()
            continue
        call = order.choice(choices)
        if failures and order.randrange(10) == 0:
            world.fail(call)
        else:
            world.do(call)
    assert world.session.finished
    assert world.session.num_live_calls == 0
    assert world.under_way == {}, "something still runs after the end"
    return world


def run_with_a_fast_draft(world: World) -> World:
    """Draft steps and verdicts arrive before target steps do."""
    world.start()
    while not world.session.finished:
        quick = [c for c in world.choices() if isinstance(world.under_way[c][0], DraftStep | DraftEnded | Judged)]
        world.do((quick or world.choices())[0])
    assert world.under_way == {}
    return world


def check_books(world: World) -> None:
    """Every draft step that arrived came to exactly one end; the summary adds up; steps are numbered in order."""
    placed = [c for c in world.log if isinstance(c, Placed)]
    retired = [c for c in world.log if isinstance(c, Retired)]
    assert len({c.position for c in placed}) == len(placed)
    assert len({c.position for c in retired}) == len(retired)
    assert {c.position for c in placed} <= {c.position for c in retired}
    summary = world.session.summary()
    assert summary.num_draft_steps == len(placed)
    assert summary.num_draft_steps == (
        summary.num_accepted_steps + summary.num_recovered_steps + summary.num_cancelled_steps
    )
    assert summary.num_steps == (summary.num_accepted_steps + summary.num_recovered_steps + summary.num_target_steps)
    assert summary.accepted_tokens + summary.rejected_tokens == sum(len(c.step.token_ids) for c in placed)
    steps = [c.step for c in retired if c.step is not None]
    assert steps == sorted(steps)
    assert sum(o.num_tokens for o in world.outputs if isinstance(o, Committed)) == summary.output_tokens


def world(draft: ScriptOptions, verdict: bool | None, target: ScriptOptions = TARGET, **changes: object) -> World:
    """`verdict` None: nobody is asked, only equal steps are accepted (and no score is high enough)."""
    if verdict is None and changes.get("mode") != "specreason":
        changes["verifier"] = None
    return World(Session(settings(target, **changes)), target, draft, lambda a, b: bool(verdict))


STRAYING = st.builds(
    lambda agree, paraphrase, seed: replace(TARGET, role="draft", agree=agree, paraphrase=paraphrase, seed=seed),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([0.0, 0.3]),
    st.just(0),
)
PROGRESS = st.sampled_from([0.0, 0.1])
"""Whether the target tells what it has written meanwhile."""
MODES = st.sampled_from(["lookahead", "lookahead_sync", "specreason"])
RULES = st.sampled_from(
    [
        StepRule(),
        StepRule(max_tokens=7),
        StepRule(max_tokens=1),
        StepRule(boundary="line"),
        StepRule(boundary="sentence"),
        StepRule(boundary="tokens", max_tokens=9),
    ]
)


@given(
    order=ORDERS,
    draft=STRAYING,
    rule=RULES,
    depth=st.integers(1, 6),
    max_tokens=st.sampled_from([1, 5, 40, 77, 10_000]),
    verdict=st.sampled_from([False, None]),
    progress=PROGRESS,
    mode=MODES,
)
@hypothesis_settings(max_examples=500, deadline=None)
def test_rejecting_everything_gives_the_target_token_for_token(
    order: Random,
    draft: ScriptOptions,
    rule: StepRule,
    depth: int,
    max_tokens: int,
    verdict: bool | None,
    progress: float,
    mode: str,
) -> None:
    w = world(draft, verdict, rule=rule, max_lookahead=depth, max_tokens=max_tokens, progress_s=progress, mode=mode)
    run_in_order(w, order)
    expected = target_only(TARGET, max_tokens, rule)
    assert w.text == detokenize(expected)
    assert w.finished.num_output_tokens == len(expected)
    assert w.finished.finish_reason == ("length" if len(expected) == max_tokens else "stop")
    check_books(w)


@given(
    order=ORDERS,
    draft=STRAYING,
    rule=RULES,
    depth=st.integers(1, 6),
    verdict=st.sampled_from([False, None]),
    progress=PROGRESS,
    mode=MODES,
)
@hypothesis_settings(max_examples=400, deadline=None)
def test_failures_of_anything_change_nothing_in_the_text(
    order: Random, draft: ScriptOptions, rule: StepRule, depth: int, verdict: bool | None, progress: float, mode: str
) -> None:
    w = world(draft, verdict, rule=rule, max_lookahead=depth, max_attempts=10**6, progress_s=progress, mode=mode)
    run_in_order(w, order, failures=True)
    assert w.text == detokenize(target_only(TARGET, 10_000, rule))
    check_books(w)


@given(
    order=ORDERS,
    draft=STRAYING,
    depth=st.integers(1, 6),
    agree=st.integers(0, 2**16),
    progress=PROGRESS,
    failures=st.booleans(),
    mode=MODES,
)
@hypothesis_settings(max_examples=400, deadline=None)
def test_any_verdicts_keep_the_books(
    order: Random, draft: ScriptOptions, depth: int, agree: int, progress: float, failures: bool, mode: str
) -> None:
    def verdicts(a: Step, b: Step | None) -> bool:
        return bool(hash((a.text, b and b.text, agree)) % 2)

    changes = settings(TARGET, max_lookahead=depth, progress_s=progress, max_attempts=10**6, mode=mode)
    w = World(Session(changes), TARGET, draft, verdicts, fickle=failures)
    run_in_order(w, order, failures)
    check_books(w)
    assert w.session.summary().num_steps >= 1


@pytest.mark.parametrize("rule", [StepRule(), StepRule(max_tokens=4)])
def test_accepting_everything_gives_only_draft_steps(rule: StepRule) -> None:
    draft = replace(TARGET, role="draft", agree=0.0, paraphrase=1.0)
    w = run_with_a_fast_draft(world(draft, True, rule=rule))
    summary = w.session.summary()
    assert summary.num_recovered_steps == summary.num_target_steps == 0
    assert summary.accept_rate == 1.0
    assert w.text == detokenize(target_only(draft, 10_000, rule))


def test_long_steps_do_not_make_later_drafts_fail() -> None:
    """The published code's bug: after a step longer than the cap every later draft step was rejected."""
    draft = replace(TARGET, role="draft")
    w = run_with_a_fast_draft(world(draft, None, rule=StepRule(max_tokens=3)))
    summary = w.session.summary()
    assert summary.num_steps > 3 * TARGET.num_steps
    assert summary.num_accepted_steps == summary.num_steps
    check_books(w)


@given(
    order=ORDERS,
    draft=STRAYING,
    depth=st.integers(1, 5),
    mode=st.sampled_from(["lookahead", "target", "lookahead_sync", "specreason"]),
    progress=PROGRESS,
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_the_answer_after_the_reasoning_is_the_targets(
    order: Random, draft: ScriptOptions, depth: int, mode: str, progress: float
) -> None:
    target = replace(TARGET, think=True)
    changes = {"marks": THINK, "max_lookahead": depth, "mode": mode, "progress_s": progress}
    w = world(replace(draft, think=True), None, target, **changes)
    run_in_order(w, order)
    text = detokenize(target_only(target, 10_000, StepRule(close="</think>")))
    reasoning, _, answer = text.removeprefix("<think>\n").partition("</think>")
    committed = [o for o in w.outputs if isinstance(o, Committed)]
    assert "".join(o.text for o in committed if o.channel is Channel.REASONING) == reasoning
    answers = [o for o in committed if o.channel is Channel.CONTENT and o.text]
    assert "".join(o.text for o in answers) == answer
    assert all(o.origin is Origin.TARGET for o in answers)
    assert 0 < w.finished.num_reasoning_tokens < w.finished.num_output_tokens
    check_books(w)


def test_nothing_is_drafted_after_the_reasoning_closed() -> None:
    target = replace(TARGET, think=True)
    w = run_with_a_fast_draft(world(replace(target, role="draft"), None, target, marks=THINK, max_lookahead=30))
    closing = [c for c in w.log if isinstance(c, Placed) and c.step.ending is Ending.CLOSE]
    assert len(closing) == 1
    assert w.log.index(closing[0]) > max(w.log.index(c) for c in w.log if isinstance(c, StartDraft))


def test_a_step_that_ends_the_text_is_not_the_same_as_one_that_does_not() -> None:
    end = Step("The end.", (1,), "v", Ending.END)
    more = Step("The end.", (1,), "v", Ending.BOUNDARY)
    assert not end.equals(more)
    session = Session(settings(TARGET))
    commands = session.start()
    draft = next(c.call for c in commands if isinstance(c, StartDraft))
    target = next(c.call for c in commands if isinstance(c, StartTarget))
    session.handle(DraftStep(draft, end))
    commands = session.handle(TargetStep(target, more))
    assert not any(isinstance(c, Judge) for c in commands), "no verifier may be asked about that"
    assert any(isinstance(c, Retired) and c.outcome == "recovered" for c in commands)


def test_a_target_step_that_is_done_never_waits_for_the_draft() -> None:
    session = Session(settings(TARGET))
    started = session.start()
    target = next(c for c in started if isinstance(c, StartTarget))
    draft = next(c for c in started if isinstance(c, StartDraft))
    (step,) = steps_of(TARGET, target.request, 1)
    commands = session.handle(TargetStep(target.call, step))
    assert any(isinstance(c, Cancel) and c.call == draft.call for c in commands)
    assert session.summary().num_target_steps == 1
    again = [c for c in commands if isinstance(c, StartDraft)]
    assert [c.request.prefix.pieces[-1].text for c in again] == [step.text], "the draft goes on from the target's step"


def test_the_window_is_never_deeper_than_asked() -> None:
    for depth in (1, 2, 5):
        w = world(replace(TARGET, role="draft"), None, max_lookahead=depth)
        w.start()
        while any(isinstance(events[0], DraftStep) for events in w.under_way.values()):
            w.do(next(c for c in w.choices() if isinstance(w.under_way[c][0], DraftStep)))
        assert sum(isinstance(c, Placed) for c in w.log) == depth
        assert sum(isinstance(c, StartTarget) for c in w.log) == depth + 1


def test_a_late_result_of_a_cancelled_call_is_ignored() -> None:
    session = Session(settings(TARGET))
    started = session.start()
    target = next(c for c in started if isinstance(c, StartTarget))
    draft = next(c for c in started if isinstance(c, StartDraft))
    (step,) = steps_of(TARGET, target.request, 1)
    session.handle(TargetStep(target.call, step))
    before = session.summary()
    assert session.handle(DraftStep(draft.call, step)) == []
    assert session.handle(TargetStep(target.call, step)) == []
    assert session.summary() == before


WAYS = [("target", 0.0), ("lookahead", 0.0), ("lookahead", 0.1), ("lookahead_sync", 0.0), ("specreason", 0.0)]


def test_stop_strings_cut_the_text_wherever_they_lie_and_count_no_token_behind() -> None:
    tokens = target_only(TARGET, 10_000, StepRule())
    whole = detokenize(tokens)
    for stop in (whole[30:33], whole[len(whole) // 2 : len(whole) // 2 + 9], "no such text"):
        counts = (n for n in range(len(tokens)) if stop in detokenize(tokens[:n]))
        num_tokens = next(counts, len(tokens))
        for mode, progress in WAYS:
            w = run_in_order(world(replace(TARGET, role="draft"), None, stop=(stop,), mode=mode, progress_s=progress))
            check_books(w)
            assert w.finished.num_output_tokens == num_tokens
            assert w.text == whole.partition(stop)[0]
            assert w.finished.finish_reason == "stop"
            assert w.finished.stop_reason == (stop if stop in whole else None)


def test_without_a_draft_the_target_goes_on_alone_and_says_so() -> None:
    w = world(TARGET, None, draft_prompt=None)
    w.start()
    while not w.session.finished:
        w.do(w.choices()[0])
    assert w.text == detokenize(target_only(TARGET, 10_000, StepRule()))
    assert w.finished.summary.degraded == ("draft_unavailable",)
    assert w.finished.summary.num_target_steps == w.finished.summary.num_steps > 0


def test_a_draft_that_comes_back_is_used_again() -> None:
    w = world(replace(TARGET, role="draft"), None, draft_prompt=None)
    w.start()
    assert w.revivals == 1
    w.revive()
    assert any(isinstance(c, StartDraft) for c in w.log)


def test_a_target_that_never_answers_ends_in_its_own_error() -> None:
    for mode in ("target", "lookahead"):
        w = world(replace(TARGET, role="draft"), None, mode=mode, max_attempts=3)
        w.start()
        while not w.session.finished:
            w.fail(next(c for c in w.choices() if not isinstance(w.under_way[c][0], DraftStep)))
        assert str(w.failed) == "gone"
        assert w.under_way == {}


def test_priorities_put_the_head_first() -> None:
    w = world(replace(TARGET, role="draft"), None, max_lookahead=3)
    w.start()
    while any(isinstance(events[0], DraftStep) for events in w.under_way.values()):
        w.do(next(c for c in w.choices() if isinstance(w.under_way[c][0], DraftStep)))
    assert [c.request.priority for c in w.log if isinstance(c, StartTarget)] == [0, 1, 2, 3]


def test_seeds_depend_on_the_place_and_not_on_the_attempt() -> None:
    base = settings(TARGET)
    seeded = replace(base, sampling=replace(base.sampling, seed=7, temperature=1.0))
    w = World(Session(seeded), TARGET, replace(TARGET, role="draft"), lambda a, b: True)
    run_in_order(w)
    seeds: dict[int, set[int | None]] = {}
    for command in w.log:
        if isinstance(command, StartTarget):
            place = sum(len(p.token_ids) for p in command.request.prefix.pieces)
            seeds.setdefault(place, set()).add(command.request.sampling.seed)
    assert len(seeds) > 3
    assert all(len(s) == 1 for s in seeds.values())
    assert len(set.union(*seeds.values())) == len(seeds)
    assert seeds[0] == {7}


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("signal", list(Signal))
def test_every_cell_of_the_table(state: State, signal: Signal) -> None:
    if (state, signal) in POSITION:
        assert follow(state, signal) is POSITION[state, signal]
    else:
        with pytest.raises(IllegalTransition, match=state.value):
            follow(state, signal)


def test_the_table_is_whole() -> None:
    """Every state can be reached, and from every state an end can be reached."""
    ends = {State.COMMITTED, State.DISCARDED}
    reached = {State.OPEN} | set(POSITION.values())
    assert reached == set(State)
    assert {before for before, _ in POSITION} == set(State) - ends
    assert all(follow(state, Signal.DISCARD) is State.DISCARDED for state in State if state not in ends)
    assert "open --> drafted" in mermaid()


def test_marks_without_closing_leave_one_channel() -> None:
    w = run_in_order(world(replace(TARGET, role="draft"), None, marks=Marks()))
    assert {o.channel for o in w.outputs if isinstance(o, Committed)} == {Channel.CONTENT}


def test_settings_are_values() -> None:
    assert settings(TARGET) == settings(TARGET)
    assert isinstance(settings(TARGET), SessionSettings)
    assert PROMPT_IDS[-1] == 0
