"""A model in vLLM's asynchronous engine, in steps. Written against version 0.32.

Promises: what is generated is exactly vLLM's own sampling, cut into steps without one forward pass more where one step
is asked for; a generation that is closed or cancelled is aborted in vLLM at once; a dead engine is a `RoleUnavailable`;
no engine process outlives this one, whatever ends it (`actors.engines.guard`); an engine that is made has been used.
"""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from actors.boundaries import DeltaCutter, StepSplitter
from actors.engines.acceptance import SpeculationCounter, counts_of
from actors.engines.first_use import use_once
from actors.engines.generation_config import default_sampling
from actors.engines.guard import Guard
from actors.engines.hint_calls import HintCalls
from actors.engines.hint_options import CORE_METHOD, EXTENSION, OWN, SCHEDULER, request_arguments
from actors.engines.prompts import PromptEncoder
from actors.engines.tokenizer import ModelTokenizer
from actors.engines.vllm_terms import (
    end_ids,
    ending_of,
    engine_arguments,
    num_sequences,
    own_errors,
    refusal,
    sampling_params,
    settle_silence,
    start_failure,
    takes_min_p,
)
from actors.errors import ContextTooLong, LookaheadError, RequestError, RoleUnavailable, ServiceError
from actors.messages import (
    Delta,
    Ending,
    EngineLoad,
    Nearby,
    Prompt,
    RoleInfo,
    Sampling,
    SpeculationStats,
    StepRule,
    TokenIds,
)

# isort: split
# After `vllm_terms`, which sets what vLLM reads while it is imported.
from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

SHUTDOWN_S = 10.0
"""Time that the engine's processes have to end by themselves; then vLLM kills them."""

logger = logging.getLogger(__name__)


