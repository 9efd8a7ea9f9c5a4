"""In eager engines on CPUs vLLM 0.32 compiles nothing of its sampling either; runs in vLLM's worker.

With `enforce_eager` vLLM compiles no model, but still what draws tokens and what ranks them for logprobs, with the
first request that needs it: everybody's text waits for a C++ compiler (13 s on a new machine), and where there is none
the engine ends.

Promises: the same tokens are ranked the same way and drawn with the same probabilities, in memory for a few rows at a
time; other devices and engines that compile are left alone.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

NUM_ROWS = 32
"""Rows that are ranked at once: uncompiled, each value of a row of logits takes nine bytes meanwhile."""


def uncompile(runner: Any) -> tuple[str, ...]:
    """Put plain functions in the place of those that vLLM's model `runner` would compile. Their names."""
    if torch.device(runner.device).type != "cpu" or not runner.model_config.enforce_eager:
        return ()
    ranking = sys.modules[type(runner.sampler).__module__]
    drawing = sys.modules[type(runner.sampler.topk_topp_sampler).__module__]
    ranking.batched_count_greater_than = count_as_great  # type: ignore[attr-defined]
    compiled = drawing.compiled_random_sample
    drawing.compiled_random_sample = compiled._torchdynamo_orig_callable  # type: ignore[attr-defined]
    return "ranks for logprobs", "draws"


def count_as_great(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """How many elements of each row of `x`, shape ``(num_rows, num_elements)``, are not less than the row's value in
    `values`, shape ``(num_rows, 1)``; shape ``(num_rows,)``."""
    rows = zip(x.split(NUM_ROWS), values.split(NUM_ROWS), strict=True)
    return torch.cat([(part >= value).sum(-1) for part, value in rows])
