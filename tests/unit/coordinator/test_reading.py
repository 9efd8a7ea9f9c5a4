"""What a role has to read before its first word counts for how long it may be silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.messages import Prefix, Step, StepRequest, StepRule
from actors.target import TargetModel
from deployments.coordinator.breaker import Fuse
from deployments.coordinator.events import Decision
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.latency import Bounds
from deployments.coordinator.listening import FEW_TOKENS, HasRead
from deployments.coordinator.pipeline import Pipeline, Roles
from deployments.coordinator.vigilance import Vigilance
from deployments.generation import Finished
from tests.unit.clock import run_virtually
from tests.unit.coordinator.world import PROMPT, settings

LONG = ScriptOptions(num_steps=300, token_s=1.0)
READ_S = 0.002


class SlowReader(Draft):
    """A draft that takes 2 ms for each token that is not in its cache."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine)
        self.num_read = 0

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        num_tokens = request.prefix.num_tokens
        await asyncio.sleep(max(0, num_tokens - self.num_read) * READ_S)
        async with aclosing(super().look_ahead(request, depth)) as steps:
            async for step in steps:
                num_tokens += len(step.token_ids)
                self.num_read = max(self.num_read, num_tokens)
                yield step


def test_a_draft_that_was_left_alone_for_long_may_read_what_was_written_meanwhile() -> None:
    """After 500 tokens its hints are not wanted for 3,000, which take it 6 s; it answers within a second otherwise."""

    async def scene() -> tuple[Finished, SlowReader]:
        draft = SlowReader(ScriptedEngine(replace(LONG, role="draft", token_s=0.01)))
        session = GuidedSession(
            settings(LONG, verifier=None, rule=StepRule("line"), max_tokens=3_700),
            lambda: Decision(0 if 500 <= session.summary().output_tokens < 3_500 else 4, "as the test wants it"),
        )
        vigilance = Vigilance(Bounds(100.0, 100.0), Bounds(1.0, 30.0), Bounds(1.0, 1.0), Fuse())
        roles = Roles(TargetModel(ScriptedEngine(LONG)), draft)
        outputs = [output async for output in Pipeline(session, roles, PROMPT, vigilance=vigilance).run()]
        assert isinstance(outputs[-1], Finished)
        return outputs[-1], draft

    finished, draft = run_virtually(scene())
    assert finished.summary.degraded == ()
    assert draft.num_read > 3_600, "it was asked again"


class Moving:
    """A pool whose sessions have this home."""

    def __init__(self, home: str) -> None:
        self.at = home

    def home(self, session_id: str) -> str:
        return self.at


def test_what_was_heard_of_one_replica_was_not_read_by_another() -> None:
    def behind(num_tokens: int) -> StepRequest:
        return StepRequest("c", "s", Prefix((1,) * num_tokens), StepRule(), 9)

    pool = Moving("")
    read = HasRead(pool)  # type: ignore[arg-type]
    assert read.num_unread(behind(20)) == 20
    pool.at = "r0"
    read.heard(behind(2_000), 100)
    assert read.num_unread(behind(1_900)) == 0
    assert read.num_unread(behind(2_100 + FEW_TOKENS)) == 0, "a few words are read beside the first one"
    assert read.num_unread(behind(5_100)) == 3_000
    read.lost()
    assert read.num_unread(behind(2_000)) == 2_000
    read.heard(behind(2_000), 100)
    pool.at = "r1"
    assert read.num_unread(behind(2_100)) == 2_100
