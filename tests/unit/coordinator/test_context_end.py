"""The end of the target's context where the draft counts its tokens in another vocabulary: the text ends there with
`length`, and what was written stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, prompt_ids
from actors.errors import ContextTooLong, RequestError
from actors.messages import Delta, Ending, Piece, Step, StepRequest, StepRule
from actors.target import TargetModel
from deployments.coordinator.events import (
    Command,
    DraftStep,
    Fail,
    Finish,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
    TargetStep,
)
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.output import Marks
from deployments.coordinator.pipeline import Patience, Pipeline, Roles
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.generation import Committed, Finished
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, PROMPT, TARGET, Answer, Bench, truth
from tests.unit.coordinator.talk import Talk, part, step
from tests.unit.coordinator.world import target_only

FULL = ContextTooLong("no room")


class Coarse(Draft):
    """A draft whose vocabulary takes half as many tokens for a text."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine)
        self._info = replace(self._info, vocabulary="coarse")

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        async for one in super().look_ahead(request, depth):
            yield replace(one, vocabulary="coarse", token_ids=one.token_ids[::2])

    async def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[Piece | Step, None]:
        async for one in self.look_ahead(request, depth):
            yield one


@pytest.mark.parametrize("mode", ["lookahead", "lookahead_sync"])
def test_steps_that_reach_the_end_of_the_context_end_with_length(mode: str) -> None:
    async def scene() -> Answer:
        bench = Bench(replace(TARGET, num_steps=60, max_model_len=600), replace(DRAFT, num_steps=60))
        bench.roles = Roles(TargetModel(bench.target_engine), Coarse(bench.draft_engine))
        return await bench.ask(mode=mode, verifier="exact", timeout_s=1000.0)

    answer = run_virtually(scene())
    assert answer.finished.finish_reason == "length"
    assert answer.finished.summary.num_accepted_steps > 0
    assert truth(replace(TARGET, num_steps=60)).startswith(answer.text)
    assert len(ScriptedEngine(TARGET).encode_text(answer.text)) > 500, "nearly all of the context was used"


def test_an_answer_that_reaches_the_end_of_the_context_ends_there_with_length() -> None:
    thinks = replace(TARGET, num_steps=8, think=True)
    prompt = prompt_ids(PROMPT)
    room = len(target_only(thinks, 10_000, StepRule())) - 3

    async def scene() -> tuple[str, Finished, float]:
        engine = ScriptedEngine(replace(thinks, max_model_len=len(prompt) + room))
        of = SessionSettings(
            "r", prompt, prompt, "scripted", room, marks=Marks("<think>", "</think>"), speculate_content=False
        )
        roles = Roles(TargetModel(engine), Coarse(ScriptedEngine(replace(thinks, role="draft", token_s=0.01))))
        pipeline = Pipeline(Session(of), roles, PROMPT, Patience(request_s=3600.0))
        outputs = [output async for output in pipeline.run()]
        assert isinstance(outputs[-1], Finished)
        text = "".join(output.text for output in outputs if isinstance(output, Committed))
        return text, outputs[-1], asyncio.get_running_loop().time()

    text, last, elapsed_s = run_virtually(scene())
    assert last.finish_reason == "length"
    assert text.endswith("The answer")
    assert elapsed_s < 60.0


def with_a_refused_position() -> tuple[Talk, int]:
    """The target has no room behind the draft's first step, which is not decided; the call that writes that one."""
    talk = Talk(progress_s=0.0)
    head, draft = talk.last(StartTarget), talk.last(StartDraft)
    talk.hear(DraftStep(draft.call, step(1, 2)))
    behind = talk.last(StartTarget)
    assert not [c for c in talk.hear(TargetFailed(behind.call, FULL, retryable=False)) if isinstance(c, Finish | Fail)]
    assert talk.last(StartTarget) is behind, "nobody asks again"
    return talk, head.call


def test_a_refused_position_that_becomes_the_head_ends_the_text() -> None:
    talk, head = with_a_refused_position()
    said = talk.hear(TargetStep(head, step(1, 2)))
    (finish,) = [c for c in said if isinstance(c, Finish)]
    assert (finish.output.finish_reason, finish.output.num_output_tokens) == ("length", 2)
    assert talk.session.num_live_calls == 0


def test_a_refused_position_that_never_stands_costs_nothing() -> None:
    talk, head = with_a_refused_position()
    said = talk.hear(TargetStep(head, step(7)))
    assert [c for c in said if isinstance(c, StartTarget)], "the text goes on behind the target's own step"
    assert not talk.session.finished


def test_other_refusals_and_a_prompt_without_room_are_errors() -> None:
    talk, head = with_a_refused_position()
    said = talk.hear(TargetFailed(head, FULL, retryable=False))
    assert [c.error for c in said if isinstance(c, Fail)] == [FULL]
    talk, error = Talk(), RequestError("no")
    said = talk.hear(TargetFailed(talk.last(StartTarget).call, error, retryable=False))
    assert [c.error for c in said if isinstance(c, Fail)] == [error]


@pytest.mark.parametrize("kind", [Session, GuidedSession])
@pytest.mark.parametrize("has_room", [True, False])
def test_a_stream_ends_at_the_end_of_the_context(kind: type[Session | GuidedSession], has_room: bool) -> None:
    session = kind(SessionSettings("r", (1,), None, "v", 1000, mode="target"))

    def start_of(commands: list[Command]) -> int:
        return next(c.call for c in commands if isinstance(c, StartStream))

    call = start_of(session.start())
    said = session.handle(Streamed(call, replace(part(1, 2), ending=Ending.CAP if has_room else None)))
    if not has_room:
        said = session.handle(TargetFailed(call, FULL, retryable=False))
    (finish,) = [c for c in said if isinstance(c, Finish)]
    assert (finish.output.finish_reason, finish.output.num_output_tokens) == ("length", 2)
    assert finish.output.summary.num_steps == 1


class Brief(TargetModel):
    """A target whose streams break off where a step ends, without a word."""

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        async for delta in super().stream(request):
            yield delta
            if delta.ending is not None:
                return


def test_a_stream_that_breaks_off_between_two_steps_is_continued() -> None:
    async def scene() -> Answer:
        bench = Bench()
        bench.roles = replace(bench.roles, target=Brief(bench.target_engine))
        return await bench.ask(mode="target", timeout_s=1000.0)

    answer = run_virtually(scene())
    assert answer.text == truth()
    assert answer.finished.finish_reason == "stop"