class VllmEngine:
    """`actors.roles.Engine` over vLLM. Made by `create`; belongs to the event loop that made it."""

    def __init__(self, engine: Any, info: RoleInfo, guard: Guard, counter: SpeculationCounter) -> None:
        self._engine = engine
        self._counter = counter
        self._takes_hints = False
        self._guard = guard
        self._running: set[str] = set()
        self._is_shut_down = False
        config = engine.vllm_config
        self._has_priorities = config.scheduler_config.policy == "priority"
        self._has_own_scheduler = config.scheduler_config.scheduler_cls == SCHEDULER
        self._has_speculation = config.speculative_config is not None
        self._max_logprobs = config.model_config.max_logprobs
        self._tokenizer = ModelTokenizer(engine.get_tokenizer(), config.model_config.get_vocab_size(), info)
        self._prompts = PromptEncoder(self._tokenizer)
        self._hint_calls = HintCalls(config.model_config.get_vocab_size())
        self._info = replace(info, vocabulary=self._tokenizer.fingerprint, takes_min_p=takes_min_p(config))
        self._end_ids = end_ids(config.model_config.try_get_generation_config())

    @classmethod
    async def create(
        cls, model_path: str, model_name: str, options: Mapping[str, Any], replica: str, cpu_cores: str | None = None
    ) -> VllmEngine:
        """Load the model in the folder `model_path` into engine processes of its own; takes seconds to minutes.

        `options` are fields of vLLM's `AsyncEngineArgs`; `cpu_cores` binds the threads of a CPU engine (``"0-3"``, one
        list a worker, divided by ``|``). Besides vLLM's methods, `speculative_config` has ``hints``
        (`actors.engines.hints`). Raises ConfigError for what vLLM does not know or cannot start with.
        """
        arguments = engine_arguments(model_path, options)
        if cpu_cores is not None:
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = cpu_cores
        # A forked engine would inherit this process's threads' locks and open files.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        settle_silence(os.environ)  # what importing vLLM set may have been taken back since
        if OWN in (arguments.additional_config or {}):
            # Hints stand before the drafts of this model runner only; vLLM would take the other for a draft model.
            os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        guard = Guard.start()
        counter = SpeculationCounter()
        try:
            # What is not set is as in vllm serve.
            config = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
            model = config.model_config
            told, override = model.get_diff_sampling_param(), model.override_generation_config
            usual = default_sampling(told, override, model_name, lambda sampling: refusal(sampling, config))
            engine = AsyncLLM.from_vllm_config(
                config,
                stat_loggers=None if arguments.disable_log_stats else [counter.attach],
                enable_log_requests=arguments.enable_log_requests,
                disable_log_stats=arguments.disable_log_stats,
            )
        except LookaheadError:
            guard.stop()
            raise
        except Exception as error:  # anything may be wrong with a model, its options or the hardware
            guard.stop()
            raise start_failure(model_name, error) from error
        # What is not among the options has a default of vLLM's, which differs with the machine.
        most, length = num_sequences(config), model.max_model_len
        info = RoleInfo(model_name, "", length, replica, max_num_seqs=most, sampling=usual)
        try:
            made = cls(engine, info, guard, counter)
            if arguments.worker_extension_cls == EXTENSION:
                await engine.collective_rpc("lookahead_repair")
            if OWN in (config.additional_config or {}):
                await made._attach_proposer()
            await use_once(made)
            return made
        except BaseException:
            engine.shutdown()
            guard.stop()
            raise

    def describe(self) -> RoleInfo:
        """The model that is held here; `vocabulary` covers every token and its id, added ones included."""
        return self._info

    async def encode_prompt(self, prompt: Prompt) -> TokenIds:
        """As `Engine.encode_prompt`: what has no room in the context is refused as soon as that is known."""
        self._require_running()
        return await self._prompts.encode(prompt)

    def encode_text(self, text: str) -> TokenIds:
        """`text` as a continuation: no special tokens are added, none is parsed."""
        return self._tokenizer.encode_text(text)

    async def decode(self, token_ids: TokenIds) -> str:
        """As `Engine.decode`."""
        self._require_running()
        return await self._prompts.decode(token_ids)

    async def generate(
        self,
        call_id: str,
        token_ids: TokenIds,
        *,
        max_tokens: int,
        rule: StepRule,
        max_steps: int | None,
        sampling: Sampling,
        priority: int = 0,
        hints: tuple[TokenIds, ...] = (),
        nearby: tuple[Nearby, ...] = (),
        token_speculation: str = "hints",
        cache_salt: str = "",
    ) -> AsyncGenerator[Delta, None]:
        """As `Engine.generate`; `max_tokens` shrinks to what the context has room for, ContextTooLong if that is
        nothing. With a bound on steps the work also ends after one that `is_last`. `hints`, `nearby` and
        `token_speculation` have an effect where `speculative_config` has the method ``hints``."""
        budget = self._budget(token_ids, max_tokens)
        if max_steps is not None:
            if max_steps < 1:
                raise RequestError("At least one step must be asked for.", "max_steps")
            budget = min(budget, max_steps * rule.max_tokens)
        before = self._tokenizer.last_text(token_ids, rule) if rule.close or rule.stop else ""
        splitter = StepSplitter(rule, capped=max_steps is not None, before=before)
        cutter = DeltaCutter(splitter, self._tokenizer.text_stream(token_ids, rule.close).step, max_steps)
        stops = sorted(self._tokenizer.stop_ids(rule) - self._end_ids) if max_steps == 1 else []
        written: list[int] = []
        num_cached_tokens: int | None = None
        attempt = 0
        with self._hint_calls.running(call_id, hints, nearby) as call:
            while True:
                # More than one attempt only where vLLM stopped at a boundary that no visible text precedes.
                params = self._sampling_params(sampling.after(len(written)), budget - len(written), stops)
                call.request_id = f"{call_id}:{attempt}" if attempt else call_id
                if self._takes_hints:
                    params.extra_args = call.arguments(token_speculation, len(written))
                prompt = (*token_ids, *written)
                async with aclosing(self._outputs(call.request_id, prompt, params, cache_salt, priority)) as outputs:
                    async for output in outputs:
                        if num_cached_tokens is None:
                            num_cached_tokens = output.num_cached_tokens or 0
                        completion = output.outputs[0]
                        written.extend(completion.token_ids)
                        final = ending_of(completion, self._end_ids, self._info.model)
                        if final is None and completion.finish_reason is not None and len(written) >= budget:
                            final = Ending.CAP  # it stopped at such a boundary with its last token
                        deltas = cutter.feed(completion.token_ids, final)
                        if deltas:
                            proposed, accepted = counts_of(completion)
                            deltas[-1] = replace(
                                deltas[-1], num_proposed=proposed, num_accepted=accepted, num_passes=1.0
                            )
                        for delta in deltas:
                            yield replace(delta, replica=self._info.replica, num_cached_tokens=num_cached_tokens)
                        if cutter.finished:
                            return
                attempt += 1

    async def add_hints(self, call_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Engine.add_hints`: returns when the engine's core has noted them for its next forward pass."""
        news = self._hint_calls.add(call_id, hints)
        if news is not None and self._takes_hints and not self._is_shut_down:
            with own_errors(self._info.model):
                if self._has_own_scheduler:
                    await self._engine.engine_core.call_utility_async(CORE_METHOD, *news)
                else:
                    await self._engine.collective_rpc("lookahead_add_hints", args=(news,))

    async def speculation_stats(self) -> SpeculationStats | None:
        """As `Engine.speculation_stats`."""
        if not self._has_speculation:
            return None
        counts: Counter[str] = Counter()
        if self._takes_hints:
            self._require_running()
            with own_errors(self._info.model):  # `collective_rpc` has the answers of the first engine only
                of_engines = await self._engine.engine_core.call_utility_all_async(
                    "collective_rpc", "lookahead_counts", None, (), None
                )
            for of_workers in of_engines:
                counts.update(next((found for found in of_workers if found), {}))  # who proposes counts the same
        return self._counter.stats(counts)

    async def next_token_probabilities(
        self, call_id: str, token_ids: TokenIds, wanted: TokenIds, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """Probability of each wanted token right after `token_ids`; prefill only, temperature 1.

        With token-level speculation vLLM can only give the likeliest tokens (`max_logprobs`, 20 by default): a wanted
        one that is not among them has probability 0.
        """
        self._budget(token_ids, 1)
        params = SamplingParams(
            max_tokens=1, temperature=1.0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        if self._has_speculation:
            # A batch that mixes drafted tokens and `logprob_token_ids` mixes up their rows in vLLM 0.32's sampler.
            params.logprobs = self._max_logprobs
        else:
            params.logprob_token_ids = sorted(set(wanted))
        if self._takes_hints:
            params.extra_args = request_arguments(call_id, speculation="none")
        output = await self._final_output(call_id, token_ids, params, cache_salt)
        likely = output.outputs[0].logprobs[0]
        return tuple(math.exp(likely[token].logprob) if token in likely else 0.0 for token in wanted)

    async def token_logprobs(
        self, call_id: str, token_ids: TokenIds, start: int, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """Log-probabilities (natural) of ``token_ids[start:]`` given what precedes each; prefill only.

        `start` is at least 1: nothing precedes the first token. The prefix cache is not used, because vLLM computes
        these over the whole prompt.
        """
        if start < 1:
            raise RequestError("The first token has no probability: start must be at least 1.", "start")
        if start >= len(token_ids):
            return ()
        self._budget(token_ids, 1)
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._final_output(call_id, token_ids, params, cache_salt)
        rows = output.prompt_logprobs
        return tuple(rows[at][token_ids[at]].logprob for at in range(start, len(token_ids)))

    async def check_health(self) -> None:
        """Raise RoleUnavailable if the engine cannot work any more. Called every few seconds, so that no prompt is
        kept for longer than it is of use."""
        self._require_running()
        self._prompts.forget_old()
        with own_errors(self._info.model):
            await self._engine.check_health()

    def num_running(self) -> int:
        """Requests that vLLM has not finished or aborted; a dead engine runs none."""
        if self._is_shut_down or self._engine.errored:
            return 0
        return int(self._engine.get_num_unfinished_requests())

    def load(self) -> EngineLoad:
        """As `Engine.load`. vLLM tells with every step; with `disable_log_stats` only what runs is known."""
        unfinished = self.num_running()
        if not unfinished:  # what vLLM told last is of a step that still had something
            return EngineLoad(0)
        seen = self._counter.load()
        return replace(seen, num_running=max(unfinished - seen.num_waiting, 0))

    async def shutdown(self) -> None:
        """End all generations and every process of the engine. Safe to call twice."""
        if self._is_shut_down:
            return
        self._is_shut_down = True
        self._prompts.close()
        if self._running and not self._engine.errored:
            await self._engine.abort(tuple(self._running))
        engine, self._engine = self._engine, None
        if engine.output_handler is not None:
            engine.output_handler.cancel()  # else it calls the end of the engine's core an error
        await asyncio.to_thread(engine.shutdown, SHUTDOWN_S)
        # vLLM closes its sockets, but leaves their context and its threads to the garbage collector.
        engine.engine_core.resources.ctx.destroy(linger=0)
        multiprocessing.active_children()  # reaps what has ended
        self._guard.stop()

    async def _attach_proposer(self) -> None:
        attached = await self._engine.collective_rpc("lookahead_attach")
        self._takes_hints = any(attached)
        self._info = replace(self._info, takes_hints=self._takes_hints)
        if not self._takes_hints:
            logger.warning(
                "%s takes no hints: this vLLM's workers are others than version 0.32's with "
                "VLLM_USE_V2_MODEL_RUNNER=0. Texts do not change.",
                self._info.model,
            )

    def _budget(self, token_ids: TokenIds, max_tokens: int) -> int:
        if max_tokens < 1:
            raise RequestError("max_tokens must be at least 1.", "max_tokens")
        if not token_ids:
            raise RequestError("The prompt has no tokens; send at least one.", "prompt")
        room = self._info.max_model_len - len(token_ids)
        if room < 1:
            raise ContextTooLong.of_prompt(len(token_ids), self._info.max_model_len)
        return min(max_tokens, room)

    def _sampling_params(self, sampling: Sampling, max_tokens: int, stops: list[int]) -> Any:
        with own_errors(self._info.model):
            return sampling_params(
                sampling,
                max_tokens=max_tokens,
                stop_token_ids=stops,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
                skip_clone=True,
            )

    async def _final_output(self, call_id: str, token_ids: TokenIds, params: Any, cache_salt: str) -> Any:
        async with aclosing(self._outputs(call_id, token_ids, params, cache_salt)) as outputs:
            async for output in outputs:
                ending_of(output.outputs[0], self._end_ids, self._info.model)
                return output
        raise ServiceError("The engine ended a request without a result; try again.")

    async def _outputs(
        self, request_id: str, token_ids: TokenIds, params: Any, cache_salt: str, priority: int = 0
    ) -> AsyncGenerator[Any, None]:
        self._require_running()
        prompt = tokens_input(list(token_ids), cache_salt=cache_salt or None)
        self._running.add(request_id)
        try:
            with own_errors(self._info.model):
                rank = priority if self._has_priorities else 0
                stream = self._engine.generate(prompt, params, request_id, priority=rank)
                async with aclosing(stream):
                    async for output in stream:
                        yield output
        finally:
            self._running.discard(request_id)

    def _require_running(self) -> None:
        if self._is_shut_down:
            raise RoleUnavailable(f"{self._info.model} has been shut down; another replica may answer.")
