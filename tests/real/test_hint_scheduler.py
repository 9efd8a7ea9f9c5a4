"""vLLM's own scheduler with ours on top, without a model: what is kept of ended requests never holds up a new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engines.hint_options import CORE_METHOD, request_arguments
from actors.engines.remnants import BLOCKS_KEPT
from actors.messages import Nearby
from tests.real.small_model import IGNORED

pytestmark = [pytest.mark.real, *IGNORED]

SIZE = 32
NUM_BLOCKS = 257
"""One of them is vLLM's own; two requests leave something behind."""
MAX_LEN = (NUM_BLOCKS - 1) * SIZE
SHAPE = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 1000,
    "max_position_embeddings": MAX_LEN,
}


# vLLM is imported in the tests: only there its own libraries' deprecations are not errors.


def made(folder: Path, speculative: dict[str, Any], **more: Any) -> Any:
    """A scheduler for a model of `SHAPE` in `folder`."""
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from actors.engines.hint_scheduler import HintScheduler
    from actors.engines.vllm_terms import engine_arguments

    (folder / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    options = {
        "dtype": "float32",
        "max_model_len": MAX_LEN,
        "max_num_batched_tokens": MAX_LEN,
        "block_size": SIZE,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "speculative_config": {"method": "hints", "num_speculative_tokens": 4, **speculative},
    }
    config = engine_arguments(str(folder), options | more).create_engine_config()
    config.cache_config.num_gpu_blocks = NUM_BLOCKS
    spec = FullAttentionSpec(block_size=SIZE, num_kv_heads=1, head_size=64, dtype=torch.float32)
    cache = KVCacheConfig(NUM_BLOCKS, [], [KVCacheGroupSpec(["layer"], spec)])
    return HintScheduler(config, cache, StructuredOutputManager(config), SIZE, SIZE)


@pytest.fixture
def scheduler(tmp_path: Path) -> Any:
    return made(tmp_path, {})


def ask(
    scheduler: Any, name: str, num_tokens: int, hint: list[int] | None = None, nearby: tuple[Nearby, ...] = ()
) -> None:
    """A request with a prompt that is like no other, for one token, or for all of `hint` and one more."""
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(sha256)
    prompt = [2 + (num_tokens + at) % 900 for at in range(num_tokens)]
    params = SamplingParams(max_tokens=1 + len(hint or ()))
    wishes = request_arguments(name, [hint], nearby=nearby) if hint else request_arguments(name, speculation="none")
    params.extra_args = wishes
    scheduler.add_request(Request(name, prompt, params, None, block_hasher=get_request_block_hasher(SIZE, sha256)))


def write(scheduler: Any) -> dict[str, int]:
    """One pass: how many tokens of each request were in it. Each request that is read to its end writes one."""
    from vllm.v1.outputs import ModelRunnerOutput

    output = scheduler.schedule()
    names = list(output.num_scheduled_tokens)
    at = {name: number for number, name in enumerate(names)}
    scheduler.update_from_output(output, ModelRunnerOutput(names, at, [[7] for _ in names]))
    return dict(output.num_scheduled_tokens)


def leave_remnants(scheduler: Any) -> None:
    for name, num_tokens in (("first", 5 * SIZE + 3), ("second", 6 * SIZE + 3)):
        ask(scheduler, name, num_tokens)
        assert write(scheduler) == {name: num_tokens}
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == NUM_BLOCKS - 1 - 2 * BLOCKS_KEPT


def test_a_request_that_needs_nearly_all_blocks_gets_them(scheduler: Any) -> None:
    leave_remnants(scheduler)
    num_tokens = (NUM_BLOCKS - 1 - BLOCKS_KEPT) * SIZE
    ask(scheduler, "long", num_tokens)
    assert write(scheduler) == {}
    assert write(scheduler) == {"long": num_tokens}


def fails(*_: Any) -> None:
    raise RuntimeError("vLLM's tables are others")


def break_keeping(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scheduler._remnants is not None
    monkeypatch.setattr(scheduler._remnants, "keep", fails)


def break_going_on(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_go_on", fails)


@pytest.mark.parametrize("break_it", [break_keeping, break_going_on])
def test_after_an_error_no_block_stays_held(
    scheduler: Any, monkeypatch: pytest.MonkeyPatch, break_it: Callable[..., None]
) -> None:
    leave_remnants(scheduler)
    break_it(scheduler, monkeypatch)
    ask(scheduler, "next", SIZE)
    assert write(scheduler) == {"next": SIZE}
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == NUM_BLOCKS - 1
    assert scheduler.reset_prefix_cache()


class Workers:
    """vLLM's executor: two workers, of which the second proposes `drafts`."""

    def __init__(self, drafts: dict[str, list[int]], failure: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._drafts = drafts
        self._failure = failure

    def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[list[tuple[str, list[int]]]]:
        assert method == "lookahead_add_hints"
        self.calls.append(args)
        if self._failure is not None:
            raise self._failure
        told = dict.fromkeys(name for name, _ in args)
        return [[], [(name, self._drafts[name]) for name in told]]


def tell(scheduler: Any, workers: Workers, name: str, *hints: list[int]) -> None:
    """What vLLM's core does with one call for hints."""
    from vllm.v1.engine.core import EngineCore

    core = SimpleNamespace(scheduler=scheduler, model_executor=workers)
    getattr(EngineCore, CORE_METHOD)(core, name, list(hints))


def test_all_hints_between_two_passes_reach_the_workers_in_one_call(scheduler: Any) -> None:
    workers = Workers({"first": [3, 4], "second": [5]})
    for name, num_tokens in (("first", SIZE), ("second", 2 * SIZE)):
        ask(scheduler, name, num_tokens, hint=[20, 21, 22, 23])
    write(scheduler)
    notes = [("first", [7, 3]), ("second", [7, 5]), ("gone", [1]), ("first", [7, 3, 4])]
    for name, hint in notes:
        tell(scheduler, workers, name, hint)
    tell(scheduler, workers, "first")
    assert workers.calls == [], "they are at work"
    output = scheduler.schedule()
    assert workers.calls == [(("first", [[7, 3]]), ("second", [[7, 5]]), ("first", [[7, 3, 4]]), ("first", []))]
    assert output.scheduled_spec_decode_tokens == {"first": [3, 4], "second": [5]}
    scheduler.schedule()
    assert len(workers.calls) == 1


def test_workers_that_fail_cost_hints_and_no_pass(scheduler: Any, caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers({}, RuntimeError("a worker is another"))
    ask(scheduler, "first", SIZE, hint=[20, 21, 22, 23])
    write(scheduler)
    for _ in range(2):
        tell(scheduler, workers, "first", [7, 3])
        assert write(scheduler) == {"first": 1}
    assert len(workers.calls) == 1
    assert caplog.text.count("a worker is another") == 1


def test_hints_that_nobody_waits_for_are_not_collected(scheduler: Any) -> None:
    from actors.engines.hint_scheduler import MAX_NOTED

    workers = Workers({"next": [3]})
    for _ in range(10):
        tell(scheduler, workers, "gone", [1, 2, 3])
    assert not scheduler._noted, "an engine that has nothing to do"
    ask(scheduler, "next", SIZE, hint=[20, 21, 22, 23])
    write(scheduler)
    assert workers.calls == []
    for number in range(MAX_NOTED + 10):  # a scheduler that is paused
        tell(scheduler, workers, "next", [number])
    write(scheduler)
    assert len(workers.calls[0]) == MAX_NOTED
    assert workers.calls[0][-1] == ("next", [[MAX_NOTED + 9]])


BUDGET = 4 * SIZE
"""Most tokens of a pass, and as many places has a draft model for them, and for one more of each request."""


@pytest.mark.parametrize("left", [1, 2, 3, 9])
def test_hints_leave_a_draft_model_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    scheduler = made(tmp_path, {"model": str(tmp_path)}, max_num_batched_tokens=BUDGET, max_num_seqs=4)
    assert scheduler._is_plain
    ask(scheduler, "first", SIZE)
    ask(scheduler, "hinted", BUDGET - SIZE - 1 - left, hint=[5, 6, 7, 8])
    output = scheduler.schedule()
    drafts = output.scheduled_spec_decode_tokens.get("hinted", [])
    assert drafts == [5, 6, 7, 8][: left - 1]
    assert output.num_scheduled_tokens == {"first": SIZE, "hinted": BUDGET - SIZE - 1 - left + len(drafts)}
    assert output.total_num_scheduled_tokens + len(output.num_scheduled_tokens) <= BUDGET


def test_hints_take_all_places_where_no_model_drafts(tmp_path: Path) -> None:
    scheduler = made(tmp_path, {}, max_num_batched_tokens=BUDGET, max_num_seqs=4)
    ask(scheduler, "hinted", BUDGET - 2, hint=[5, 6, 7, 8])
    output = scheduler.schedule()
    assert output.scheduled_spec_decode_tokens == {"hinted": [5, 6]}
    assert output.total_num_scheduled_tokens == BUDGET


def test_a_pass_that_fails_is_logged_without_words(scheduler: Any) -> None:
    """vLLM would show the hints of a new request among its parameters, and the drafts that were to be verified."""
    from vllm.logging_utils.dump_input import prepare_object_to_dump

    nearby = (Nearby((7654327, 7654328), -1), Nearby((7654329,), 2))
    ask(scheduler, "hinted", SIZE, hint=[7654321, 7654322, 7654323], nearby=nearby)
    output = scheduler.schedule()
    assert output.scheduled_spec_decode_tokens == {"hinted": [7654321, 7654322, 7654323]}
    logged = prepare_object_to_dump(output)
    assert "76543" not in logged
    assert "'hints': [3]" in logged
    assert "'nearby': [[-1, 2], [2, 1]]" in logged
    assert "hinted: 3" in logged
    assert output.scheduled_new_reqs[0].sampling_params.extra_args["lookahead"]["hints"], "the request itself stays"


def test_a_request_without_hints_is_logged_as_it_is(scheduler: Any) -> None:
    from vllm import SamplingParams
    from vllm.logging_utils.dump_input import prepare_object_to_dump
    from vllm.v1.request import Request

    scheduler.add_request(Request("plain", [7654321] * 3, SamplingParams(max_tokens=1, temperature=0.25), None))
    logged = prepare_object_to_dump(scheduler.schedule())
    assert "temperature=0.25" in logged
    assert "prompt_token_ids_len=3" in logged
    assert "76543" not in logged
