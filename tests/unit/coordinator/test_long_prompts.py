"""Prompts that cannot fit: what the target would refuse by its length alone is sent to nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.draft import Draft
from actors.errors import ContextTooLong
from actors.messages import Prompt, RoleInfo, TokenIds
from actors.target import TargetModel
from deployments.coordinator.fitting import LONG
from deployments.coordinator.pipeline import Roles
from deployments.generation import Finished, Output
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import TARGET, Bench, request


class Counting:
    """Counts what is read."""

    def __init__(self, bench: Bench) -> None:
        counts = self

        class CountingTarget(TargetModel):
            async def render(self, *prompts: Prompt) -> tuple[RoleInfo, tuple[TokenIds, ...]]:
                counts.num_read += 1
                return await super().render(*prompts)

        class CountingDraft(Draft):
            async def render(self, *prompts: Prompt) -> tuple[RoleInfo, tuple[TokenIds, ...]]:
                counts.num_read += 1
                return await super().render(*prompts)

        self.num_read = 0
        bench.roles = Roles(CountingTarget(bench.target_engine), CountingDraft(bench.draft_engine))


def ask(
    num_ids: int, mode: str = "lookahead", max_model_len: int = 4 * LONG
) -> tuple[list[Output] | ContextTooLong, int]:
    """What comes of so many token ids, and how often they were read by draft or target."""

    async def scene() -> tuple[list[Output] | ContextTooLong, int]:
        target = replace(TARGET, max_model_len=max_model_len, num_steps=2)
        bench = Bench(target, replace(target, role="draft"))
        counting = Counting(bench)
        coordinator = await bench.coordinator()
        wishes = {"mode": mode, "verifier": "exact", "prompt": Prompt(token_ids=(7,) * num_ids)}
        try:
            return [output async for output in coordinator.generate(request(**wishes))], counting.num_read
        except ContextTooLong as error:
            return error, counting.num_read

    return run_virtually(scene())


@pytest.mark.parametrize("mode", ["lookahead", "target"])
def test_token_ids_that_cannot_fit_are_sent_to_nobody(mode: str) -> None:
    error, num_read = ask(4 * LONG, mode)
    assert isinstance(error, ContextTooLong)
    whole = ContextTooLong.of_prompt(4 * LONG, 4 * LONG)
    assert (error.message, error.param) == (whole.message, whole.param), "the target's own words"
    assert num_read == 0


def test_what_just_fits_is_written() -> None:
    outputs, num_read = ask(4 * LONG - 2)  # a scripted engine puts a token behind them
    assert isinstance(outputs, list)
    assert isinstance(outputs[-1], Finished)
    assert outputs[-1].num_output_tokens == 1
    assert num_read == 2


def test_what_is_short_is_refused_by_the_target() -> None:
    error, num_read = ask(LONG - 1, max_model_len=LONG - 1)
    assert isinstance(error, ContextTooLong)
    assert num_read > 0
