"""What a configuration and a request say of hinted decoding, in vLLM's terms.

Promises: pure; any method of vLLM's own passes as it is; what cannot be is an error that names it. What vLLM makes of
it is in `actors.engines.hints` and, with a draft model, in `actors.engines.hints_over_draft`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from actors.engines.hint_matching import MatchRules
from actors.messages import Nearby

METHOD = "hints"
"""Our name among the methods of `speculative_config`."""
PROPOSER = "actors.engines.hints.HintProposer"
EXTENSION = "actors.engines.hint_worker.LookaheadWorker"
SCHEDULER = "actors.engines.hint_scheduler.HintScheduler"
CORE_METHOD = "lookahead_core_add_hints"
"""What `SCHEDULER` adds to vLLM's engine core."""
OWN = "lookahead"
"""Our key in `SamplingParams.extra_args` and in `VllmConfig.additional_config`."""
DEFAULT_DRAFT_TOKENS = 4
MAX_PROPOSED = 128
"""vLLM's ``MAX_SPEC_LEN``: a pass that verifies more tokens of one sequence ends the engine."""

SETTINGS = {
    "num_speculative_tokens": "num_hint_tokens",
    "num_ngram_tokens": "num_ngram_tokens",
    "prompt_lookup_min": "ngram_min",
    "prompt_lookup_max": "ngram_max",
    "realign_min": "realign_min",
    "realign_max": "realign_max",
    "num_draft_tokens": "num_draft_tokens",
}
"""Settings in `speculative_config`, with vLLM's names where it has one, and the fields of `MatchRules` they set."""
PROPOSED = ("num_speculative_tokens", "num_ngram_tokens", "num_draft_tokens")
"""Those that say how many tokens are proposed."""

logger = logging.getLogger(__name__)


