"""Other versions of a step: the first that is the target's stands, the others end, and the books hold."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.engines.scripted import ScriptOptions, detokenize
from actors.messages import Sampling, Step, StepRule, Verdict
from deployments.coordinator.events import (
    AddHints,
    Cancel,
    Command,
    DraftEnded,
    DraftFailed,
    DraftStep,
    Event,
    Judge,
    Judged,
    Outcome,
    Placed,
    Promoted,
    Retired,
    StartDraft,
    StartTarget,
    TargetProgress,
    TargetStep,
)
from deployments.coordinator.session import Session
from deployments.telemetry.metrics import Metrics, RequestMetrics
from deployments.telemetry.trace import TraceRecorder
from tests.unit.coordinator.talk import Talk, part, step, words
from tests.unit.coordinator.test_session import check_books, run_in_order
from tests.unit.coordinator.world import TARGET, World, settings, target_only

ORDERS = st.integers(0, 2**32).map(Random)
DRAFTS = st.builds(
    lambda agree, paraphrase: replace(TARGET, role="draft", agree=agree, paraphrase=paraphrase),
    st.sampled_from([0.0, 0.3, 0.6]),
    st.sampled_from([0.0, 0.4]),
)
RULES = st.sampled_from([StepRule(), StepRule(max_tokens=7), StepRule("sentence"), StepRule("tokens", 5)])


@given(
    order=ORDERS,
    draft=DRAFTS,
    rule=RULES,
    branches=st.integers(1, 4),
    depth=st.integers(1, 4),
    max_nodes=st.sampled_from([1, 5, 9, 40]),
    target_steps=st.sampled_from([None, 1, 3]),
    verdict=st.sampled_from([None, False, True, "any"]),
    progress=st.sampled_from([0.0, 0.1]),
    max_tokens=st.sampled_from([33, 10_000]),
    failures=st.booleans(),
)
@hypothesis_settings(max_examples=150, deadline=None)
def test_in_any_order_the_books_hold_and_rejecting_all_gives_the_target(
    order: Random,
    draft: ScriptOptions,
    rule: StepRule,
    branches: int,
    depth: int,
    max_nodes: int,
    target_steps: int | None,
    verdict: bool | str | None,
    progress: float,
    max_tokens: int,
    failures: bool,
) -> None:
    """Every draft step that was launched is accepted, recovered or cancelled once, and nothing runs at the end."""

    def verdicts(a: Step, b: Step | None) -> bool:
        return bool(hash((a.text, b and b.text)) % 2) if verdict == "any" else bool(verdict)

    changes = settings(
        TARGET,
        branches=branches,
        max_nodes=max_nodes,
        max_lookahead=depth,
        max_target_steps=target_steps,
        rule=rule,
        progress_s=progress,
        max_tokens=max_tokens,
        max_attempts=10**6,
        verifier=None if verdict is None else "v",
    )
    w = World(Session(changes), TARGET, draft, verdicts, fickle=failures and verdict not in (None, False))
    run_in_order(w, order, failures)
    check_books(w)
    if not verdict:
        assert w.text == detokenize(target_only(TARGET, max_tokens, rule))
    summary = w.session.summary()
    placed = [c for c in w.log if isinstance(c, Placed)]
    merged = [c for c in w.log if isinstance(c, Retired) and c.outcome is Outcome.MERGED]
    assert summary.num_branch_steps == sum(c.beside is not None for c in placed)
    assert summary.num_merged_steps == len(merged)
    assert branches > 1 or summary.num_branch_steps == summary.num_merged_steps == 0
    assert not {c.position for c in merged} & {c.position for c in placed}


@given(order=ORDERS, depth=st.integers(1, 4), branches=st.integers(2, 4), max_nodes=st.integers(1, 14))
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_target_writes_behind_no_more_prefixes_than_the_budget(
    order: Random, depth: int, branches: int, max_nodes: int
) -> None:
    draft = replace(TARGET, role="draft", agree=0.0)
    changes = settings(TARGET, branches=branches, max_lookahead=depth, max_nodes=max_nodes)
    w = World(Session(changes), TARGET, draft, lambda a, b: False)
    w.start()
    while not w.session.finished:
        running = sum(isinstance(events[-1], TargetStep) for events in w.under_way.values())
        assert running <= max(max_nodes, depth + 1)
        w.do(order.choice(w.choices()))


def branching(**changes: object) -> tuple[Talk, StartTarget, StartDraft, StartDraft]:
    """A session whose draft has written (1, 2, 3) and which has been asked for one other version of it."""
    talk = Talk(**{"branches": 2, "max_lookahead": 1, **changes})
    target, draft = talk.last(StartTarget), talk.last(StartDraft)
    assert isinstance(target, StartTarget)
    assert isinstance(draft, StartDraft)
    talk.hear(DraftStep(draft.call, step(1, 2, 3)))
    talk.hear(DraftEnded(draft.call))
    other = talk.last(StartDraft)
    assert isinstance(other, StartDraft)
    assert other.call != draft.call
    assert other.request.prefix == draft.request.prefix
    return talk, target, draft, other


def test_other_versions_are_sampled_with_seeds_of_their_own() -> None:
    for sampling in (Sampling(), Sampling(seed=5), Sampling(temperature=0.6, seed=5)):
        talk = Talk(branches=4, max_lookahead=1, sampling=sampling)
        first = talk.last(StartDraft)
        talk.hear(DraftStep(first.call, step(1, 2, 3)))
        drafts = [c.request.sampling for c in talk.said if isinstance(c, StartDraft)]
        assert len(drafts) == 4
        assert drafts[0] == sampling
        assert len({s.seed for s in drafts[1:]} | {sampling.seed}) == 4
        assert {s.temperature for s in drafts[1:]} == {sampling.temperature or 0.8}
    talk = Talk(branches=3, max_lookahead=1, sampling=Sampling(temperature=0.6))
    talk.hear(DraftStep(talk.last(StartDraft).call, step(1, 2, 3)))
    drafts = [c.request.sampling for c in talk.said if isinstance(c, StartDraft)]
    assert drafts == [Sampling(temperature=0.6)] * 3, "the engine draws anew each time"


def test_a_version_that_says_the_same_is_merged_and_not_counted() -> None:
    talk, _, _, other = branching()
    said = talk.hear(DraftStep(other.call, step(1, 2, 3)))
    assert [c.call for c in said if isinstance(c, Cancel)] == [other.call]
    summary = talk.session.summary()
    assert (summary.num_draft_steps, summary.num_branch_steps, summary.num_merged_steps) == (1, 0, 1)
    assert not [c for c in said if isinstance(c, StartDraft)], "it is not tried again"


@pytest.mark.parametrize("verifier", [None, "v"])
def test_the_version_that_equals_the_targets_step_takes_the_place_with_what_is_built_on_it(
    verifier: str | None,
) -> None:
    talk, target, _, other = branching(verifier=verifier, restart_in_step=False)
    behind_first = talk.last(StartTarget)
    said = talk.hear(DraftStep(other.call, step(1, 2, 4)))
    (hint,) = [c for c in said if isinstance(c, AddHints)]
    assert hint.hints == ((1, 2, 4),), "the target may use it as a hint"
    behind_other = talk.last(StartTarget)
    assert behind_other.request.prefix.pieces[-1].token_ids == (1, 2, 4)
    said = talk.hear(TargetStep(target.call, step(1, 2, 4)))
    assert not [c for c in said if isinstance(c, Judge)]
    cancelled = {c.call for c in said if isinstance(c, Cancel)}
    assert behind_first.call in cancelled
    assert not {behind_other.call, other.call} & cancelled, "what was built on it goes on"
    assert talk.sent == words(1, 2, 4)
    summary = talk.session.summary()
    assert (summary.num_accepted_steps, summary.num_cancelled_steps, summary.num_branch_steps) == (1, 1, 1)
    said = talk.hear(DraftStep(other.call, step(5, 6)))
    assert [c.beside for c in said if isinstance(c, Placed)] == [None]
    talk.hear(TargetStep(behind_other.call, step(5, 6)))
    assert talk.sent == words(1, 2, 4, 5, 6)


def test_the_first_version_that_is_judged_to_mean_the_same_stands() -> None:
    talk, target, _, other = branching(verifier="v")
    talk.hear(DraftStep(other.call, step(7, 8)))
    said = talk.hear(TargetStep(target.call, step(9)))
    first, second = [c for c in said if isinstance(c, Judge)]
    assert {c.request.draft.token_ids for c in (first, second)} == {(1, 2, 3), (7, 8)}
    by_draft = {c.request.draft.token_ids: c for c in (first, second)}
    said = talk.hear(Judged(by_draft[7, 8].call, Verdict(True, "v", "same")))
    assert by_draft[1, 2, 3].call in {c.call for c in said if isinstance(c, Cancel)}
    assert [c.by for c in said if isinstance(c, Promoted)] == [other.position]
    assert talk.sent == words(7, 8)
    assert talk.session.summary().num_accepted_steps == 1


def test_a_rejected_first_version_waits_for_the_others_verdict() -> None:
    for accepted in (True, False):
        talk, target, _, other = branching(verifier="v")
        talk.hear(DraftStep(other.call, step(7, 8)))
        said = talk.hear(TargetStep(target.call, step(9)))
        judges = {c.request.draft.token_ids: c.call for c in said if isinstance(c, Judge)}
        talk.hear(Judged(judges[1, 2, 3], Verdict(False, "v", "other")))
        assert talk.sent == ""
        talk.hear(Judged(judges[7, 8], Verdict(accepted, "v", "")))
        assert talk.sent == (words(7, 8) if accepted else words(9))
        summary = talk.session.summary()
        assert (summary.num_accepted_steps, summary.num_recovered_steps) == (int(accepted), int(not accepted))


def test_where_the_target_leaves_the_first_versions_words_another_one_takes_over() -> None:
    talk, target, _, other = branching()
    talk.hear(DraftStep(other.call, step(1, 4, 5)))
    said = talk.hear(TargetProgress(target.call, part(1, 4)))
    assert [c.by for c in said if isinstance(c, Promoted)] == [other.position]
    assert talk.sent == words(1, 4)
    talk.hear(TargetStep(target.call, step(1, 4, 5)))
    assert talk.sent == words(1, 4, 5)
    assert talk.session.summary().num_accepted_steps == 1


def test_a_version_with_other_words_than_were_sent_goes() -> None:
    talk, target, _, other = branching(verifier="v")
    talk.hear(TargetProgress(target.call, part(1, 2)))
    assert talk.sent == words(1, 2)
    said = talk.hear(DraftStep(other.call, step(1, 9)))
    assert [c.reason for c in said if isinstance(c, Cancel) and c.call == other.call] == ["other words than were sent"]
    assert talk.session.summary().num_cancelled_steps == 1


def test_a_version_that_is_not_there_in_time_is_not_waited_for() -> None:
    talk, target, _, other = branching(verifier=None)
    said = talk.hear(TargetStep(target.call, step(9)))
    assert other.call in {c.call for c in said if isinstance(c, Cancel)}
    assert talk.sent == words(9)


def test_a_broken_branch_costs_nothing_but_itself() -> None:
    talk, target, _, other = branching()
    said = talk.hear(DraftFailed(other.call, "draft_unavailable"))
    assert [c.position for c in said if isinstance(c, Retired)] == [other.position]
    talk.hear(TargetStep(target.call, step(1, 2, 3)))
    assert talk.sent == words(1, 2, 3)
    assert talk.session.summary().num_accepted_steps == 1


def test_the_trace_and_the_metrics_follow_a_version_that_takes_the_place() -> None:
    talk = Talk(branches=3, max_lookahead=1, verifier=None, restart_in_step=False)
    metrics, ticks = Metrics(), count()
    observers = (
        TraceRecorder("r", "lookahead", 0.0, lambda: float(next(ticks)), True),
        RequestMetrics(metrics, "lookahead", lambda: float(next(ticks))),
    )

    def tell(commands: list[Command]) -> None:
        for observer in observers:
            for command in commands:
                observer.on_command(command)

    def hear(event: Event) -> None:
        for observer in observers:
            observer.on_event(event)
        tell(talk.hear(event))

    tell(list(talk.said))
    target, draft = talk.last(StartTarget), talk.last(StartDraft)
    hear(DraftStep(draft.call, step(1, 2, 3)))
    same, other = [c for c in talk.said if isinstance(c, StartDraft)][1:]
    hear(DraftStep(other.call, step(1, 2, 4)))
    hear(DraftStep(same.call, step(1, 2, 3)))
    hear(TargetStep(target.call, step(1, 2, 4)))
    trace = observers[0]
    of_text = {(span.kind, span.text): span for span in trace.spans if span.text}
    stands, lost = of_text["draft", words(1, 2, 4)], of_text["target", words(1, 2, 4)]
    assert (stands.position, stands.outcome, stands.step) == (other.position, "accepted", 0)
    assert stands.detail["beside"] == draft.position
    assert (lost.position, lost.outcome) == (other.position, "accepted"), "what the target wrote goes with it"
    assert sorted(s.outcome for s in trace.spans if s.text == words(1, 2, 3)) == ["cancelled", "merged"]
    shown = metrics.text()
    assert 'lookahead_num_accepted_steps_per_pos_total{position="0"} 1.0' in shown
    assert 'lookahead_wasted_tokens_total{role="target"}' not in shown or (
        'lookahead_wasted_tokens_total{role="target"} 0.0' in shown
    )
    assert "lookahead_num_draft_steps_total 2.0" in shown
