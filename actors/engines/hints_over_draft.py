"""Hints before vLLM's own draft model: where one fits it is proposed, elsewhere the model drafts. vLLM 0.32's insides.

Promises: the text is never changed (vLLM verifies every proposed token); the draft model reads every token of every
sequence, so that it can go on wherever the hints end; where vLLM's insides are others than expected the draft model
goes on alone, and says so once.

How it gets in: vLLM is told of a draft model and nothing else, so weights, memory and attention are its own affair. At
the start `stand_before` puts itself in the place of the model runner's `propose_draft_token_ids`. If no sequence of a
pass needs the model, it is asked for 0 tokens, which vLLM takes to mean: read, and write nothing.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from actors.engines.hint_matching import Proposal, Source
from actors.engines.hint_options import OWN
from actors.engines.hints import HintProposer, rules_of

logger = logging.getLogger(__name__)


def stand_before(runner: Any) -> HintProposer | None:
    """The proposer that from now on is asked before the draft model of vLLM's model `runner`; None if it has none, or
    is another than expected."""
    try:
        if OWN not in (runner.vllm_config.additional_config or {}):
            return None
        fits = runner.speculative_config.uses_draft_model() and not runner.use_async_scheduling
        _ = (runner.propose_draft_token_ids, runner.discard_request_mask.np, runner.input_batch.num_tokens_no_spec)
        _ = (runner.input_batch.token_ids_cpu, runner.input_batch.vocab_size)
    except AttributeError as error:
        logger.warning("Hints are not used beside the draft model: the model runner is another (%s).", error)
        return None
    proposer = HintProposer(runner.vllm_config, guesses_anew=False)
    if not fits or not proposer.attach(runner):
        return None
    runner.propose_draft_token_ids = HintsBeforeModel(runner, proposer).propose
    return proposer


class HintsBeforeModel:
    """What stands before the draft model of one model runner."""

    def __init__(self, runner: Any, proposer: HintProposer) -> None:
        self._runner = runner
        self._proposer = proposer
        self._num_draft_tokens = rules_of(runner.vllm_config).num_draft_tokens
        self._ask_model = runner.propose_draft_token_ids
        self._is_off = False

    def propose(self, scheduler_output: Any, sampled_token_ids: Any, *args: Any, **kwargs: Any) -> list[list[int]]:
        """As the model runner's own: draft tokens for each sequence of the batch. `sampled_token_ids`, shape
        ``(num_seqs, most sampled tokens)``, has -1 in the place of tokens that were refused."""
        found = self._hints(sampled_token_ids)
        is_asked = any(proposal.source is Source.MODEL for proposal in found)
        scheduler_output.num_spec_tokens_to_schedule = self._num_draft_tokens if is_asked else 0
        drafts = self._ask_model(scheduler_output, sampled_token_ids, *args, **kwargs).tolist()
        return [
            own if proposal.source is Source.MODEL else proposal.tokens
            for own, proposal in zip(drafts, found, strict=True)
        ]

    def _hints(self, sampled_token_ids: Any) -> list[Proposal]:
        if not self._is_off:
            try:
                return [self._hint(at, row) for at, row in enumerate(sampled_token_ids.tolist())]
            except Exception as error:  # a failure here would end the engine, and all that is at stake is speed
                self._is_off = True
                logger.warning(
                    "Hints are switched off in this engine (%s: %s); its draft model goes on. Texts do not change.",
                    type(error).__name__,
                    error,
                )
            finally:
                self._proposer.forget_ended()
        return [Proposal([], Source.MODEL)] * len(sampled_token_ids)

    def _hint(self, at: int, row: list[int]) -> Proposal:
        batch = self._runner.input_batch
        sampled = [token for token in row if 0 <= token < batch.vocab_size]
        if self._runner.discard_request_mask.np[at] or not sampled:  # the prompt is not read to its end yet
            return Proposal([], Source.NOTHING)
        # The tokens that were just sampled are not in the batch yet.
        before = batch.token_ids_cpu[at, : int(batch.num_tokens_no_spec[at])]
        return self._proposer.propose_after(at, len(sampled), np.append(before, sampled))
