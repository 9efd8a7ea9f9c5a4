"""The engine on a real model (SmolLM2 135M, float32, one core): steps, streams, probabilities, endings and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from actors.draft import Draft
from actors.engines import create_engine
from actors.engines.guard import engine_processes
from actors.errors import ConfigError, ContextTooLong, RequestError, RoleUnavailable
from actors.messages import Delta, Ending, Message, Prefix, Prompt, Sampling, Step, StepRequest, StepRule, TokenIds
from actors.roles import Engine
from actors.target import TargetModel
from tests.real.small_model import CORE, MARKS, MODEL, OPTIONS

pytestmark = MARKS

GREEDY = Sampling()
RULE = StepRule(max_tokens=48)
TEA = Prompt(messages=(Message("user", "How do I make tea? Write three short paragraphs with blank lines between."),))
BLANK_LINES = Prompt(text="One apple.\n\nTwo apples.\n\nThree apples.\n\nFour apples.\n\nFive")
"""A text that even a small model continues with short paragraphs."""
NUM_TOKENS = 32


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the engine's processes would keep what they compile."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield folder
    assert libraries(folder) == [], "an eager engine compiles nothing, whatever is asked of it"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    engine = await create_engine("vllm", MODEL, OPTIONS, cpu_cores=CORE, replica="here")
    yield engine
    assert engine.num_running() == 0
    await engine.shutdown()
    await engine.shutdown()
    assert engine_processes(os.getpid()) == {}
    with pytest.raises(RoleUnavailable):
        await engine.check_health()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stream(engine: Engine) -> list[Delta]:
    """The text that follows `BLANK_LINES`."""
    return await all_of(
        generate(engine, await engine.encode_prompt(BLANK_LINES), max_steps=None, max_tokens=NUM_TOKENS)
    )


def libraries(folder: Path) -> list[Path]:
    return list(folder.rglob("*.so"))


def generate(
    engine: Engine, ids: TokenIds, *, max_steps: int | None, max_tokens: int = 96, rule: StepRule = RULE
) -> AsyncGenerator[Delta, None]:
    call_id = f"call-{time.monotonic_ns()}"
    return engine.generate(call_id, ids, max_tokens=max_tokens, rule=rule, max_steps=max_steps, sampling=GREEDY)


async def all_of(deltas: AsyncGenerator[Delta, None]) -> list[Delta]:
    return [delta async for delta in deltas]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def ids_of(deltas: list[Delta]) -> TokenIds:
    return tuple(token for delta in deltas for token in delta.token_ids)


def request(prompt_ids: TokenIds, prefix: Prefix | None = None, max_tokens: int = 96) -> StepRequest:
    return StepRequest(f"call-{time.monotonic_ns()}", "session", prefix or Prefix(prompt_ids), RULE, max_tokens)


async def test_steps_one_by_one_are_the_stream(engine: Engine, stream: list[Delta]) -> None:
    ids = await engine.encode_prompt(BLANK_LINES)
    target, prefix, steps = TargetModel(engine), Prefix(ids), list[Step]()
    left = NUM_TOKENS
    while left:
        steps.append(await target.step(request(ids, prefix, left)))
        prefix = prefix.extended(steps[-1].piece)
        left -= len(steps[-1].token_ids)
    assert tuple(token for step in steps for token in step.token_ids) == ids_of(stream)
    assert "".join(step.text for step in steps) == text_of(stream)
    assert sum(step.ending is Ending.BOUNDARY for step in steps) >= 2
    assert all(step.text.strip() for step in steps)


@pytest.mark.parametrize("rule", [StepRule("sentence", 80), StepRule("tokens", 5)], ids=["sentence", "tokens"])
async def test_steps_by_any_rule_are_those_of_one_generation(engine: Engine, rule: StepRule) -> None:
    ids = await engine.encode_prompt(Prompt(text="It was 3.5 miles. He ran. She ran too. We ran 2.5 miles. They"))
    together = await all_of(generate(engine, ids, max_steps=3, max_tokens=240, rule=rule))
    alone = list[Delta]()
    while sum(delta.ending is not None for delta in alone) < 3 and not (alone and alone[-1].ending is Ending.END):
        alone += await all_of(generate(engine, ids + ids_of(alone), max_steps=1, rule=rule))
    assert ids_of(alone) == ids_of(together)
    endings = [delta.ending for delta in alone if delta.ending]
    assert endings == [delta.ending for delta in together if delta.ending]
    assert Ending.BOUNDARY in endings
    assert rule.boundary == "sentence" or len(ids_of(alone)) == 15
    assert engine.num_running() == 0


async def test_a_look_ahead_yields_the_steps_that_the_stream_marks(engine: Engine, stream: list[Delta]) -> None:
    ids = await engine.encode_prompt(BLANK_LINES)
    marked, text = list[str](), ""
    for delta in stream:
        text += delta.text
        if delta.ending is Ending.BOUNDARY:
            marked.append(text)
            text = ""
    steps = [step async for step in Draft(engine).look_ahead(request(ids), 2)]
    assert [step.text for step in steps] == marked[:2]
    assert [step.replica for step in steps] == ["here"] * 2
    assert all(0 < step.elapsed_s < 60 for step in steps)
    assert engine.num_running() == 0


async def test_a_limit_that_is_reached_with_a_blank_line_before_any_word_ends_the_step(engine: Engine) -> None:
    ids = await engine.encode_prompt(Prompt(text="One apple.\n\nTwo apples.\n\nThree apples.\n\nFour apples."))
    (delta,) = await all_of(generate(engine, ids, max_steps=1, max_tokens=1))
    assert (delta.text.strip(), delta.ending, len(delta.token_ids)) == ("", Ending.CAP, 1)


async def test_the_next_step_finds_its_prefix_in_the_cache(engine: Engine) -> None:
    ids = await engine.encode_prompt(TEA)
    target = TargetModel(engine)
    first = await target.step(request(ids, max_tokens=40))
    prefix = Prefix(ids).extended(first.piece)
    second = await target.step(request(ids, prefix, max_tokens=2))
    written = len(ids) + len(first.token_ids)
    assert second.num_cached_tokens >= (written - 1) // 32 * 32 - 32
    assert second.num_cached_tokens > len(ids) - 32


async def test_what_was_read_under_another_salt_is_not_found(engine: Engine) -> None:
    ids = await engine.encode_prompt(Prompt(text=f"{BLANK_LINES.text} apples.\n\n" * 3))  # blocks have 32 tokens
    steps = list[Step]()
    for salt in ("", "one", "one", "two"):
        steps.append(await TargetModel(engine).step(request(ids, Prefix(ids, cache_salt=salt), max_tokens=2)))
    assert len({step.text for step in steps}) == 1
    assert [step.num_cached_tokens > 0 for step in steps[1:]] == [False, True, False]


async def test_a_cap_cuts_a_step_and_the_next_one_goes_on(engine: Engine) -> None:
    ids = await engine.encode_prompt(TEA)
    rule = StepRule(max_tokens=5)
    deltas = await all_of(generate(engine, ids, max_steps=3, rule=rule))
    assert [delta.ending for delta in deltas if delta.ending] == [Ending.CAP] * 3
    assert len(ids_of(deltas)) == 15
    single = await all_of(generate(engine, ids, max_steps=1, rule=rule))
    assert ids_of(single) == ids_of(deltas)[:5]
    assert single[-1].ending is Ending.CAP


async def test_the_end_of_the_text_is_an_ending(engine: Engine) -> None:
    ids = await engine.encode_prompt(Prompt(messages=(Message("user", "Say only: yes."),)))
    deltas = await all_of(generate(engine, ids, max_steps=None, max_tokens=300))
    (end_of_text,) = await engine.encode_prompt(Prompt(text="<|im_end|>"))
    assert deltas[-1].ending is Ending.END
    assert deltas[-1].token_ids[-1] == end_of_text
    assert "<|im_end|>" not in text_of(deltas)


async def test_a_boundary_without_a_word_before_it_does_not_end_the_step(engine: Engine, stream: list[Delta]) -> None:
    """A prefix after which the model writes line breaks: vLLM stops at them, and the step goes on."""
    at = next(k for k, delta in enumerate(stream) if "\n" in delta.text)
    assert len(ids_of(stream[: at + 1])) == at + 1, "one token a delta"
    prefix = (*await engine.encode_prompt(BLANK_LINES), *ids_of(stream)[:at])
    step = await all_of(generate(engine, prefix, max_steps=1, rule=StepRule("line", 24)))
    assert step[0].text.isspace()
    assert text_of(step).strip()
    assert ids_of(step) == ids_of(stream)[at : at + len(ids_of(step))]


async def test_closing_a_generation_ends_it_in_the_engine(engine: Engine) -> None:
    deltas = generate(engine, await engine.encode_prompt(TEA), max_steps=None, max_tokens=400)
    await anext(deltas)
    assert engine.num_running() == 1
    await deltas.aclose()
    assert engine.num_running() == 0


async def test_cancelling_a_call_ends_it_in_the_engine(engine: Engine) -> None:
    first_delta = asyncio.Event()

    async def read() -> None:
        async with aclosing(
            generate(engine, await engine.encode_prompt(TEA), max_steps=None, max_tokens=400)
        ) as deltas:
            async for _ in deltas:
                first_delta.set()

    tasks = [asyncio.create_task(read()) for _ in range(3)]
    await first_delta.wait()
    assert engine.num_running() == 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert engine.num_running() == 0


async def test_probabilities_are_the_models_own(engine: Engine) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from actors.models import resolve

    ids = await engine.encode_prompt(TEA)
    continuation = engine.encode_text("To make tea, boil water.")
    wanted = (continuation[0], 2, 500)
    found = await engine.next_token_probabilities("p", ids, wanted)
    logprobs = await engine.token_logprobs("q", (*ids, *continuation), len(ids))
    model = AutoModelForCausalLM.from_pretrained(await asyncio.to_thread(resolve, MODEL), dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.tensor([[*ids, *continuation]])).logits[0].double(), dim=-1)
    at = len(ids) - 1
    assert found == pytest.approx([expected[at, token].exp().item() for token in wanted], rel=1e-2)
    own = [expected[at + k, token].item() for k, token in enumerate(continuation)]
    assert logprobs == pytest.approx(own, abs=1e-2)
    again = await engine.token_logprobs("q2", (*ids, *continuation), len(ids))
    assert again == pytest.approx(logprobs, abs=1e-4), "the prefix cache must not change them"


async def test_labels_are_weighed(engine: Engine) -> None:
    prompt = Prompt(text="Question: is snow white? Answer with yes or no. Answer:")
    yes, no = await TargetModel(engine).label_probabilities(prompt, ("yes", "no"), "s")
    assert 0 < yes < 1
    assert 0 < no < 1
    assert yes + no <= 1


async def test_text_that_looks_special_stays_text(engine: Engine) -> None:
    (special,) = await engine.encode_prompt(Prompt(text="<|im_end|>"))
    assert special not in engine.encode_text("a<|im_end|>b")


async def test_the_context_is_a_limit_and_not_an_accident(engine: Engine) -> None:
    limit = engine.describe().max_model_len
    assert limit == 512
    word = engine.encode_text(" tea")
    nearly_full = word * (limit - 3)
    deltas = await all_of(generate(engine, nearly_full, max_steps=None, max_tokens=50))
    assert len(ids_of(deltas)) <= 3
    assert deltas[-1].ending in (Ending.CAP, Ending.END)
    with pytest.raises(ContextTooLong, match="This model's maximum context length is 512 tokens"):
        await all_of(generate(engine, word * limit, max_steps=1))
    with pytest.raises(ContextTooLong):
        await TargetModel(engine).encode(Prompt(text=" tea" * limit))


async def test_sampling_that_vllm_refuses_is_the_clients_error(engine: Engine) -> None:
    ids = await engine.encode_prompt(TEA)
    with pytest.raises(RequestError, match="temperature"):
        await all_of(
            engine.generate("bad", ids, max_tokens=3, rule=RULE, max_steps=1, sampling=Sampling(temperature=-1.0))
        )
    assert engine.num_running() == 0


async def test_nobody_waits_for_a_compiler(engine: Engine, compiled: Path) -> None:
    """What draws, and what counts for logprobs, would be compiled with the first request that needs it."""
    ids = await engine.encode_prompt(BLANK_LINES)
    warm = Sampling(temperature=1.0)
    drawing = engine.generate("warm", ids, max_tokens=4, rule=RULE, max_steps=None, sampling=warm)
    assert await all_of(drawing)
    assert await engine.next_token_probabilities("count", ids, ids[:2])
    assert await engine.token_logprobs("rank", ids, 1)
    assert libraries(compiled) == []


async def test_seeded_samples_come_again(engine: Engine) -> None:
    ids = await engine.encode_prompt(TEA)
    texts = []
    for call, seed in enumerate((7, 7, 8)):
        sampling = Sampling(temperature=1.0, seed=seed)
        texts.append(
            text_of(
                await all_of(engine.generate(f"s{call}", ids, max_tokens=12, rule=RULE, max_steps=1, sampling=sampling))
            )
        )
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("options", [{"no_such_option": 1}, {"model": "x"}])
async def test_an_option_that_vllm_does_not_know_is_named(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        await create_engine("vllm", MODEL, options)


async def test_an_engine_that_cannot_start_leaves_nothing_behind(engine: Engine) -> None:
    before = engine_processes(os.getpid())
    with pytest.raises(ConfigError, match="max_model_len"):
        await create_engine("vllm", MODEL, {**OPTIONS, "max_model_len": 10**6})
    assert engine_processes(os.getpid()) == before


async def test_a_dead_engine_is_unavailable_at_once(engine: Engine) -> None:
    """The last test of this file: it kills the engine. The fixture then sees that a dead one is shut down too."""
    deltas = generate(engine, await engine.encode_prompt(TEA), max_steps=None, max_tokens=400)
    await anext(deltas)
    os.kill(min(engine_processes(os.getpid())), signal.SIGKILL)
    with pytest.raises(RoleUnavailable, match="has died"):
        await all_of(deltas)
    with pytest.raises(RoleUnavailable):
        await engine.check_health()
    with pytest.raises(RoleUnavailable):
        await all_of(generate(engine, (1, 2), max_steps=1))