def engine_options(options: Mapping[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """vLLM's options for ours.

    `options` has ``speculative_config: {method: hints, num_speculative_tokens: 16, num_ngram_tokens: 4,
    prompt_lookup_min: 2, prompt_lookup_max: 4, realign_min: 2, realign_max: 4}`` (the defaults), with ``model`` and
    ``num_draft_tokens: 4`` where a model is to draft what no hint fits, or anything of vLLM's own, which passes as it
    is, with our extension in the worker. `methods` are those that this vLLM knows. Raises ValueError for what cannot
    be. Without ``speculative_config`` an engine has our extension all the same, where it names none of its own: what an
    eager one would compile on a CPU (`actors.engines.eager_sampling`) does not hang on hints.
    """
    wanted = options.get("speculative_config")
    if not isinstance(wanted, Mapping):
        return {**options, "worker_extension_cls": options.get("worker_extension_cls") or EXTENSION}
    if options.get("worker_extension_cls"):
        raise ValueError("speculative_config needs worker_extension_cls for itself; leave one of them out.")
    options = {**options, "worker_extension_cls": EXTENSION}
    if (method := wanted.get("method")) != METHOD:
        if method is not None and method not in methods:
            names = ", ".join((METHOD, *methods))
            raise ValueError(f"speculative_config.method {method!r} is neither ours nor vLLM's; there are: {names}.")
        return options
    known = {*SETTINGS, "method", "model"}
    if unknown := sorted(set(wanted) - known):
        raise ValueError(f"method {METHOD} has no setting {', '.join(unknown)}; it has: {', '.join(sorted(known))}.")
    if int(options.get("pipeline_parallel_size") or 1) > 1:
        raise ValueError(
            f"method {METHOD} cannot be had with pipeline_parallel_size: vLLM would have drafts verified before it "
            "knows the token before them. Use tensor_parallel_size, or leave speculative_config out."
        )
    rules = _rules(wanted)
    if wanted.get("model") is not None:
        return _over_draft_model(options, wanted["model"], rules)
    if rules.num_draft_tokens:
        raise ValueError("num_draft_tokens is for a model that drafts where no hint fits: name it in model.")
    if "custom_class" not in methods:
        logger.warning("This vLLM takes no proposer from outside: hints are not used, n-gram look-up is.")
        ngram = {"num_speculative_tokens": rules.num_ngram_tokens, "method": "ngram"}
        bounds = {"prompt_lookup_min": rules.ngram_min, "prompt_lookup_max": rules.ngram_max}
        return {**options, "speculative_config": {**ngram, **bounds}}
    size = max(rules.num_hint_tokens, rules.num_ngram_tokens)
    own = {"method": "custom_class", "model": PROPOSER, "num_speculative_tokens": size}
    return _with_rules({**options, "speculative_config": own}, rules)


def _rules(wanted: Mapping[str, Any]) -> MatchRules:
    """The settings in `wanted` that are counts; ValueError names one that is none."""
    counts = {name: value for name, value in wanted.items() if name in SETTINGS}
    for name, value in counts.items():
        if type(value) is not int or value < 1:  # a bool is an int as well
            raise ValueError(f"speculative_config.{name} must be a whole number of at least 1, not {value!r}.")
        if name in PROPOSED and value > MAX_PROPOSED:
            raise ValueError(
                f"speculative_config.{name} is {value}; vLLM verifies at most {MAX_PROPOSED} proposed tokens at once."
            )
    rules = MatchRules(**{SETTINGS[name]: value for name, value in counts.items()})
    for least, most in (("prompt_lookup_min", "prompt_lookup_max"), ("realign_min", "realign_max")):
        low, high = getattr(rules, SETTINGS[least]), getattr(rules, SETTINGS[most])
        if low > high:
            raise ValueError(f"speculative_config.{least} is {low}, over {most}, which is {high}.")
    return rules


def _over_draft_model(options: Mapping[str, Any], model: Any, rules: MatchRules) -> dict[str, Any]:
    """vLLM's own draft model method, with our rules beside it."""
    if options.get("async_scheduling"):
        raise ValueError(f"method {METHOD} with a model cannot have async_scheduling; leave it out.")
    if int(options.get("data_parallel_size") or 1) > 1:
        raise ValueError(
            f"method {METHOD} with a model cannot have data_parallel_size: each of these engines asks the model where "
            "its own hints end, and those of a mixture of experts would wait for one another for ever. Use replicas "
            "(placement.num_replicas) or tensor_parallel_size, or leave model out."
        )
    rules = replace(rules, num_draft_tokens=rules.num_draft_tokens or DEFAULT_DRAFT_TOKENS)
    size = max(rules.num_hint_tokens, rules.num_ngram_tokens, rules.num_draft_tokens)
    own = {"method": "draft_model", "model": model, "num_speculative_tokens": size}
    return _with_rules({**options, "speculative_config": own, "async_scheduling": False}, rules)


def _with_rules(options: Mapping[str, Any], rules: MatchRules) -> dict[str, Any]:
    additional = {**(options.get("additional_config") or {}), OWN: asdict(rules)}
    scheduler = options.get("scheduler_cls") or SCHEDULER
    return {**options, "additional_config": additional, "scheduler_cls": scheduler}


def request_arguments(
    key: str,
    hints: Iterable[Sequence[int]] = (),
    speculation: str = METHOD,
    num_written: int = 0,
    nearby: Iterable[Nearby] = (),
) -> dict[str, Any]:
    """`extra_args` of a request. `key` is what `add_hints` will name it by; the last `num_written` tokens of its prompt
    were already written since the hints' beginning, which is the place that those `nearby` are near."""
    wishes = {"key": key, "hints": [list(h) for h in hints], "speculation": speculation, "num_written": num_written}
    return {OWN: wishes | {"nearby": [[near.num_before, list(near.token_ids)] for near in nearby]}}


def without_words(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`extra_args` as a log may show them: hints are words of answers, so the lengths stand for them."""
    if not (wishes := arguments.get(OWN)):
        return dict(arguments)
    lengths = {
        "hints": [len(hint) for hint in wishes["hints"]],
        "nearby": [[num_before, len(token_ids)] for num_before, token_ids in wishes["nearby"]],
    }
    return {**arguments, OWN: {**wishes, **lengths}}
