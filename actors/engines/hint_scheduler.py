"""vLLM 0.32's scheduler, which has hints verified as early as can be.

Promises: what is scheduled besides is vLLM's own decision; drafts are added only where the tokens, the blocks and the
context have room for them; a part of vLLM that does not fit (connectors, models with a state, structured output) keeps
its own way.

Two things are earlier than in vLLM's own way. The hints that a request brings are verified together with the last
tokens of its prompt; else the first pass of a step would write one token, however good its hint is. And a hint that
comes while a pass runs is in the next pass; else it would wait for one more, since what that verifies was chosen when
the last one ended.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import RequestStatus

from actors.engines.hint_options import CORE_METHOD
from actors.engines.hints import first_drafts, rules_of

logger = logging.getLogger(__name__)


class HintScheduler(Scheduler):  # type: ignore[misc]  # vLLM is not typed for us
    """What `scheduler_cls` of vLLM's options names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rules = rules_of(self.vllm_config)
        self._is_plain = not (
            self.connector
            or self.ec_connector
            or self.needs_kv_cache_zeroing
            or self.need_mamba_block_aligned_split
            or self.scheduler_config.async_scheduling
        )

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        """vLLM ends `schedule` with this, before it books what was scheduled."""
        if self._is_plain:
            try:
                for new in scheduler_output.scheduled_new_reqs:
                    self._add_drafts(new, scheduler_output)
            except Exception as error:  # only speed is at stake, and vLLM's own output is untouched or complete
                self._is_plain = False
                logger.warning("Hints are not verified with prompts any more: %s: %s.", type(error).__name__, error)
        super()._update_after_schedule(scheduler_output)

    def verify_next(self, request_id: str, drafts: list[int]) -> None:
        """Between two passes: `drafts` instead of what was to be verified for a running request."""
        request = self.requests.get(request_id)
        if request is None or request.status != RequestStatus.RUNNING or not self._is_plain:
            return
        # Between passes all is computed but the last token; in a pipeline of several batches it may be under way.
        is_between = request.num_computed_tokens == request.num_tokens - 1
        if is_between and not request.is_prefill_chunk and not request.use_structured_output:
            request.spec_token_ids = drafts[: self.num_spec_tokens]

    def _add_drafts(self, new: Any, output: Any) -> None:
        request_id, request = new.req_id, self.requests[new.req_id]
        params, num_tokens = request.sampling_params, request.num_tokens
        if params is None or params.prompt_logprobs is not None:
            return
        if request.use_structured_output or request.has_encoder_inputs:
            return
        # vLLM schedules placeholders, to be rejected, where only one token of the prompt is left to read.
        num_placeholders = len(output.scheduled_spec_decode_tokens.get(request_id, ()))
        num_scheduled = output.num_scheduled_tokens[request_id] - num_placeholders
        if request.num_computed_tokens + num_scheduled != num_tokens:
            return  # more of the prompt follows in the next pass
        room = min(
            self.num_spec_tokens,
            self.max_num_scheduled_tokens - output.total_num_scheduled_tokens + num_placeholders,
            self.max_model_len - num_tokens - 1,
        )
        drafts = first_drafts(params, np.array(request.prompt_token_ids, dtype=np.int32), room, self._rules).tokens
        if len(drafts) > num_placeholders:
            if self.kv_cache_manager.allocate_slots(request, num_scheduled + len(drafts)) is None:
                return
            new.block_ids = self.kv_cache_manager.get_block_ids(request_id)
        output.num_scheduled_tokens[request_id] = num_scheduled + len(drafts)
        output.total_num_scheduled_tokens += len(drafts) - num_placeholders
        output.scheduled_spec_decode_tokens.pop(request_id, None)
        if drafts:
            output.scheduled_spec_decode_tokens[request_id] = drafts


def add_hints(core: Any, key: str, hints: Any) -> None:
    """`hints` for the request `key`, in all workers; what they propose now is in the next pass."""
    for found in core.model_executor.collective_rpc("lookahead_add_hints", args=(key, hints)):
        if found is not None:  # all workers that propose say the same
            core.scheduler.verify_next(*found)
            return


# vLLM makes a scheduler in the process of its engine's core, and calls that core's methods by name.
setattr(EngineCore, CORE_METHOD, add_hints)
