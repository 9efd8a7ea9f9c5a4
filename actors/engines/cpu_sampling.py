"""Makes vLLM 0.32's sampling right on CPUs; runs in vLLM's worker.

Promises: only what is wrong is replaced, found by trying it, so a vLLM that is right is left alone; nothing changes on
other devices. Without this, on a CPU:

- a sequence with a seed whose prompt is read in several passes ends the engine: each of them draws a token that does
  not count, and vLLM would take the random numbers back from a generator that cannot go back there.

And with any method of speculation that takes part of its work in batches:

- the temperatures, top-k and top-p of the sequences are not spread over their draft tokens: the CPU kernel writes to a
  copy, and the tokens are sampled with whatever was in memory, also those of greedy sequences in a mixed batch;
- a pass without a draft token in which a sequence has `top_k` ends the engine;
- the scheduler's placeholders for draft tokens (-1) are looked up among the probabilities.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch


def repair(runner: Any) -> tuple[str, ...]:
    """Repair the sampling of vLLM's model `runner`. The names of what was wrong; nothing where it does not apply."""
    sampler = getattr(runner, "rejection_sampler", None)
    if sampler is None or torch.device(runner.device).type != "cpu":
        return ()
    repaired = []
    module = sys.modules[type(sampler).__module__]
    if not _expands(module):
        module.expand_batch_to_tokens = expand_batch_to_tokens  # type: ignore[attr-defined]
        repaired.append("parameters of draft tokens")
    sampler.forward = _careful(sampler.forward, runner.sampler)
    repaired.append("passes without draft tokens")
    return tuple(repaired)


def keep_seeds(runner: Any) -> tuple[str, ...]:
    """From now on a pass of vLLM's model `runner` that does not end a sequence's prompt takes nothing of its seed: what
    it draws there does not count, and is drawn without one. The name of what was wrong; nothing where it does not
    apply, as in vLLM's second model runner, which draws in another way."""
    unread = getattr(runner, "discard_request_mask", None)
    if unread is None or torch.device(runner.device).type != "cpu":
        return ()
    sample = runner.sample_tokens

    def sample_tokens(*args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        rows = np.flatnonzero(unread.np[: batch.num_reqs]).tolist()
        kept = {row: batch.generators.pop(row) for row in rows if row in batch.generators}
        try:
            return sample(*args, **kwargs)
        finally:
            batch.generators.update(kept)

    runner.sample_tokens = sample_tokens
    return ("seeds of prompts that are read in parts",)


def expand_batch_to_tokens(
    x: torch.Tensor, cu_num_tokens: torch.Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    """As vLLM's: each value of `x`, shape ``(batch_size,)``, as often as its sequence has draft tokens, of which
    `cu_num_tokens` are the running totals; shape ``(num_tokens,)``. `replace_from` becomes `replace_to`."""
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    expanded = x.repeat_interleave(counts, output_size=num_tokens)
    return expanded.masked_fill(expanded == replace_from, replace_to)


def _expands(module: ModuleType) -> bool:
    values, totals = torch.tensor([0.5, 0.0, 0.25]), torch.tensor([1, 2, 4], dtype=torch.int32)
    found = module.expand_batch_to_tokens(values, totals, 4, 0, 1)
    return bool(torch.equal(found, torch.tensor([0.5, 1.0, 0.25, 0.25])))


def _careful(forward: Any, sampler: Any) -> Any:
    def sample(metadata: Any, draft_probs: Any, logits: torch.Tensor, sampling_metadata: Any) -> Any:
        if not sum(metadata.num_draft_tokens):
            return sampler(logits=logits, sampling_metadata=sampling_metadata)
        metadata.draft_token_ids.clamp_(min=0)  # any token will do: it is accepted with its own probability
        return forward(metadata, draft_probs, logits, sampling_metadata)

    return sample
