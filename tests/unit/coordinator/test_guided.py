"""The guided session: the target's own text, whatever the draft writes, fails to write or is late with."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from actors.engines.scripted import ScriptOptions
from actors.errors import RoleUnavailable
from actors.messages import Nearby, Piece, StepRule
from deployments.coordinator.events import (
    AddHints,
    Command,
    Decision,
    DraftGone,
    DraftStep,
    Placed,
    Retired,
    ReviveDraft,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
)
from deployments.coordinator.guided import CHUNK_TOKENS, CHUNKS_A_STEP, MAX_BEHIND, GuidedSession
from deployments.coordinator.settings import SessionSettings
from deployments.generation import Channel, Committed, Origin, Standing
from deployments.telemetry.trace import TraceRecorder
from tests.unit.coordinator.talk import V, part, step, words
from tests.unit.coordinator.world import TARGET, THINK, World, settings, target_only

EXACT = {"verifier": None, "rule": StepRule("line")}


def world(
    session_settings: SessionSettings, target: ScriptOptions = TARGET, draft: ScriptOptions | None = None
) -> World:
    return World(GuidedSession(session_settings), target, draft or target, lambda *_: False)  # type: ignore[arg-type]


def decided_world(session_settings: SessionSettings, random: Random) -> World:
    """Whether the draft guides, and how far, is another matter at every event."""
    session = GuidedSession(session_settings, lambda: Decision(random.choice([0, 1, 3]), "at random"))
    return World(session, TARGET, TARGET, lambda *_: False)  # type: ignore[arg-type]


def run(here: World, random: Random, failures: float = 0.0) -> None:
    here.start()
    while here.choices() or here.revivals:
        if here.revivals and random.random() < 0.3:
            here.revive()
            continue
        if not here.choices():
            here.revive()
            continue
        call = random.choice(here.choices())
        if random.random() < failures:
            here.fail(call)
        else:
            here.do(call)
        if here.session.finished:
            break


def check(here: World, expected: tuple[int, ...]) -> None:
    session, summary = here.session, here.finished.summary
    assert here.failed is None
    assert session.num_live_calls == 0
    assert not here.under_way
    assert session._transcript.num_tokens == len(expected)
    assert tuple(i for piece in session._transcript.path.pieces for i in piece.token_ids) == expected
    assert sum(o.num_tokens for o in here.outputs if isinstance(o, Committed)) == len(expected)
    placed = [c.position for c in here.log if isinstance(c, Placed)]
    retired = [c for c in here.log if isinstance(c, Retired)]
    assert len(set(placed)) == len(placed) == summary.num_draft_steps
    assert sorted(c.position for c in retired if c.basis is not None) == sorted(placed)
    assert sorted(c.position for c in retired) == list(range(len(retired))), "a chunk that was left half written too"
    counted = summary.num_accepted_steps + summary.num_recovered_steps
    assert counted + summary.num_cancelled_steps == summary.num_draft_steps
    assert summary.num_steps == counted + summary.num_target_steps
    # A step of the target's own and one that it recovered have a token at least, beside those that the draft wrote.
    assert summary.accepted_tokens + summary.num_recovered_steps + summary.num_target_steps <= len(expected)
    assert not any(isinstance(c, StartTarget) for c in here.log)


@examples(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05]))
def test_a_decision_that_changes_at_every_event_changes_no_word(seed: int, failures: float) -> None:
    fixed = settings(max_attempts=10**6, **EXACT)
    here = decided_world(fixed, Random(seed + 1))
    run(here, Random(seed), failures)
    check(here, target_only(TARGET, 10_000, StepRule("line")))
    starts = [c for c in here.log if isinstance(c, StartDraft)]
    assert all(start.depth <= 3 * CHUNKS_A_STEP for start in starts)


def test_where_hints_do_not_pay_the_draft_is_not_asked() -> None:
    session = GuidedSession(settings(**EXACT), lambda: Decision(0, "no"))
    here = World(session, TARGET, TARGET, lambda *_: False)  # type: ignore[arg-type]
    run(here, Random(1))
    check(here, target_only(TARGET, 10_000, StepRule("line")))
    assert not any(isinstance(c, StartDraft) for c in here.log)
    assert [c for c in here.log if isinstance(c, Decision)] == [Decision(0, "no")]


def test_hints_that_do_not_pay_any_more_are_withdrawn_once() -> None:
    depths = [3]
    session = GuidedSession(settings(**EXACT), lambda: Decision(depths[0], "now"))
    here = World(session, TARGET, TARGET, lambda *_: False)  # type: ignore[arg-type]
    here.start()
    (stream,) = [c.call for c in here.log if isinstance(c, StartStream)]
    while not any(isinstance(c, AddHints) for c in here.log):
        here.do(next(c for c in here.choices() if c != stream))
    depths[0] = 0
    while here.choices():
        here.do(stream)
    hints = [c.hints for c in here.log if isinstance(c, AddHints)]
    assert hints[-1] == ()
    assert hints.count(()) == 1


@examples(max_examples=600, deadline=None)
@example(seed=10000001, script=1, agreement=1.0, failures=0.05, depth=1, max_tokens=20)  # a chunk begins as a step ends
@given(
    st.integers(0, 2**32),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.05]),
    st.integers(1, 6),
    st.sampled_from([7, 20, 10_000]),
)
def test_the_text_is_the_targets_own_in_every_order_of_events(
    seed: int, script: int, agreement: float, failures: float, depth: int, max_tokens: int
) -> None:
    target = replace(TARGET, seed=script)
    draft = replace(target, role="draft", agree=agreement, paraphrase=0.3)
    rule = StepRule("line")
    here = world(
        settings(target, **EXACT, max_lookahead=depth, max_tokens=max_tokens, max_attempts=10_000), target, draft
    )
    run(here, Random(seed), failures)
    check(here, target_only(target, max_tokens, rule))


def drafts_first(here: World) -> None:
    """The draft is always faster."""
    here.start()
    while here.choices():
        drafts = [c.call for c in here.log if isinstance(c, StartDraft) and c.call in here.under_way]
        here.do(drafts[0] if drafts else here.choices()[0])


def test_a_draft_that_is_right_and_fast_is_accepted_throughout() -> None:
    here = world(settings(**EXACT))
    drafts_first(here)
    summary = here.finished.summary
    assert summary.accept_rate == 1.0
    assert summary.num_target_steps == 0
    origins = {o.origin for o in here.outputs if isinstance(o, Committed) and o.text}
    assert origins == {Origin.ACCEPTED}


@pytest.mark.parametrize(("num_before", "num_own"), [(0, 0), (1, 1)])
def test_a_chunk_that_the_target_had_begun_is_the_drafts_and_what_it_wrote_before_is_its_own(
    num_before: int, num_own: int
) -> None:
    depths = [0 if num_before else 3]
    session = GuidedSession(settings(**EXACT), lambda: Decision(depths[0], "now"))
    here = World(session, TARGET, TARGET, lambda *_: False)  # type: ignore[arg-type]
    here.start()
    (stream,) = [c.call for c in here.log if isinstance(c, StartStream)]
    depths[0] = 3
    for _ in range(num_before + 1):  # the look-ahead begins behind the first token, or with the stream
        here.do(stream)
    while here.choices():
        drafts = [c.call for c in here.log if isinstance(c, StartDraft) and c.call in here.under_way]
        here.do(drafts[0] if drafts else stream)
    check(here, target_only(TARGET, 10_000, StepRule("line")))
    assert here.finished.summary.num_target_steps == num_own
    assert here.finished.summary.accept_rate == 1.0


def test_hints_begin_with_what_was_written_and_go_on_with_what_is_guessed() -> None:
    here = world(settings(**EXACT))
    drafts_first(here)
    expected = target_only(TARGET, 10_000, StepRule("line"))
    text = " ".join(map(str, expected))
    hints = [c.hints[0] for c in here.log if isinstance(c, AddHints)]
    assert hints
    assert all(" ".join(map(str, hint)) in text for hint in hints)


def hints_in(said: list[Command]) -> list[tuple[str, tuple[int, ...]]]:
    """Which call is told what."""
    return [(c.call_id, hint) for c in said if isinstance(c, AddHints) for hint in c.hints]


def test_a_stream_that_starts_again_is_told_what_comes_next_and_not_what_stood_before_it() -> None:
    """An engine takes a hint to begin with the call's first token."""
    session = GuidedSession(SessionSettings("r", (1,), (1,), V, 1000))
    commands = session.start()
    (stream,) = [c.call for c in commands if isinstance(c, StartStream)]
    (draft,) = [c.call for c in commands if isinstance(c, StartDraft)]
    for ids in ((1, 2), (3, 4), (5, 6), (7, 8)):
        session.handle(DraftStep(draft, step(*ids)))
    session.handle(Streamed(stream, part(1, 2, 3, 4, 5)))
    said = session.handle(TargetFailed(stream, RoleUnavailable("gone")))
    (again,) = [c for c in said if isinstance(c, StartStream)]
    name = again.request.call_id
    assert again.request.prefix.pieces[-1].token_ids == (1, 2, 3, 4, 5)
    assert hints_in(said) == [(name, (6, 7, 8))]
    assert hints_in(session.handle(DraftStep(draft, step(9, 10)))) == [(name, (6, 7, 8, 9, 10))]
    session.handle(Streamed(again.call, part(6, 7)))
    assert hints_in(session.handle(DraftStep(draft, step(11, 12)))) == [(name, (6, 7, 8, 9, 10, 11, 12))]
    session.handle(Streamed(again.call, part(8, 9, 10)))
    assert hints_in(session.handle(DraftStep(draft, step(13, 14)))) == [(name, (7, 8, 9, 10, 11, 12, 13, 14))]


