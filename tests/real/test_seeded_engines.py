"""Random numbers of engines on a real model (SmolLM2 135M, float32, one core): those of a request's seed, in however
many passes its prompt is read and whatever is hinted, and those of a replica, which no other one draws."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from actors.messages import Piece, Prefix, Prompt, Sampling, StepRule, TokenIds
from actors.roles import Engine
from actors.start_phases import StartPhases
from deployments import replicas
from deployments.coordinator.calls import Calls
from deployments.coordinator.hints import Hints
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.window import Position
from deployments.replicas import start_engine
from deployments.sections import EngineConfig, PlacementConfig, WriterConfig
from tests.real import small_model
from tests.real.small_model import CORE, MARKS, MODEL

pytestmark = MARKS

NUM_TOKENS = 24
PROMPT = Prompt(text="The old sailor looked at the sea and said to the boy that storms come and go. " * 20)
SEEDED = Sampling(temperature=1.0, seed=7)
COINS = Prompt(text="A fair coin, thrown again and again:" + " H T T H T H H T H T T T H H T H T T H" * 2)
"""A text that goes on with one of the same two tokens at each place, more or less likely."""
NUM_COINS = 33
"""Tokens of it: a block that is found in the cache and one more, so that a pass has room for as many as are drawn."""
NUM_DRAWS = 500
TEMPERATURE = 1.3
VOCABULARY_SIZE = 49152
CRITICAL = 13.82
"""Chi-square with two degrees of freedom exceeds this once in a thousand times."""


@asynccontextmanager
async def replica(name: str, options: dict[str, Any]) -> AsyncIterator[Engine]:
    """The engine of a replica of this name, as the replica itself starts it."""
    placement = PlacementConfig(cpu_cores=CORE)
    engine_config = EngineConfig(kind="vllm", options={**small_model.OPTIONS, "max_num_batched_tokens": 64, **options})
    config = WriterConfig(model=MODEL, engine=engine_config, placement=placement)
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id=name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("RAY_ADDRESS", "here")
        patch.setattr(replicas.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="here"))
        patch.setattr(replicas.serve, "get_replica_context", lambda: context)
        engine = await start_engine(config, placement, StartPhases())
    try:
        yield engine
        await engine.check_health()
        assert engine.num_running() == 0
    finally:
        await engine.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines() -> AsyncIterator[dict[str, Engine]]:
    """Two replicas of one model, of which one takes hints."""
    hints = {"max_num_seqs": 32, "speculative_config": {"method": "hints"}}
    async with replica("one", {}) as plain, replica("two", hints) as hinted:
        yield {"plain": plain, "hints": hinted}


async def write(
    engine: Engine,
    ids: TokenIds,
    sampling: Sampling,
    salt: str = "",
    speculation: str = "none",
    hint: TokenIds = (),
    num_tokens: int = NUM_TOKENS,
) -> tuple[TokenIds, int]:
    """What is drawn after `ids`, and how many of these were found in the cache."""
    deltas = engine.generate(
        f"call-{time.monotonic_ns()}",
        ids,
        max_tokens=num_tokens,
        rule=StepRule(max_tokens=NUM_TOKENS),
        max_steps=None,
        sampling=sampling,
        hints=(hint,) if hint else (),
        token_speculation=speculation,
        cache_salt=salt,
    )
    written = [delta async for delta in deltas]
    return tuple(token for delta in written for token in delta.token_ids), written[0].num_cached_tokens


async def test_two_replicas_do_not_draw_the_same_text(engines: dict[str, Engine]) -> None:
    """Each of them is new and writes its first text."""
    texts = []
    for engine in engines.values():
        ids = await engine.encode_prompt(Prompt(text="The old sailor said:"))
        texts.append((await write(engine, ids, Sampling(temperature=1.0)))[0])
    assert texts[0] != texts[1]


@pytest.mark.parametrize("kind", ["plain", "hints"])
async def test_a_seed_draws_the_same_in_however_many_passes_its_prompt_is_read(
    engines: dict[str, Engine], kind: str
) -> None:
    """Each pass but the last draws a token that does not count; on a CPU vLLM's way to take it back ends the engine."""
    engine = engines[kind]
    ids = (await engine.encode_prompt(PROMPT))[:200]
    in_parts = await write(engine, ids, SEEDED, "one")
    assert in_parts[1] == 0
    at_once = await write(engine, ids, SEEDED, "one")
    assert at_once[1] >= 200 - 64, "what is left fits into one pass"
    assert in_parts[0] == at_once[0]
    assert len(in_parts[0]) == NUM_TOKENS
    beside = await asyncio.gather(*(write(engine, ids, SEEDED, salt) for salt in ("two", "three")))
    assert [text for text, _ in beside] == [in_parts[0]] * 2
    guessing = [await write(engine, ids, SEEDED, salt, "hints") for salt in ("four", "five")]
    assert guessing[0] == guessing[1]


async def test_the_token_behind_a_hint_does_not_hang_on_how_the_hint_was_drawn(engines: dict[str, Engine]) -> None:
    """Draft and target are one model, sampled as they are in a seeded request. Chi-square of the second token after
    each of the two first ones, where the first one was a hint and has come true."""
    engine = engines["hints"]
    start = (await engine.encode_prompt(COINS))[:NUM_COINS]
    shares = {first: await shares_after(engine, (*start, first)) for first in await shares_after(engine, start)}
    pairs = Counter[TokenIds]()

    async def throw(seed: int) -> None:
        target, draft = sampled(seed)
        hint, _ = await write(engine, start, draft, num_tokens=1)
        written, _ = await write(engine, start, target, speculation="hints", hint=hint, num_tokens=2)
        pairs[written] += written[:1] == hint

    await asyncio.gather(*map(throw, range(NUM_DRAWS)))
    deviation = 0.0
    for first, seconds in shares.items():
        num = sum(pairs[first, second] for second in seconds)
        for second, share in seconds.items():
            assert num * share > 5
            deviation += (pairs[first, second] - num * share) ** 2 / (num * share)
    assert deviation < CRITICAL, pairs


async def shares_after(engine: Engine, ids: TokenIds) -> dict[int, float]:
    """The two likeliest tokens after `ids`, and how often each is drawn where no others are."""
    found = await engine.next_token_probabilities(f"all-{time.monotonic_ns()}", ids, tuple(range(VOCABULARY_SIZE)))
    two = sorted(range(len(found)), key=lambda token: -found[token])[:2]
    weights = {token: found[token] ** (1 / TEMPERATURE) for token in two}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


def sampled(seed: int) -> tuple[Sampling, Sampling]:
    """How target and draft draw at the beginning of a request with `seed`, where the draft's words are hints."""
    sampling, path = Sampling(TEMPERATURE, top_k=2, seed=seed), Prefix(())
    calls = Calls(SessionSettings("s", (1,), (1,), "v", 10, sampling=sampling, takes_hints=True), Hints(0))
    draft = calls.draft(Position(0, path, 0, Piece("", (), "v")), (1,), "v", 1)
    return calls.stream(path, 0, 0).request.sampling, draft.request.sampling
