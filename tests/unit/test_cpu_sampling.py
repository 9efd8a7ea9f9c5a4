"""What is put in the place of vLLM's speculative sampling where it is wrong, and that nothing else is touched."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from actors.engines.cpu_sampling import expand_batch_to_tokens, keep_seeds, repair


class Sampler:
    """Stands for vLLM's rejection sampler, in a module of its own."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)

    def forward(self, metadata: Any, draft_probs: Any, logits: Any, sampling_metadata: Any) -> Any:
        self.calls.append("speculative")
        return metadata.draft_token_ids.tolist()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("made_up_sampling")
    module.expand_batch_to_tokens = lambda x, totals, size, *_: x.new_zeros(size)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Sampler, "__module__", module.__name__)
    return module


def runner(device: str = "cpu") -> Any:
    return SimpleNamespace(device=device, rejection_sampler=Sampler(), sampler=lambda **_: "plain")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
def test_each_value_is_repeated_for_the_tokens_of_its_sequence(dtype: torch.dtype) -> None:
    values = torch.tensor([3, 0, 7], dtype=dtype)
    expanded = expand_batch_to_tokens(values, torch.tensor([2, 2, 5], dtype=torch.int32), 5)
    assert expanded.dtype is dtype
    assert expanded.tolist() == [3, 3, 7, 7, 7]
    with_other = expand_batch_to_tokens(values, torch.tensor([1, 3, 3]), 3, replace_from=0, replace_to=1)
    assert with_other.tolist() == [3, 1, 1]


def test_what_is_wrong_is_replaced(module: ModuleType) -> None:
    assert "parameters of draft tokens" in repair(runner())
    assert module.expand_batch_to_tokens is expand_batch_to_tokens


def test_what_is_right_stays(module: ModuleType) -> None:
    def right(x: torch.Tensor, totals: torch.Tensor, size: int, *others: int) -> torch.Tensor:
        return expand_batch_to_tokens(x, totals, size, *others)

    module.expand_batch_to_tokens = right  # type: ignore[attr-defined]
    repair(runner())
    assert module.expand_batch_to_tokens is right


def test_a_pass_without_draft_tokens_is_a_plain_one(module: ModuleType) -> None:
    made = runner()
    repair(made)
    metadata = SimpleNamespace(num_draft_tokens=[0, 0], draft_token_ids=torch.tensor([], dtype=torch.int32))
    assert made.rejection_sampler(metadata, None, torch.zeros(2, 5), None) == "plain"
    assert made.rejection_sampler.calls == []


def test_placeholders_become_tokens(module: ModuleType) -> None:
    made = runner()
    repair(made)
    metadata = SimpleNamespace(num_draft_tokens=[2, 1], draft_token_ids=torch.tensor([4, -1, -1], dtype=torch.int32))
    assert made.rejection_sampler(metadata, None, torch.zeros(5, 5), None) == [4, 0, 0]
    assert made.rejection_sampler.calls == ["speculative"]


def test_other_devices_and_engines_without_speculation_are_left_alone(module: ModuleType) -> None:
    before = module.expand_batch_to_tokens
    made = runner("cuda")
    assert repair(made) == ()
    assert repair(SimpleNamespace(device="cpu")) == ()
    assert module.expand_batch_to_tokens is before
    assert "forward" not in vars(made.rejection_sampler)


class Drawing:
    """Stands for vLLM's first model runner: of three sequences the first and the last have a seed, and the prompts of
    the first two are not read to their end. A fourth one's place in the batch is empty."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.discard_request_mask = SimpleNamespace(np=np.array([True, True, False, True]))
        generators = {row: torch.Generator().manual_seed(7) for row in (0, 2)}
        self.input_batch = SimpleNamespace(num_reqs=3, generators=generators)

    def sample_tokens(self, grammar_output: Any) -> dict[int, int]:
        generators = self.input_batch.generators
        drawn = {row: int(torch.randint(1000, (1,), generator=one)) for row, one in generators.items()}
        for row in np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs]):
            if (generator := generators.get(int(row))) is not None:
                generator.set_offset(generator.get_offset() - 4)
        if grammar_output == "wrong":
            raise RuntimeError("the pass failed")
        return drawn


def test_a_pass_over_a_part_of_a_prompt_takes_nothing_of_its_seed() -> None:
    with pytest.raises(RuntimeError, match="offset"):
        Drawing().sample_tokens(None)
    made = Drawing()
    assert keep_seeds(made)
    first, last = made.input_batch.generators[0], made.input_batch.generators[2]
    before = first.get_state()
    assert list(made.sample_tokens(None)) == [2]
    with pytest.raises(RuntimeError, match="the pass failed"):
        made.sample_tokens("wrong")
    assert made.input_batch.generators == {0: first, 2: last}
    assert torch.equal(first.get_state(), before)
    made.discard_request_mask.np[:] = False
    assert made.sample_tokens(None)[0] == int(torch.randint(1000, (1,), generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("other", [Drawing("cuda"), SimpleNamespace(device="cpu"), None])
def test_seeds_are_kept_where_they_would_be_lost_only(other: Any) -> None:
    assert keep_seeds(other) == ()
    assert other is None or "sample_tokens" not in vars(other)
