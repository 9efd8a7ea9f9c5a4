"""vLLM 0.32's scheduler, which has hints verified as early as can be, and nothing read twice.

Promises: what is scheduled besides is vLLM's own decision; drafts are added only where the tokens, the blocks and the
context have room for them; a part of vLLM that does not fit (connectors, models with a state, structured output) keeps
its own way.

Two things are earlier than in vLLM's own way. The hints that a request brings are verified together with the last
tokens of its prompt; else the first pass of a step would write one token, however good its hint is. And a hint that
comes while a pass runs is in the next pass; else it would wait for one more, since what that verifies was chosen when
the last one ended. All that came since then reach the workers in one call, for they compute nothing meanwhile. And a
request that goes on where another ended takes over what that had read of its last block (`actors.engines.remnants`).

And where a pass fails, vLLM's core logs what was in it without the words of hints and drafts.
"""

from __future__ import annotations

import logging
from collections import deque
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from vllm.logging_utils.dump_input import prepare_object_to_dump
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import RequestStatus

from actors.engines.hint_options import CORE_METHOD, without_words
from actors.engines.hints import Note, first_drafts, key_of, rules_of
from actors.engines.remnants import Remnants
from actors.engines.waiting import wait_asleep

FREE_ONE_IN = 8
"""Where fewer of all blocks are free, nothing is kept."""
MAX_NOTED = 4096
"""So many hints wait for a pass, and the oldest make room: a scheduler that is paused must not collect without end."""

logger = logging.getLogger(__name__)


