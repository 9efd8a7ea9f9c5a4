"""A session that another coordinator goes on with: cut behind every single output, the whole is as if never cut."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from actors.engines.scripted import ScriptOptions
from actors.errors import OtherVocabulary, ServiceError
from actors.messages import Delta, Ending, Piece, Step, StepRule
from deployments.coordinator.events import (
    Commit,
    DraftStep,
    Finish,
    StartDraft,
    StartTarget,
    TargetProgress,
    TargetStep,
)
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.keeper import Keeper
from deployments.coordinator.output import Marks
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.tally import Tally
from deployments.coordinator.transcript import Transcript
from deployments.generation import (
    Channel,
    Committed,
    Finished,
    Keep,
    Opened,
    Origin,
    Output,
    SpeculationSummary,
    Standing,
)
from deployments.ledger import Ledger
from deployments.telemetry.metrics import Metrics, RequestMetrics
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import Bench, request
from tests.unit.coordinator.talk import V, part, step, words
from tests.unit.coordinator.world import TARGET, THINK, World, settings

DRAFT = replace(TARGET, role="draft", agree=0.5, paraphrase=0.2)
THINKING = replace(TARGET, think=True, num_steps=3)
Made = Session | GuidedSession


def run(of: SessionSettings, target: ScriptOptions, draft: ScriptOptions, guides: bool, salt: int) -> list[Output]:
    """All outputs of one session, whose events come in an order by `salt`."""
    session: Made = GuidedSession(of) if guides else Session(of)
    world = World(session, target, draft, lambda a, b: False)  # type: ignore[arg-type]
    order = Random(salt)
    world.start()
    while not session.finished:
        world.do(order.choice(world.choices()))
    assert world.failed is None
    assert session.num_live_calls == 0
    return [Opened("r", len(of.target_prompt)), *world.outputs]


def text(outputs: list[Output]) -> list[tuple[Channel, str]]:
    """The texts, neighbours of one channel joined."""
    ledger = Ledger()
    for output in outputs:
        ledger.take(output)
    standing = ledger.standing()
    assert standing is not None
    return list(standing.texts)


def behind(outputs: list[Output]) -> Standing:
    ledger = Ledger()
    for output in outputs:
        ledger.take(output)
    standing = ledger.standing()
    assert standing is not None
    assert ledger.can_go_on
    return standing


def end(outputs: list[Output]) -> Finished:
    last = outputs[-1]
    assert isinstance(last, Finished)
    return last


CASES: dict[str, tuple[ScriptOptions, dict[str, object], bool]] = {
    "target": (TARGET, {"mode": "target"}, False),
    "lookahead, nobody judges": (TARGET, {"verifier": None, "progress_s": 0.1}, False),
    "lookahead, all is rejected": (TARGET, {"progress_s": 0.1}, False),
    "lookahead, whole steps": (TARGET, {}, False),
    "sync": (TARGET, {"mode": "lookahead_sync"}, False),
    "branches": (TARGET, {"branches": 2, "progress_s": 0.1}, False),
    "guided": (TARGET, {"verifier": None}, True),
    "thinking, target": (THINKING, {"mode": "target", "marks": THINK}, False),
    "thinking, lookahead": (THINKING, {"marks": THINK, "progress_s": 0.1, "speculate_content": False}, False),
    "thinking, guided": (THINKING, {"marks": THINK, "verifier": None, "speculate_content": False}, True),
    "stop string over a seam": (
        TARGET,
        {"verifier": None, "progress_s": 0.1, "stop": (".\n\nX", ".\n\nC", ".\n\nH")},
        False,
    ),
    "stop string, guided": (TARGET, {"verifier": None, "stop": (".\n\nX", ".\n\nC", ".\n\nH")}, True),
    "thinking, stop string": (
        THINKING,
        {"mode": "target", "marks": THINK, "stop": ("answer is", "</think>\n\nX")},
        False,
    ),
    "tokens": (TARGET, {"progress_s": 0.1, "max_tokens": 61}, False),
    "tokens, guided": (TARGET, {"verifier": None, "max_tokens": 50}, True),
    "steps are cut": (TARGET, {"progress_s": 0.1, "rule": StepRule(max_tokens=7)}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_cut_behind_any_output_the_whole_is_as_if_never_cut(name: str) -> None:
    target, changes, guides = CASES[name]
    of = settings(target, **changes)
    uncut = run(of, target, DRAFT, guides, 1)
    for at in range(1, len(uncut)):
        before = uncut[:at]
        rest = run(replace(of, resume=behind(before), num_takeovers=1), target, DRAFT, guides, at)[1:]
        assert text(before + rest) == text(uncut), at
        whole, resumed = end(uncut), end(rest)
        assert resumed.num_output_tokens == whole.num_output_tokens, at
        assert resumed.num_reasoning_tokens == whole.num_reasoning_tokens, at
        assert resumed.num_prompt_tokens == whole.num_prompt_tokens
        assert (resumed.finish_reason, resumed.stop_reason) == (whole.finish_reason, whole.stop_reason), at
        summary = resumed.summary
        assert "coordinator_resumed" in summary.degraded
        assert summary.num_open_steps == 0, "the books of draft steps add up over the cut"
        assert summary.num_open_tokens == 0, "and those of their tokens"
        assert sum(o.num_tokens for o in before + rest if isinstance(o, Committed)) == resumed.num_output_tokens
        numbers = [o.step for o in before + rest if isinstance(o, Committed)]
        assert numbers == sorted(numbers), "step numbers go on"


@pytest.mark.parametrize("name", ["lookahead, nobody judges", "guided", "thinking, lookahead", "stop string, guided"])
def test_cut_again_and_again(name: str) -> None:
    """Each coordinator dies after one output."""
    target, changes, guides = CASES[name]
    of = settings(target, **changes)
    uncut = run(of, target, DRAFT, guides, 1)
    got = uncut[:1]
    while not isinstance(got[-1], Finished):
        got.append(run(replace(of, resume=behind(got)), target, DRAFT, guides, len(got))[1])
    assert text(got) == text(uncut)
    assert end(got).num_output_tokens == end(uncut).num_output_tokens
    assert end(got).finish_reason == end(uncut).finish_reason


def test_a_target_alone_counts_its_steps_over_the_cut() -> None:
    of = settings(TARGET, mode="target")
    uncut = run(of, TARGET, DRAFT, False, 1)
    for at in range(1, len(uncut)):
        rest = run(replace(of, resume=behind(uncut[:at])), TARGET, DRAFT, False, at)
        following = uncut[at]
        # An engine that begins with the boundary itself takes it for the beginning of a step, not for an end.
        loses_boundary = isinstance(following, Committed) and following.text == "\n\n"
        assert end(rest).summary.num_steps == end(uncut).summary.num_steps - loses_boundary, at


def test_a_step_of_another_vocabulary_takes_the_place_of_its_parts() -> None:
    of = SessionSettings("r", (1,), (1,), V, 1000, progress_s=0.1, verifier="v")
    session = Session(of)
    said = session.start()
    target = next(c.call for c in said if isinstance(c, StartTarget))
    draft = next(c.call for c in said if isinstance(c, StartDraft))
    other = Step(words(1, 2, 3), (7,), "other", Ending.BOUNDARY)
    said += session.handle(DraftStep(draft, other))
    said += session.handle(TargetProgress(target, part(1, 2)))
    outputs: list[Output] = [Opened("r", 1), *(c.output for c in said if isinstance(c, Commit))]
    assert behind(outputs).pieces == (Piece(words(1, 2), (1, 2), V),)
    said = session.handle(TargetStep(target, step(1, 2, 3)))
    outputs += [c.output for c in said if isinstance(c, Commit)]
    assert behind(outputs).pieces == (Piece(words(1, 2, 3), (7,), "other"),)
    assert behind(outputs).texts == ((Channel.CONTENT, words(1, 2, 3)),)


# Characters of up to four tokens, whose text comes with the last of them; marks and stop strings in pieces.
ALPHABET = [
    "<",
    "</",
    "think",
    ">",
    "</think>",
    "<think>",
    "\n",
    "\n\n",
    "a",
    "b",
    "ab",
    "STOP",
    "ST",
    "OP",
    "\U0001f600",
]


@examples(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(ALPHABET), st.integers(1, 4)), min_size=1, max_size=14),
    st.sampled_from([Marks(), THINK, Marks("<think>", "</think>", starts_open=False)]),
    st.sampled_from([(), ("STOP",), ("b\n", "abSTOP", "</think>\n\na"), ("a</think>",)]),
)
def test_any_text_leaves_once_over_any_cuts(tokens: list[tuple[str, int]], marks: Marks, stop: tuple[str, ...]) -> None:
    deltas: list[Delta] = []
    for number, (string, size) in enumerate(tokens):
        deltas += [Delta("", (4 * number + i,)) for i in range(size - 1)]
        deltas.append(Delta(string, (4 * number + size - 1,)))
    of = SessionSettings("r", (1,), None, V, 1000, marks=marks, stop=stop, mode="target")
    uncut = tell(Transcript(of, Tally("target")), deltas)
    for at in range(len(uncut)):
        received = [Opened("r", 1), *uncut[:at]]
        stands = behind(received)
        if stands.finished is not None:
            continue
        transcript = Transcript(replace(of, resume=stands), Tally("target", stands))
        due: list[Output] = [c.output for c in transcript.start()]
        num_before = sum(len(piece.token_ids) for piece in stands.pieces)
        rest = due + tell(transcript, deltas[num_before:])
        assert "".join(t for _, t in text(received + rest)) == "".join(t for _, t in text([received[0], *uncut]))
        assert end(rest).num_output_tokens == end(uncut).num_output_tokens or end(uncut).stop_reason is not None
        assert end(rest).stop_reason == end(uncut).stop_reason


def tell(transcript: Transcript, deltas: list[Delta]) -> list[Output]:
    """What a client gets of `deltas`."""
    commits: list[Commit | Finish] = []
    for delta in deltas:
        if transcript.stopped is None:
            piece = Piece(delta.text, delta.token_ids, V)
            commits += transcript.commit(piece, Piece("", (), V), Origin.TARGET, 0, None)
    commits += transcript.finish("stop", Tally("target").summary(transcript.num_tokens))
    return [c.output for c in commits]


def test_what_was_counted_before_is_not_counted_again() -> None:
    metrics = Metrics()
    before = SpeculationSummary("lookahead", num_target_steps=3, rejected_tokens=7, degraded=("draft_unavailable",))
    RequestMetrics(metrics, "lookahead", lambda: 0.0).close(before)
    more = replace(before, num_target_steps=5, rejected_tokens=9, degraded=("draft_unavailable", "coordinator_resumed"))
    RequestMetrics(metrics, "lookahead", lambda: 0.0, Standing(3, (), (), 9, None, counts=before)).close(more)
    told = metrics.text()
    assert "lookahead_num_target_steps_total 5.0" in told
    assert 'lookahead_wasted_tokens_total{role="draft"} 9.0' in told
    assert 'lookahead_degraded_total{reason="draft_unavailable"} 1.0' in told
    assert 'lookahead_degraded_total{reason="coordinator_resumed"} 1.0' in told


def test_a_request_that_is_handed_over_is_in_each_histogram_once() -> None:
    async def scene() -> tuple[float, float, str]:
        coordinator, clock = await Bench().coordinator(), asyncio.get_running_loop().time
        keepers = [Keeper(coordinator.generate, 10, 10**6) for _ in range(2)]
        asked = replace(request(mode="target"), keep=Keep(60.0, "me", "{}", "r"))
        begun, first_s = clock(), None
        async with aclosing(keepers[0].generate(asked)) as outputs:
            async for output in outputs:
                if isinstance(output, Committed):
                    first_s = first_s or clock() - begun
                    if output.step >= 4:
                        break
        (rest,) = await keepers[0].hand_over("r", "me")
        assert isinstance([output async for output in keepers[1].generate(rest)][-1], Finished)
        took_s = clock() - begun
        for keeper in keepers:
            await keeper.close()
        return first_s or 0.0, took_s, coordinator.metrics()

    first_s, took_s, told = run_virtually(scene())
    for name, seconds in (("time_to_first_step_seconds", first_s), ("request_seconds", took_s)):
        assert re.findall(rf"^lookahead_{name}_count\S* (\S+)$", told, re.M) == ["1.0"]
        assert float(re.findall(rf"^lookahead_{name}_sum\S* (\S+)$", told, re.M)[0]) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("is_kept", "failure", "num"),
    [
        (False, None, 1),  # its client has left
        (True, None, 0),  # it was handed over
        (True, ServiceError("The target does not answer."), 1),
        (False, OtherVocabulary("There is another target now."), 0),
    ],
)
def test_a_request_s_time_is_over_where_nobody_goes_on_with_it(
    is_kept: bool, failure: Exception | None, num: int
) -> None:
    metrics = Metrics()
    RequestMetrics(metrics, "target", lambda: 0.0, is_kept=is_kept).close(None, failure)
    assert ('lookahead_request_seconds_count{mode="target"} 1.0' in metrics.text()) == bool(num)


def test_only_where_a_coordinator_was_lost_it_is_told_so() -> None:
    """A client that comes back for the rest of its stream is given to another one as well."""
    stands = Standing(3, (), (), 9, None, counts=SpeculationSummary("lookahead", degraded=("draft_unavailable",)))
    assert Tally("lookahead", stands).summary(9).degraded == ("draft_unavailable",)
    lost = Tally("lookahead", stands, num_takeovers=1).summary(9)
    assert lost.degraded == ("draft_unavailable", "coordinator_resumed")
    again = Tally("lookahead", replace(stands, counts=lost)).summary(9)
    assert again.degraded == lost.degraded, "an earlier loss stays"


@pytest.mark.parametrize("mode", ["target", "lookahead"])
def test_the_counts_of_both_runs_are_those_of_the_whole_answer(mode: str) -> None:
    async def scene() -> tuple[SpeculationSummary, SpeculationSummary, str]:
        coordinator, got = await Bench().coordinator(), list[Output]()
        wish = request(mode=mode, verifier="exact")
        async with aclosing(coordinator.generate(wish)) as outputs:
            async for output in outputs:
                got.append(output)
                if isinstance(output, Committed) and output.step >= 6:
                    break
        stands = behind(got)
        assert stands.counts is not None
        rest = [output async for output in coordinator.generate(replace(wish, resume=stands))]
        return stands.counts, end(rest).summary, coordinator.metrics()

    before, whole, told = run_virtually(scene())
    assert whole.num_steps > 7
    assert f"lookahead_num_target_steps_total {float(whole.num_target_steps)}" in told
    if mode == "lookahead":
        assert before.num_open_tokens > 0, "draft steps were under way at the cut"
        assert whole.accepted_tokens + whole.rejected_tokens == whole.draft_tokens
        assert f'lookahead_wasted_tokens_total{{role="draft"}} {float(whole.rejected_tokens)}' in told
