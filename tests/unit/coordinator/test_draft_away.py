"""A draft of which no replica is left while a request looks ahead, on a virtual clock: the target goes on alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from actors.draft import Draft
from actors.messages import Prompt, RoleInfo, TokenIds
from deployments.coordinator.pools import DRAFT_WAIT_S, DraftPool
from deployments.generation import Committed, Finished
from deployments.link.frames import Address
from deployments.link.members import Members
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Bench, request, truth

SCRIPT = replace(TARGET, token_s=0.01)
STEP_S = SCRIPT.words * SCRIPT.token_s


async def nobody() -> list[Address]:
    return []


class Dying(DraftPool):
    """Its replicas die whenever they have rendered a prompt."""

    def __init__(self, draft: Draft, members: Members, wait_s: float) -> None:
        super().__init__(members, wait_s)
        self._draft = draft

    async def render(self, *prompts: Prompt) -> tuple[RoleInfo, tuple[TokenIds, ...]]:
        return await self._draft.render(*prompts)


@pytest.mark.parametrize("mode", ["specreason", "lookahead_sync"])
@pytest.mark.parametrize("replica_timeout_s", [60.0, 0.3])
def test_without_a_draft_the_target_soon_goes_on(mode: str, replica_timeout_s: float) -> None:
    async def play() -> str:
        bench, members = Bench(SCRIPT, replace(DRAFT, token_s=0.001)), Members("draft", nobody)
        drafter = Dying(Draft(bench.draft_engine), members, replica_timeout_s)
        bench.roles = replace(bench.roles, drafter=drafter)
        coordinator, clock = await bench.coordinator(), asyncio.get_running_loop().time
        times, text = [clock()], ""
        async for output in coordinator.generate(request(mode=mode, verifier="always")):
            text += output.text if isinstance(output, Committed) else ""
            times.append(clock())
        assert isinstance(output, Finished)
        assert output.summary.degraded == ("draft_unavailable",)
        pauses = [later - before for before, later in pairwise(times)]
        assert max(pauses) == pytest.approx(min(DRAFT_WAIT_S, replica_timeout_s) + STEP_S, abs=0.2)
        await members.aclose()
        return text

    assert run_virtually(play()) == truth(SCRIPT)
