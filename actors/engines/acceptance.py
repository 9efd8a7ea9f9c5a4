"""Counts what an engine's token-level speculation proposes and what of it is accepted, for any of vLLM's methods,
and keeps how full the engine is.

Promises: the counts are vLLM's own, from the statistics that its scheduler sends with every step and with the end of
every request; nothing is asked of the engine. Written against vLLM 0.32 and importing nothing of it: a counter is what
`AsyncLLM` calls a stat logger.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from actors.messages import EngineLoad, SpeculationStats


def counts_of(completion: Any) -> tuple[int, int]:
    """Tokens proposed and accepted in a whole request, which vLLM's last `completion` of it carries; else (0, 0)."""
    found = getattr(completion, "spec_decode_metrics", None)
    if found is None:
        return 0, 0
    return found.num_draft_tokens, sum(accepted * number for accepted, number in enumerate(found.histogram))


class SpeculationCounter:
    """A stat logger that only counts. Hand `AsyncLLM` the bound method `attach` as a factory."""

    def __init__(self) -> None:
        self._num_drafts = 0
        self._num_draft_tokens = 0
        self._num_accepted_tokens = 0
        self._accepted_per_position: list[int] = []
        self._loads: dict[int, EngineLoad] = {}

    def attach(self, vllm_config: Any, engine_index: int = 0) -> SpeculationCounter:
        """vLLM makes a logger for each of its engines; one counter adds up all of them."""
        return self

    def load(self) -> EngineLoad:
        """How full vLLM's engines were at their last steps, as one."""
        loads = self._loads.values()
        running, waiting = sum(one.num_running for one in loads), sum(one.num_waiting for one in loads)
        return EngineLoad(running, waiting, max((one.cache_use for one in loads), default=0.0))

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, engine_idx: int = 0, **__: Any) -> None:
        """vLLM calls this after each step of the scheduler."""
        if scheduler_stats is not None:
            self._loads[engine_idx] = EngineLoad(
                scheduler_stats.num_running_reqs, scheduler_stats.num_waiting_reqs, scheduler_stats.kv_cache_usage
            )
        found = getattr(scheduler_stats, "spec_decoding_stats", None)
        if found is None:
            return
        self._num_drafts += found.num_drafts
        self._num_draft_tokens += found.num_draft_tokens
        self._num_accepted_tokens += found.num_accepted_tokens
        pairs = zip_longest(self._accepted_per_position, found.num_accepted_tokens_per_pos, fillvalue=0)
        self._accepted_per_position = [before + now for before, now in pairs]

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def log(self) -> None:
        """Nothing to say."""

    def record_sleep_state(self, *_: Any) -> None:
        """Nothing to count."""

    def stats(self, counts_by_source: dict[str, int]) -> SpeculationStats:
        """The counts so far, with those of `SpeculationStats` that tell the sources apart."""
        return SpeculationStats(
            num_drafts=self._num_drafts,
            num_draft_tokens=self._num_draft_tokens,
            num_accepted_tokens=self._num_accepted_tokens,
            accepted_per_position=tuple(self._accepted_per_position),
            **counts_by_source,
        )
