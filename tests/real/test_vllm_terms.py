"""What vLLM is asked, and what its own checks say, without a model: a script stands in the place of its engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engines.acceptance import SpeculationCounter
from actors.errors import ContextTooLong
from actors.messages import NEUTRAL, Prompt, RoleInfo, Sampling, StepRule
from tests.real.small_model import IGNORED
from tests.unit.test_tokenizer import VOCABULARY_SIZE, ByteTokenizer

pytestmark = [pytest.mark.real, *IGNORED]

# vLLM is imported in the tests: only there its own libraries' deprecations are not errors.


def configured(speculative_config: object | None) -> Any:
    """The parts of vLLM's configuration that are read here, and by its checks of a request."""
    return SimpleNamespace(
        model_config=SimpleNamespace(
            max_logprobs=20,
            is_diffusion=False,
            get_vocab_size=lambda: VOCABULARY_SIZE,
            try_get_generation_config=dict,
        ),
        scheduler_config=SimpleNamespace(policy="fcfs", scheduler_cls=None),
        speculative_config=speculative_config,
        structured_outputs_config=object(),
    )


def test_what_an_engine_would_refuse_is_known_before_it_starts() -> None:
    from actors.engines.vllm_terms import refusal

    plain, speculating = configured(None), configured(object())
    for sampling in (NEUTRAL, Sampling(0.7, 0.8, 20, 0.0, 1.05), Sampling(min_p=0.1)):
        assert refusal(sampling, plain) is refusal(sampling, speculating) is None
    wrong: dict[str, Any] = {"temperature": 3.0, "top_p": 0.0, "top_k": 0.5, "repetition_penalty": 0.0, "min_p": "a"}
    for name, value in wrong.items():
        assert refusal(Sampling(**{"temperature": 1.0, name: value}), plain), name
    assert refusal(Sampling(1.0, min_p=0.1), plain) is None
    assert "min_p" in str(refusal(Sampling(1.0, min_p=0.1), speculating))


def test_an_engine_that_speculates_says_that_it_takes_no_min_p() -> None:
    for speculation in (None, object()):
        described = engine_over(Scripted(configured(speculation))).describe()
        assert described.takes_min_p == (speculation is None)


def test_what_an_engine_cannot_start_with_is_told_in_one_line() -> None:
    """Pydantic's errors have several, of which a deployment's log would show the last one alone."""
    from pydantic import TypeAdapter, ValidationError

    from actors.engines.vllm_terms import start_failure, words_of

    with pytest.raises(ValidationError) as wrong:
        TypeAdapter(dict[str, int]).validate_python({"max_model_len": "long", "max_num_seqs": None})
    said = start_failure("m", wrong.value)
    assert said.param == "engine.options"
    assert said.message.startswith(
        "vLLM cannot start m with these options: max_model_len: Input should be a valid integer, unable to parse "
        "string as an integer; max_num_seqs: Input should be a valid integer. Correct engine.options"
    )
    assert words_of(RuntimeError("Out of memory.\n  Free some.\n")) == "Out of memory. Free some"
    assert words_of(AssertionError()) == "AssertionError"


class Scripted:
    """In the place of vLLM's engine: writes one of `texts` in each request, each of which ends where a step may."""

    errored = False

    def __init__(self, config: Any, *texts: str) -> None:
        self.vllm_config = config
        self.asked: list[Any] = []
        self.engine_core: Any = None
        self._texts = list(texts)

    def get_tokenizer(self) -> ByteTokenizer:
        return ByteTokenizer()

    async def generate(self, prompt: Any, params: Any, request_id: str, priority: int) -> AsyncIterator[Any]:
        self.asked.append(params)
        ids = self.get_tokenizer().backend_tokenizer.encode(self._texts.pop(0)).ids
        completion = SimpleNamespace(token_ids=ids, finish_reason="stop", stop_reason=ids[-1])
        yield SimpleNamespace(outputs=[completion], num_cached_tokens=0)


def engine_over(scripted: Any) -> Any:
    from actors.engines.vllm import VllmEngine

    return VllmEngine(scripted, RoleInfo("m", "", 100), SimpleNamespace(), SpeculationCounter())  # type: ignore[arg-type]


async def test_a_prompt_that_cannot_have_room_is_refused_before_it_is_encoded() -> None:
    engine = engine_over(Scripted(configured(None)))
    assert len(await engine.encode_prompt(Prompt(text="x" * 99))) == 99
    for num_letters in (100, 10**6):
        with pytest.raises(ContextTooLong, match=rf"is 100 tokens\. The prompt has {num_letters} tokens or more,"):
            await engine.encode_prompt(Prompt(text="x" * num_letters))


@pytest.mark.parametrize("seed", [7, None])
async def test_a_step_that_is_asked_for_in_parts_draws_with_another_seed_in_each(seed: int | None) -> None:
    """As its place in the text says, and so again with the same seed."""
    scripted = Scripted(configured(None), "\n", "\n\n", "word\n")
    sampling = Sampling(1.0, seed=seed)
    options: dict[str, Any] = {"max_tokens": 50, "rule": StepRule("line", 50), "max_steps": 1}
    deltas = [delta async for delta in engine_over(scripted).generate("c", (1,), sampling=sampling, **options)]
    assert "".join(delta.text for delta in deltas) == "\n\n\nword\n"
    assert [params.seed for params in scripted.asked] == [sampling.after(place).seed for place in (0, 1, 3)]


async def test_who_looks_whether_an_engine_works_has_old_prompts_forgotten() -> None:
    looked: list[str] = []

    class Watched(Scripted):
        async def check_health(self) -> None:
            looked.append("at the engine")

    engine = engine_over(Watched(configured(None)))
    engine._prompts = SimpleNamespace(forget_old=lambda: looked.append("for old prompts"))
    await engine.check_health()
    assert sorted(looked) == ["at the engine", "for old prompts"]


def test_hints_propose_no_more_than_vllm_verifies_at_once() -> None:
    from vllm.v1.sample.rejection_sampler import MAX_SPEC_LEN

    from actors.engines.hint_options import MAX_PROPOSED

    assert MAX_PROPOSED == MAX_SPEC_LEN


@pytest.mark.parametrize(("local_only", "num"), [(False, 4 * 16), (True, 2 * 16)])
def test_every_data_parallel_engine_works_on_so_many_sequences(local_only: bool, num: int) -> None:
    from actors.engines.vllm_terms import num_sequences

    parallel = SimpleNamespace(data_parallel_size=4, data_parallel_size_local=2, local_engines_only=local_only)
    scheduler = SimpleNamespace(max_num_seqs=16)
    assert num_sequences(SimpleNamespace(parallel_config=parallel, scheduler_config=scheduler)) == num


async def test_hints_are_counted_in_every_data_parallel_engine() -> None:
    """Within one all workers count the same, and those that do not propose count nothing."""

    class Core:
        async def call_utility_all_async(self, *args: Any) -> list[list[dict[str, int]]]:
            assert args == ("collective_rpc", "lookahead_counts", None, (), None)
            return [[{}, {"num_hint_tokens": 3}, {"num_hint_tokens": 3}], [{}, {"num_hint_tokens": 4}]]

    scripted = Scripted(configured(object()))
    scripted.engine_core = Core()
    engine = engine_over(scripted)
    engine._takes_hints = True
    stats = await engine.speculation_stats()
    assert stats.num_hint_tokens == 7
