"""vLLM's draft model method in our engine, behind hints, on a real model (SmolLM2 135M, float32, one core) that drafts
for itself: lossless, and what it drafts is accepted."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from actors.engines import create_engine
from actors.messages import Delta, Prompt, Sampling, SpeculationStats, StepRule, TokenIds
from actors.roles import Engine
from tests.real import small_model
from tests.real.small_model import CORE, MARKS, MODEL

pytestmark = MARKS

NUM_DRAFT_TOKENS = 3
NUM_HINT_TOKENS = 8
OPTIONS = {
    **small_model.OPTIONS,
    "speculative_config": {
        "method": "hints",
        "num_speculative_tokens": NUM_HINT_TOKENS,
        "model": MODEL,
        "num_draft_tokens": NUM_DRAFT_TOKENS,
    },
}
STORY = Prompt(text="The old sailor looked at the sea and said to the boy:")
NUM_TOKENS = 33
"""The first one, then eight passes of four."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    engine = await create_engine("vllm", MODEL, OPTIONS, cpu_cores=CORE, replica="here")
    assert engine.describe().takes_hints
    yield engine
    assert engine.num_running() == 0
    await engine.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(engine: Engine) -> TokenIds:
    """What the model writes after `STORY` without any speculation."""
    return await write(engine, token_speculation="none")


async def write(
    engine: Engine, *, hints: tuple[TokenIds, ...] = (), late: TokenIds = (), token_speculation: str = "hints"
) -> TokenIds:
    """The greedy text after `STORY`; the hint `late` is handed over once something is written."""
    call_id, deltas = f"call-{time.monotonic_ns()}", list[Delta]()
    async for delta in engine.generate(
        call_id,
        await engine.encode_prompt(STORY),
        max_tokens=NUM_TOKENS,
        rule=StepRule(max_tokens=NUM_TOKENS),
        max_steps=None,
        sampling=Sampling(),
        hints=hints,
        token_speculation=token_speculation,
    ):
        if late and not deltas:
            await engine.add_hints(call_id, (late,))
        deltas.append(delta)
    return tuple(token for delta in deltas for token in delta.token_ids)


async def counted(engine: Engine) -> SpeculationStats:
    stats = await engine.speculation_stats()
    assert stats is not None
    return stats


async def test_a_model_that_drafts_for_itself_is_always_right(engine: Engine, plain: TokenIds) -> None:
    before = await counted(engine)
    assert await write(engine) == plain
    after = await counted(engine)
    assert len(plain) == NUM_TOKENS
    assert after.num_drafts - before.num_drafts == 8
    assert after.num_draft_tokens - before.num_draft_tokens == 8 * NUM_DRAFT_TOKENS
    assert after.num_accepted_tokens - before.num_accepted_tokens == 8 * NUM_DRAFT_TOKENS
    assert after.num_hint_tokens == before.num_hint_tokens


async def test_a_hint_goes_first_and_the_model_goes_on_where_it_ends(engine: Engine, plain: TokenIds) -> None:
    before = await counted(engine)
    assert await write(engine, hints=(plain[:18],)) == plain
    after = await counted(engine)
    accepted = after.num_hint_accepted_tokens - before.num_hint_accepted_tokens
    assert accepted == after.num_hint_tokens - before.num_hint_tokens >= 15
    by_model = after.num_accepted_tokens - before.num_accepted_tokens - accepted
    assert by_model >= 6
    assert after.num_draft_tokens - before.num_draft_tokens - accepted == by_model, "it had read all that was hinted"


@pytest.mark.parametrize("kind", ["wrong", "other token", "late", "ngram"])
async def test_nothing_changes_a_token(engine: Engine, plain: TokenIds, kind: str) -> None:
    written = {
        "wrong": write(engine, hints=(tuple(range(300, 360)),)),
        "other token": write(engine, hints=((*plain[:10], 300, *plain[11:]),)),
        "late": write(engine, late=plain),
        "ngram": write(engine, token_speculation="ngram"),
    }
    found = written.pop(kind)
    for other in written.values():
        other.close()
    assert await found == plain


async def test_requests_of_every_kind_share_a_batch(engine: Engine, plain: TokenIds) -> None:
    found = await asyncio.gather(
        write(engine, hints=(plain,)),
        write(engine),
        write(engine, token_speculation="none"),
        write(engine, hints=(plain[:12],), late=plain),
    )
    assert found == [plain] * 4