def test_a_stream_at_another_coordinator_is_told_what_comes_next() -> None:
    before = Piece(words(1, 2, 3, 4, 5), (1, 2, 3, 4, 5), V)
    behind = Standing(1, ((Channel.CONTENT, before.text),), (before,), 5, None)
    session = GuidedSession(SessionSettings("r", (1,), (1,), V, 1000, resume=behind))
    commands = session.start()
    (stream,) = [c.request.call_id for c in commands if isinstance(c, StartStream)]
    (draft,) = [c.call for c in commands if isinstance(c, StartDraft)]
    assert hints_in(session.handle(DraftStep(draft, step(6, 7)))) == [(stream, (6, 7))]


@pytest.mark.parametrize(
    ("written", "hints", "nearby"),
    [
        ((9,), ((2, 3, 4),), ()),
        ((1, 9), ((3, 4),), ()),
        ((1, 2, 3, 9), (), ()),
        ((9, 8), (), (Nearby((2, 3, 4), 1),)),
    ],
)
def test_behind_a_token_of_the_targets_own_the_rest_of_what_was_guessed_is_a_hint_for_the_draft(
    written: tuple[int, ...], hints: tuple[tuple[int, ...], ...], nearby: tuple[Nearby, ...]
) -> None:
    session = GuidedSession(SessionSettings("r", (1,), (1,), V, 1000))
    commands = session.start()
    (stream,) = [c.call for c in commands if isinstance(c, StartStream)]
    (draft,) = [c.call for c in commands if isinstance(c, StartDraft)]
    for ids in ((1, 2), (3, 4)):
        session.handle(DraftStep(draft, step(*ids)))
    said = session.handle(Streamed(stream, part(*written)))
    (again,) = [c.request for c in said if isinstance(c, StartDraft)]
    assert again.prefix.pieces[-1].token_ids == written
    assert (again.hints, again.nearby) == (hints, nearby)