class HintScheduler(Scheduler):  # type: ignore[misc]  # vLLM is not typed for us
    """What `scheduler_cls` of vLLM's options names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rules = rules_of(self.vllm_config)
        self._num_draft_slots = self.vllm_config.speculative_config.max_num_new_slots_for_drafting
        self._is_plain = not (
            self.connector
            or self.ec_connector
            or self.needs_kv_cache_zeroing
            or self.need_mamba_block_aligned_split
            or self.scheduler_config.async_scheduling
            or self.use_v2_model_runner  # it has drafts of its own
        )
        self._remnants = self._made_remnants()
        self._noted: deque[Note] = deque(maxlen=MAX_NOTED)
        self._workers: Any = None
        """vLLM's executor; None: no hints have come yet."""
        self._takes_hints = True

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        """vLLM ends `schedule` with this, before it books what was scheduled."""
        if self._is_plain:
            try:
                for new in scheduler_output.scheduled_new_reqs:
                    self._go_on(new, scheduler_output)
                    self._add_drafts(new, scheduler_output)
            except Exception as error:  # only speed is at stake, and vLLM's own output is untouched or complete
                self._is_plain = False
                self._stop_keeping()
                logger.warning("Hints are not verified with prompts any more: %s: %s.", type(error).__name__, error)
        super()._update_after_schedule(scheduler_output)

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        """As vLLM's, which wants no block to be in use."""
        if self._remnants is not None:
            self._remnants.release()
        return bool(super().reset_prefix_cache(*args, **kwargs))

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's, with all hints that have come; nothing is kept where it could be what a request waits for."""
        self._hand_on_hints()
        pool = self.kv_cache_manager.block_pool
        if self._remnants is not None and pool.get_num_free_blocks() * FREE_ONE_IN < pool.num_gpu_blocks:
            self._remnants.release()
        output = super().schedule(*args, **kwargs)
        if self._remnants is not None and not output.total_num_scheduled_tokens and self.get_request_counts()[1]:
            self._remnants.release()  # one waits for nearly all blocks: the next pass has them
        return output

    def _free_request_blocks(self, request: Any) -> None:
        """vLLM ends a request with this, or sets it back."""
        if self._remnants is not None and request.is_finished():
            try:
                self._remnants.keep(request)
            except Exception as error:  # only speed is at stake
                self._stop_keeping()
                logger.warning("Requests do not go on from others' last blocks: %s: %s.", type(error).__name__, error)
        super()._free_request_blocks(request)

    def _stop_keeping(self) -> None:
        remnants, self._remnants = self._remnants, None
        if remnants is not None:
            try:
                remnants.release()
            except Exception:  # vLLM's blocks may be what is in disorder
                logger.warning("Blocks of requests that have ended are not free again.", exc_info=True)

    def note_hints(self, executor: Any, note: Note) -> None:
        """Hints that the workers of `executor` are to have before the next pass. A request comes before its hints, so
        what comes while there is none is for one that has ended."""
        if self._takes_hints and self.requests:
            self._workers = executor
            self._noted.append(note)

    def _hand_on_hints(self) -> None:
        """All hints that were noted, in one call, and what is proposed by them now in the next pass."""
        if not self._noted:
            return
        try:
            keys = {key_of(request.request_id, request.sampling_params) for request in self.requests.values()}
            if notes := [note for note in self._noted if note[0] in keys]:
                of_workers = self._workers.collective_rpc("lookahead_add_hints", args=tuple(notes))
                for guess in next((found for found in of_workers if found), ()):  # who proposes says the same
                    self._verify_next(*guess)
        except Exception as error:  # only speed is at stake, and it would end the engine
            self._takes_hints = False
            logger.warning("Hints do not reach running requests any more: %s: %s.", type(error).__name__, error)
        self._noted.clear()

    def _verify_next(self, request_id: str, drafts: list[int]) -> None:
        """Between two passes: `drafts` instead of what was to be verified for a running request."""
        request = self.requests.get(request_id)
        if request is None or request.status != RequestStatus.RUNNING or not self._is_plain:
            return
        # Between passes all is computed but the last token; in a pipeline of several batches it may be under way.
        is_between = request.num_computed_tokens == request.num_tokens - 1
        if is_between and not request.is_prefill_chunk and not request.use_structured_output:
            request.spec_token_ids = drafts[: self.num_spec_tokens]

    def _made_remnants(self) -> Remnants | None:
        managers = self.kv_cache_manager.coordinator.single_type_managers
        cache, parallel = self.cache_config, self.vllm_config.parallel_config
        if not self._is_plain or not cache.enable_prefix_caching or len(managers) != 1:
            return None
        if self._rules.num_draft_tokens:
            return None  # a draft model inside the engine has not read all that its target has
        is_sharded = max(parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size) > 1
        pool = self.kv_cache_manager.block_pool
        if type(managers[0]) is not FullAttentionManager or is_sharded:
            return None
        if pool.hash_block_size != managers[0].block_size or self.kv_cache_manager.enable_kv_cache_events:
            return None
        return Remnants(managers[0], pool, self.scheduler_config.max_num_seqs)

    def _go_on(self, new: Any, output: Any) -> None:
        """`new` need not read what another request has read of its last block."""
        request_id, request, manager = new.req_id, self.requests[new.req_id], self.kv_cache_manager
        if self._remnants is None or request.prompt_token_ids is None or request.num_output_tokens:
            return
        if not manager.prefix_cache_lookup_enabled(request) or request_id in output.scheduled_spec_decode_tokens:
            return
        num_cached, num_scheduled = new.num_computed_tokens, output.num_scheduled_tokens[request_id]
        more = self._remnants.hand_on(request, num_cached, num_scheduled) - num_cached
        if more:
            new.block_ids = manager.get_block_ids(request_id)
            new.num_computed_tokens += more
            request.num_computed_tokens += more
            output.num_scheduled_tokens[request_id] -= more
            output.total_num_scheduled_tokens -= more
            if request.prefill_stats is not None:
                request.prefill_stats.set(request.num_prompt_tokens, new.num_computed_tokens, 0)

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
        # Where a draft model drafts, it reads the batch with so many slots more for each request, in as large a buffer.
        slots = self._num_draft_slots * len(output.num_scheduled_tokens)
        num_free = min(self.max_num_scheduled_tokens, self.scheduler_config.max_num_batched_tokens - slots)
        room = min(
            self.num_spec_tokens,
            num_free - output.total_num_scheduled_tokens + num_placeholders,
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
    """`hints` for the request `key`, in its next pass. vLLM calls this between two passes, once for each such call."""
    core.scheduler.note_hints(core.model_executor, (key, hints))


def shown(output: Any) -> str:
    """`output`, a pass that failed, as vLLM's core logs it; of hints and of drafts, which are words of answers, only
    how many tokens they have. vLLM itself leaves out the prompts."""
    new = []
    for one in output.scheduled_new_reqs:
        params = copy(one.sampling_params)
        if params is not None and params.extra_args:
            params.extra_args = without_words(params.extra_args)
        new.append(replace(one, sampling_params=params))
    drafts = {request_id: len(token_ids) for request_id, token_ids in output.scheduled_spec_decode_tokens.items()}
    parts = vars(output) | {"scheduled_new_reqs": new, "scheduled_spec_decode_tokens": drafts}
    return str(prepare_object_to_dump(parts))


# vLLM makes a scheduler in the process of its engine's core, calls that core's methods by name, and has what it logs of
# an object from the object's own `anon_repr`, if there is one.
setattr(EngineCore, CORE_METHOD, add_hints)
SchedulerOutput.anon_repr = shown
wait_asleep()
