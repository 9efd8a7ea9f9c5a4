"""Takes a hint's word where the model finds it nearly as likely as its own (lenience, arXiv 2211.17192, A.5); runs in
vLLM's worker. Written against version 0.32.

Promises: a request that does not wish for it gets exactly vLLM's sampling. Where both words are exchangeable
(`actors.engines.exchangeable`) the odds of a hint's word are multiplied by 1 / lenience: a greedy request takes it if
it has at least `lenience` times the probability of the likeliest word, a sampled one takes it more often. All other
tokens are the model's own. Where vLLM's insides are others than expected there is no lenience, which is said once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any, Protocol

import torch

GREEDY = 1e-5
"""vLLM's own bound: at a lower temperature the likeliest token is taken."""

logger = logging.getLogger(__name__)


class Wishes(Protocol):
    """What is known of the sequences of the batch, by their place."""

    def lenience_at(self, at: int) -> float:
        """As in `StepRequest`, for the drafts that are verified now."""
        ...

    def gave(self, at: int, places: tuple[int, ...]) -> None:
        """Where lenience made the choice."""
        ...


def soften(runner: Any, wishes: Wishes, fixed: Sequence[int]) -> bool:
    """Have vLLM's model `runner` verify drafts with the lenience that `wishes` knows. `fixed` tokens never profit from
    it, nor does what stands in their place. False, and a warning, if it cannot be."""
    try:
        sampler, size = runner.rejection_sampler, int(runner.input_batch.vocab_size)
        is_fixed = torch.zeros(size, dtype=torch.bool, device=runner.device)
        sampler.forward = LenientSampling(sampler.forward, wishes, is_fixed, fixed).forward
    except (AttributeError, TypeError, IndexError) as error:
        logger.warning("No lenience in this engine: its sampling is another than expected (%s).", error)
        return False
    return True


class LenientSampling:
    """What stands before the `forward` of vLLM's rejection sampler."""

    def __init__(self, forward: Any, wishes: Wishes, is_fixed: torch.Tensor, fixed: Sequence[int]) -> None:
        """`is_fixed`, shape ``(vocab_size,)``, is filled from the ids `fixed`."""
        is_fixed[[token for token in fixed if token < len(is_fixed)]] = True
        self._forward = forward
        self._wishes = wishes
        self._is_fixed = is_fixed
        self._is_off = not fixed  # without knowing what must not be exchanged, nothing is

    def forward(self, metadata: Any, draft_probs: Any, logits: torch.Tensor, sampling_metadata: Any) -> Any:
        """As vLLM's. `logits`, shape ``(num_draft_tokens + batch_size, vocab_size)``, are changed in place."""
        if not self._is_off and logits is not None:
            try:
                self._favour(metadata, logits, sampling_metadata.temperature)
            except Exception as error:  # only speed is at stake
                self._is_off = True
                logger.warning("No lenience any more: %s: %s.", type(error).__name__, error)
        return self._forward(metadata, draft_probs, logits, sampling_metadata)

    def _favour(self, metadata: Any, logits: torch.Tensor, temperatures: torch.Tensor | None) -> None:
        counts = metadata.num_draft_tokens
        lenient = [
            (at, place, start + place, -math.log(lenience))
            for at, (start, count) in enumerate(zip(accumulate(counts, initial=0), counts, strict=False))
            if count and (lenience := self._wishes.lenience_at(at)) < 1.0
            for place in range(count)
        ]
        if not lenient:
            return
        device = logits.device
        of = torch.tensor([at for at, *_ in lenient], device=device)
        flat = torch.tensor([row for _, _, row, _ in lenient], device=device)
        bonus = torch.tensor([bonus for *_, bonus in lenient], device=device)
        if temperatures is not None:  # logits are divided by it later
            bonus = bonus * temperatures[of].masked_fill(temperatures[of] < GREEDY, 1.0)
        rows = metadata.target_logits_indices[flat].long()
        drafts = metadata.draft_token_ids[flat].long().clamp(min=0)
        best, own = logits[rows].max(dim=-1)
        may = ~(self._is_fixed[drafts] | self._is_fixed[own])
        raised = logits[rows, drafts] + torch.where(may, bonus, torch.zeros_like(bonus)).to(logits.dtype)
        logits[rows, drafts] = raised
        is_given = (may & (drafts != own) & (raised >= best)).tolist()
        given = [(at, place) for (at, place, _, _), yes in zip(lenient, is_given, strict=True) if yes]
        for at, places in groupby(given, key=lambda pair: pair[0]):
            self._wishes.gave(at, tuple(place for _, place in places))