def test_a_trace_looks_at_no_more_spans_the_more_often_the_draft_was_left() -> None:
    trace = TraceRecorder("r", "lookahead", 0.0, lambda: 0.0, texts=False)
    session = GuidedSession(SessionSettings("r", (1,), (1,), V, 1000, max_lookahead=2))
    said = session.start()

    def hear(event: DraftStep | Streamed) -> list[Command]:
        trace.on_event(event)
        return session.handle(event)

    (stream,) = [c.call for c in said if isinstance(c, StartStream)]
    for _ in range(200):
        for command in said:
            trace.on_command(command)
        (draft,) = [c.call for c in said if isinstance(c, StartDraft)]
        for command in hear(DraftStep(draft, step(1, 2))):
            trace.on_command(command)
        said = hear(Streamed(stream, part(3)))
    assert session.summary().num_recovered_steps == 200
    assert len(trace._open) <= 2 * CHUNKS_A_STEP + 2


def test_the_draft_writes_in_small_chunks_and_stays_within_its_bound() -> None:
    here = world(settings(**EXACT, max_lookahead=3))
    drafts_first(here)
    starts = [c for c in here.log if isinstance(c, StartDraft)]
    assert {c.request.rule.max_tokens for c in starts} == {CHUNK_TOKENS}
    assert max(c.depth for c in starts) == 3 * CHUNKS_A_STEP


def test_a_slow_draft_is_sent_to_the_targets_place() -> None:
    here = world(settings(**EXACT))
    here.start()
    (stream,) = [c.call for c in here.log if isinstance(c, StartStream)]
    for _ in range(MAX_BEHIND + 1):
        here.do(stream)
    starts = [c for c in here.log if isinstance(c, StartDraft)]
    assert len(starts) > 1
    place = starts[-1].request.prefix.pieces[-1].token_ids
    assert len(place) > MAX_BEHIND
    assert place == target_only(TARGET, MAX_BEHIND + 1, StepRule("line"))[: len(place)]


def test_nothing_is_drafted_behind_the_reasoning() -> None:
    target = replace(TARGET, think=True)
    rule = StepRule("line", close=THINK.close)
    here = world(settings(target, verifier=None, rule=rule, marks=THINK), target)
    drafts_first(here)
    closes = next(i for i, o in enumerate(here.outputs) if isinstance(o, Committed) and o.channel.value == "content")
    after = here.outputs[closes:]
    assert all(o.origin is Origin.TARGET for o in after if isinstance(o, Committed) and o.text)


def test_a_draft_of_another_vocabulary_is_left_alone() -> None:
    here = world(settings(**EXACT), TARGET, replace(TARGET, vocabulary="other"))
    run(here, Random(1))
    check(here, target_only(TARGET, 10_000, StepRule("line")))
    assert here.finished.summary.degraded == ("draft_vocabulary",)
    assert not any(isinstance(c, AddHints) for c in here.log)
    assert [c for c in here.log if isinstance(c, DraftGone | ReviveDraft)] == [DraftGone()]


def test_a_draft_that_refuses_is_not_asked_again() -> None:
    here = world(settings(**EXACT))
    here.start()
    (draft,) = [c.call for c in here.log if isinstance(c, StartDraft)]
    here.fail(draft, permanent=True)
    while here.choices():
        here.do(here.choices()[0])
    check(here, target_only(TARGET, 10_000, StepRule("line")))
    assert here.finished.summary.degraded == ("draft_refused",)
    told = [type(c) for c in here.log if isinstance(c, DraftGone | ReviveDraft | StartDraft)]
    assert told == [StartDraft, DraftGone]
