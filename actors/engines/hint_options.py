"""What the configuration and a request say of hinted decoding, in vLLM's terms.

Promises: pure; any method of vLLM's own passes as it is; what vLLM would not take, or would take for something else, is
an error that names it. See `actors.engines.hints` for what vLLM makes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from actors.engines.hint_matching import MatchRules

METHOD = "hints"
"""Our name among the methods of `speculative_config`."""
PROPOSER = "actors.engines.hints.HintProposer"
EXTENSION = "actors.engines.hints.LookaheadWorker"
SCHEDULER = "actors.engines.hint_scheduler.HintScheduler"
OWN = "lookahead"
"""Our key in `SamplingParams.extra_args` and in `VllmConfig.additional_config`."""
SETTINGS = {
    "num_speculative_tokens": "num_hint_tokens",
    "num_ngram_tokens": "num_ngram_tokens",
    "prompt_lookup_min": "ngram_min",
    "prompt_lookup_max": "ngram_max",
    "realign_min": "realign_min",
    "realign_max": "realign_max",
    "token_cost": "token_cost",
}
"""Settings in `speculative_config`, with vLLM's names where it has one, and the fields of `MatchRules` they set."""

logger = logging.getLogger(__name__)


def engine_options(options: Mapping[str, Any], methods: Sequence[str], scheduler: str | None) -> dict[str, Any]:
    """vLLM's options for ours.

    `options` has ``speculative_config: {method: hints, num_speculative_tokens: 16, num_ngram_tokens: 4,
    prompt_lookup_min: 2, prompt_lookup_max: 4, realign_min: 2, realign_max: 4}`` (the defaults) or anything of vLLM's
    own, which passes as it is, with our extension in the worker. `methods` are those that this vLLM knows, `scheduler`
    is ours if it fits this vLLM. Raises ValueError for what cannot be.
    """
    wanted = options.get("speculative_config")
    if not isinstance(wanted, Mapping):
        return dict(options)
    if options.get("worker_extension_cls"):
        raise ValueError("speculative_config needs worker_extension_cls for itself; leave one of them out.")
    options = {**options, "worker_extension_cls": EXTENSION}
    if wanted.get("method") != METHOD:
        return options
    unknown = sorted(set(wanted) - {*SETTINGS, "method"})
    if unknown:
        raise ValueError(f"method {METHOD} has no setting {', '.join(unknown)}; it has: {', '.join(sorted(SETTINGS))}.")
    rules = _rules({SETTINGS[name]: value for name, value in wanted.items() if name in SETTINGS})
    if "custom_class" not in methods:
        logger.warning("This vLLM takes no proposer from outside: hints are not used, n-gram look-up is.")
        ngram = {"num_speculative_tokens": rules.num_ngram_tokens, "method": "ngram"}
        bounds = {"prompt_lookup_min": rules.ngram_min, "prompt_lookup_max": rules.ngram_max}
        return {**options, "speculative_config": {**ngram, **bounds}}
    size = max(rules.num_hint_tokens, rules.num_ngram_tokens)
    own = {"method": "custom_class", "model": PROPOSER, "num_speculative_tokens": size}
    additional = {**(options.get("additional_config") or {}), OWN: asdict(rules)}
    options = {**options, "speculative_config": own, "additional_config": additional}
    return options if scheduler is None else {"scheduler_cls": scheduler, **options}


def _rules(values: Mapping[str, Any]) -> MatchRules:
    cost = values.get("token_cost")
    counts = {name: int(value) for name, value in values.items() if name != "token_cost"}
    rules = MatchRules(**counts, token_cost=None if cost is None else float(cost))
    fits = rules.ngram_min <= rules.ngram_max and rules.realign_min <= rules.realign_max
    if min(counts.values(), default=1) < 1 or not fits or (rules.token_cost or 0.0) < 0:
        raise ValueError(f"method {METHOD} needs counts of at least 1, no minimum over its maximum, no negative cost.")
    return rules


def request_arguments(
    key: str, hints: Iterable[Sequence[int]] = (), speculation: str = METHOD, num_written: int = 0
) -> dict[str, Any]:
    """`extra_args` of a request. `key` is what `add_hints` will name it by; the last `num_written` tokens of its prompt
    were already written since the hints' beginning."""
    wishes = {"key": key, "hints": [list(h) for h in hints], "speculation": speculation, "num_written": num_written}
    return {OWN: wishes}
