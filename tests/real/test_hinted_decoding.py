"""Hinted decoding in vLLM on a real model (SmolLM2 135M, float32, one core): lossless, whatever is hinted and when."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actors.engines import create_engine
from actors.messages import Delta, Nearby, Prefix, Prompt, Sampling, SpeculationStats, StepRequest, StepRule, TokenIds
from actors.roles import Engine
from actors.target import TargetModel
from tests.real import small_model
from tests.real.small_model import CORE, MARKS, MODEL

pytestmark = MARKS

OPTIONS = {
    **small_model.OPTIONS,
    "max_num_seqs": 32,
    "speculative_config": {"method": "hints", "num_speculative_tokens": 12},
}
PROMPT = Prompt(text="One apple.\n\nTwo apples.\n\nThree apples.\n\nFour apples.\n\nFive")
STORY = Prompt(text="The old sailor looked at the sea and said to the boy:")
NUM_TOKENS = 48
RULE = StepRule(max_tokens=NUM_TOKENS)
NUM_DRAWS = 300
TEMPERATURE = 1.3
TOP_K = 4
VOCABULARY_SIZE = 49152
CRITICAL = 16.27
"""Chi-square with three degrees of freedom exceeds this once in a thousand times."""


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the engine's processes would keep what they compile."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield folder
    assert list(folder.rglob("*.so")) == [], "an eager engine compiles nothing, whatever is asked of it"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    engine = await create_engine("vllm", MODEL, OPTIONS, cpu_cores=CORE, replica="here")
    yield engine
    assert engine.num_running() == 0
    await engine.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(engine: Engine) -> TokenIds:
    """What the model writes after `STORY` without any speculation."""
    return ids_of(await write(engine, token_speculation="none"))


async def write(
    engine: Engine,
    *,
    hints: tuple[TokenIds, ...] = (),
    token_speculation: str = "hints",
    further: tuple[tuple[int, TokenIds | None], ...] = (),
) -> list[Delta]:
    """The greedy text after `STORY`. `further` hints are handed over once so many tokens are there; None: no more."""
    call_id, deltas, left = f"call-{time.monotonic_ns()}", list[Delta](), list(further)
    async for delta in engine.generate(
        call_id,
        await engine.encode_prompt(STORY),
        max_tokens=NUM_TOKENS,
        rule=RULE,
        max_steps=None,
        sampling=Sampling(),
        hints=hints,
        token_speculation=token_speculation,
    ):
        deltas.append(delta)
        while left and len(ids_of(deltas)) >= left[0][0]:
            hint = left.pop(0)[1]
            await engine.add_hints(call_id, (hint,) if hint else ())
    return deltas


def ids_of(deltas: list[Delta]) -> TokenIds:
    return tuple(token for delta in deltas for token in delta.token_ids)


async def stats_of(engine: Engine) -> SpeculationStats:
    stats = await engine.speculation_stats()
    assert stats is not None
    return stats


async def test_nothing_is_proposed_where_nothing_is_wished(engine: Engine) -> None:
    before = await stats_of(engine)
    await write(engine, hints=((1, 2, 3),), token_speculation="none")
    assert await stats_of(engine) == before


async def test_a_right_hint_changes_no_token_and_saves_most_passes(engine: Engine, plain: TokenIds) -> None:
    before = await stats_of(engine)
    deltas = await write(engine, hints=(plain,))
    after = await stats_of(engine)
    assert ids_of(deltas) == plain
    assert len(plain) == NUM_TOKENS
    assert (deltas[-1].num_proposed, deltas[-1].num_accepted) == (NUM_TOKENS - 4, NUM_TOKENS - 4)
    assert after.num_drafts - before.num_drafts == 4, "48 tokens: 13, 13, 13 and 9, the first with the prompt"
    assert 1 <= sum(delta.num_passes for delta in deltas) <= 4
    accepted = after.num_hint_accepted_tokens - before.num_hint_accepted_tokens
    assert accepted == after.num_hint_tokens - before.num_hint_tokens == NUM_TOKENS - 4
    assert after.num_ngram_tokens == before.num_ngram_tokens
    assert len(after.accepted_per_position) == 12
    assert sorted(after.accepted_per_position, reverse=True) == list(after.accepted_per_position)
    assert after.num_accepted_tokens == sum(after.accepted_per_position)


async def test_a_hint_for_a_running_text_is_verified_in_the_next_pass(engine: Engine, plain: TokenIds) -> None:
    sizes = [0]
    for delta in await write(engine, further=((5, plain),)):
        sizes[-1] += len(delta.token_ids)
        sizes += [0] if delta.num_passes else []  # the last delta of a pass says so
    after = next(at for at in range(1, len(sizes)) if sum(sizes[:at]) >= 5)
    assert 13 in sizes[after : after + 2], sizes  # the pass under way when the hint came, and the next one


@pytest.mark.parametrize("kind", ["wrong", "other token", "shorter", "longer", "end", "many", "not the model's"])
async def test_no_hint_changes_a_token(engine: Engine, plain: TokenIds, kind: str) -> None:
    hints: dict[str, tuple[TokenIds, ...]] = {
        "wrong": (tuple(range(300, 360)),),
        "other token": ((*plain[:10], 300, *plain[11:25], 301, 302, *plain[27:]),),
        "shorter": ((*plain[:10], *plain[15:]),),
        "longer": ((*plain[:10], 300, 301, 302, *plain[10:]),),
        "end": ((*plain[:10], *await engine.encode_prompt(Prompt(text="<|im_end|>")), *plain[10:]),),
        "many": tuple(plain[at:] for at in range(0, 40, 2)),
        "not the model's": ((plain[0], 10**6), plain[:12]),
    }
    before = await stats_of(engine)
    assert ids_of(await write(engine, hints=hints[kind])) == plain
    after = await stats_of(engine)
    if kind != "wrong":
        assert after.num_hint_accepted_tokens - before.num_hint_accepted_tokens >= 10


async def test_what_was_written_nearby_is_taken_up_where_the_call_begins(engine: Engine, plain: TokenIds) -> None:
    start, before = (*await engine.encode_prompt(STORY), *plain[:20]), plain[12:20]
    options: dict[str, Any] = {"max_tokens": 16, "rule": RULE, "max_steps": None, "sampling": Sampling()}
    alone = ids_of([delta async for delta in engine.generate("alone", start, **options, token_speculation="none")])
    counted = await stats_of(engine)
    nearby = (Nearby(tuple(range(300, 360)), 20), Nearby((*before, *alone), len(before)))
    assert ids_of([delta async for delta in engine.generate("near", start, **options, nearby=nearby)]) == alone
    after = await stats_of(engine)
    accepted = after.num_hint_accepted_tokens - counted.num_hint_accepted_tokens
    assert accepted == after.num_hint_tokens - counted.num_hint_tokens >= 12, "nothing of the other one is proposed"


async def test_hints_that_come_while_a_call_runs_are_used(engine: Engine, plain: TokenIds) -> None:
    before = await stats_of(engine)
    further = ((3, tuple(range(300, 330))), (8, plain), (9, plain[:20]))
    assert ids_of(await write(engine, further=further)) == plain
    after = await stats_of(engine)
    assert after.num_hint_accepted_tokens - before.num_hint_accepted_tokens >= 20


async def test_hints_can_be_withdrawn(engine: Engine, plain: TokenIds) -> None:
    await engine.add_hints("call", (plain,))
    await engine.add_hints("call", ())
    before = await stats_of(engine)
    ids = await engine.encode_prompt(STORY)
    deltas = engine.generate("call", ids, max_tokens=NUM_TOKENS, rule=RULE, max_steps=None, sampling=Sampling())
    assert ids_of([delta async for delta in deltas]) == plain
    after = await stats_of(engine)
    assert after.num_hint_tokens == before.num_hint_tokens, "before its call"
    assert ids_of(await write(engine, hints=(plain,), further=((3, None),))) == plain, "and while it runs"


async def test_hints_before_and_after_their_call_do_no_harm(engine: Engine, plain: TokenIds) -> None:
    before = await stats_of(engine)
    ids = await engine.encode_prompt(STORY)
    await engine.add_hints("early", (plain,))
    deltas = engine.generate("early", ids, max_tokens=NUM_TOKENS, rule=RULE, max_steps=None, sampling=Sampling())
    assert ids_of([delta async for delta in deltas]) == plain
    after = await stats_of(engine)
    assert after.num_hint_accepted_tokens - before.num_hint_accepted_tokens == NUM_TOKENS - 4
    await engine.add_hints("early", (plain,))
    await engine.add_hints("never", (plain,))
    assert engine.num_running() == 0


async def test_ngrams_alone_change_no_token(engine: Engine) -> None:
    ids = await engine.encode_prompt(PROMPT)
    texts = []
    for kind in ("none", "ngram", "hints"):
        before = await stats_of(engine)
        deltas = engine.generate(
            kind, ids, max_tokens=NUM_TOKENS, rule=RULE, max_steps=None, sampling=Sampling(), token_speculation=kind
        )
        texts.append(ids_of([delta async for delta in deltas]))
        after = await stats_of(engine)
        assert (after.num_ngram_accepted_tokens > before.num_ngram_accepted_tokens) is (kind != "none")
    assert texts[0] == texts[1] == texts[2]


async def test_requests_of_every_kind_share_a_batch(engine: Engine, plain: TokenIds) -> None:
    written = await asyncio.gather(
        write(engine, hints=(plain,)),
        write(engine, token_speculation="none"),
        write(engine, hints=(tuple(range(300, 360)),)),
        write(engine, token_speculation="ngram"),
        write(engine, hints=((*plain[:10], 300, *plain[11:]),)),
    )
    assert [ids_of(deltas) for deltas in written] == [plain] * 5


async def test_a_step_ends_where_it_ends_without_a_hint(engine: Engine) -> None:
    target, ids = TargetModel(engine), await engine.encode_prompt(PROMPT)
    steps = []
    for kind in ("none", "hints"):
        hints = ((*steps[0].token_ids, 300, 301),) if steps else ()
        request = StepRequest(f"step-{kind}", "s", Prefix(ids), RULE, 96, hints=hints, token_speculation=kind)
        steps.append(await target.step(request))
    assert steps[0].token_ids == steps[1].token_ids
    assert steps[0].ending is steps[1].ending
    assert steps[1].num_running >= 0


async def test_a_boundary_without_a_word_before_it_keeps_the_hint(engine: Engine) -> None:
    """vLLM stops at a line break that no word precedes and is asked again: the hint begins where the step began."""
    ids = (*await engine.encode_prompt(PROMPT), *engine.encode_text(" apples."))
    target, rule = TargetModel(engine), StepRule("line", 24)
    plain = await target.step(StepRequest("x", "s", Prefix(ids), rule, 24, token_speculation="none"))
    assert plain.text.startswith("\n"), "the boundary comes first"
    assert plain.text.strip()
    before = await stats_of(engine)
    hinted = await target.step(StepRequest("y", "s", Prefix(ids), rule, 24, hints=(plain.token_ids,)))
    after = await stats_of(engine)
    assert hinted.token_ids == plain.token_ids
    assert after.num_hint_accepted_tokens > before.num_hint_accepted_tokens


async def test_label_probabilities_are_right_beside_hinted_sequences(engine: Engine, plain: TokenIds) -> None:
    ids = await engine.encode_prompt(STORY)
    wanted = tuple(sorted({*plain[:3], 500}))
    alone = await engine.next_token_probabilities("p", ids, wanted)
    hinted = asyncio.create_task(write(engine, hints=(plain,)))
    beside = [await engine.next_token_probabilities(f"p{number}", ids, wanted) for number in range(3)]
    assert ids_of(await hinted) == plain
    for found in beside:
        assert found == pytest.approx(alone, rel=1e-3)
    assert max(alone) > 0


async def test_a_seeded_sample_comes_again_with_the_same_hints(engine: Engine, plain: TokenIds) -> None:
    ids, texts = await engine.encode_prompt(STORY), []
    for call in range(2):
        deltas = engine.generate(
            f"seeded-{call}",
            ids,
            max_tokens=16,
            rule=RULE,
            max_steps=None,
            sampling=Sampling(temperature=1.0, seed=7),
            hints=(plain,),
        )
        texts.append(ids_of([delta async for delta in deltas]))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("rank", [0, 2], ids=["the likeliest", "an unlikely"])
async def test_sampled_tokens_are_drawn_from_the_same_distribution(engine: Engine, plain: TokenIds, rank: int) -> None:
    """Chi-square of the second token, for which `rank` of the model's likeliest is proposed after a first token that is
    all but certain, against the model's own probabilities in the sampler's terms (temperature, `top_k`)."""
    ids = await engine.encode_prompt(STORY)
    at = await certain_then_open(engine, ids, plain)
    start, first = (*ids, *plain[:at]), plain[at]
    found = await engine.next_token_probabilities("all", (*start, first), tuple(range(VOCABULARY_SIZE)))
    likeliest = sorted(range(len(found)), key=lambda token: -found[token])[:TOP_K]
    weights = [found[token] ** (1 / TEMPERATURE) for token in likeliest]
    hint = (first, likeliest[rank], 300)

    before = await stats_of(engine)
    drawn = await asyncio.gather(*[draw(engine, start, hint, seed=number) for number in range(NUM_DRAWS)])
    after = await stats_of(engine)
    seconds = Counter(tokens[1] for tokens in drawn if tokens[0] == first)
    num_seconds = sum(seconds.values())
    assert num_seconds > 0.8 * NUM_DRAWS
    assert after.num_hint_tokens - before.num_hint_tokens == 2 * NUM_DRAWS, "both were verified with the prompt"
    assert after.num_hint_accepted_tokens - before.num_hint_accepted_tokens == num_seconds + seconds[hint[1]]
    assert set(seconds) == set(likeliest)
    expected = [num_seconds * weight / sum(weights) for weight in weights]
    assert min(expected) > 5
    assert sum((seconds[t] - e) ** 2 / e for t, e in zip(likeliest, expected, strict=True)) < CRITICAL


async def certain_then_open(engine: Engine, ids: TokenIds, plain: TokenIds) -> int:
    """Where in `plain` a nearly certain token stands before one that is not."""
    logprobs = await engine.token_logprobs("where", (*ids, *plain), len(ids))
    return max(range(len(plain) - 1), key=lambda k: logprobs[k] if logprobs[k + 1] < -1.0 else -99.0)


async def draw(engine: Engine, ids: TokenIds, hint: TokenIds, seed: int) -> TokenIds:
    """Three sampled tokens after `ids`: a proposal for the last of a call would be in vain, so two are made."""
    deltas = engine.generate(
        f"draw-{time.monotonic_ns()}-{seed}",
        ids,
        max_tokens=3,
        rule=RULE,
        max_steps=None,
        sampling=Sampling(temperature=TEMPERATURE, top_k=TOP_K, seed=seed),
        hints=(hint,),
    )
    return ids_of([delta async for delta in deltas])


@pytest.mark.parametrize("offset", [5, -7], ids=["in its last block", "in a block that it filled"])
async def test_a_request_goes_on_from_where_another_ended(engine: Engine, offset: int) -> None:
    """What the other read of that block is not read again, and no token changes by it."""
    text = f"A list of forty animals and what {40 + offset} of them like to eat, one a line. " * 4
    prompt = await engine.encode_prompt(Prompt(text=text))
    ids = prompt[: 32 + 12]  # a full block and a part of one, which the answer fills
    tokens = ids_of(await continued(engine, ids))
    start = (*ids, *tokens[: 20 + offset], 300)
    after = await continued(engine, start)
    assert after[0].num_cached_tokens == len(start) - 1
    for number in range(8):  # more than requests of which something is kept
        await continued(engine, await engine.encode_prompt(Prompt(text=f"{number} " + "another story " * 20)))
    again = await continued(engine, start)
    assert again[0].num_cached_tokens == len(start) // 32 * 32
    assert ids_of(after) == ids_of(again)


async def continued(engine: Engine, ids: TokenIds) -> list[Delta]:
    call_id = f"call-{time.monotonic_ns()}"
    deltas = engine.generate(call_id, ids, max_tokens=NUM_TOKENS, rule=RULE, max_steps=None, sampling=Sampling())
    return [delta async for delta in deltas]
