"""What an eager engine on a CPU ranks and draws with in the place of vLLM's compiled functions."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from actors.engines.eager_sampling import NUM_ROWS, count_as_great, uncompile
from actors.engines.hint_worker import LookaheadWorker


@pytest.mark.parametrize("num_rows", [1, 2, NUM_ROWS, NUM_ROWS + 1, 3 * NUM_ROWS])
def test_rows_are_ranked_as_by_one_comparison(num_rows: int) -> None:
    x = torch.randn(num_rows, 50).round(decimals=1)  # with equal values among them
    values = x[:, 7:8]
    assert torch.equal(count_as_great(x, values), (x >= values).sum(-1))


def plain(logits: torch.Tensor) -> torch.Tensor:
    return logits


def compiled(logits: torch.Tensor) -> torch.Tensor:
    """Stands for what `torch.compile` makes of `plain`."""
    raise AssertionError("a compiler was called")


compiled._torchdynamo_orig_callable = plain  # type: ignore[attr-defined]


class Sampler:
    """Stands for vLLM's sampler and, in it, for what draws."""

    topk_topp_sampler: Any


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("made_up_sampler")
    module.batched_count_greater_than = compiled  # type: ignore[attr-defined]
    module.compiled_random_sample = compiled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Sampler, "__module__", module.__name__)
    return module


def runner(device: str = "cpu", is_eager: bool = True, **others: Any) -> Any:
    sampler = Sampler()
    sampler.topk_topp_sampler = sampler
    config = SimpleNamespace(enforce_eager=is_eager)
    return SimpleNamespace(device=device, sampler=sampler, model_config=config, **others)


def test_an_eager_engine_compiles_nothing(module: ModuleType) -> None:
    assert uncompile(runner())
    assert module.batched_count_greater_than is count_as_great
    assert module.compiled_random_sample is plain


@pytest.mark.parametrize("other", [runner("cuda"), runner(is_eager=False)])
def test_others_are_left_alone(module: ModuleType, other: Any) -> None:
    before = dict(vars(module))
    assert uncompile(other) == ()
    assert vars(module) == before


def worker(model_runner: Any) -> LookaheadWorker:
    made = LookaheadWorker()
    made.model_runner = model_runner
    return made


def test_an_engine_without_speculation_compiles_nothing_either(module: ModuleType) -> None:
    assert worker(runner()).lookahead_repair() == ("ranks for logprobs", "draws")
    assert module.batched_count_greater_than is count_as_great


def test_what_draws_and_ranks_is_plain_though_speculation_cannot_be_looked_at(
    module: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    assert worker(runner(rejection_sampler=object())).lookahead_repair() == ("ranks for logprobs", "draws")
    assert module.compiled_random_sample is plain
    assert "could not be looked at (repair)" in caplog.text


@pytest.mark.parametrize(
    "other",
    [runner("cuda"), runner("cuda", rejection_sampler=None), runner("cuda", False), runner(is_eager=False)],
)
def test_no_worker_on_a_card_or_that_compiles_is_changed_or_warned_of(
    module: ModuleType, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Without speculation vLLM's first model runner has no rejection sampler, and its second one None."""
    before = dict(vars(module))
    assert worker(other).lookahead_repair() == ()
    assert vars(module) == before
    assert caplog.text == ""
