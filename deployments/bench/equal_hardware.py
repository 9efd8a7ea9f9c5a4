"""What vLLM's own server is started with so that it has what a deployment has: the row that any speed-up has to be
measured against. Pure.

Promises: the same weights, engine options and environment as the deployment's target; all cores that target and draft
have, or all GPUs of all roles; vLLM's own token-level speculation, with the same draft weights; never more hardware
than the deployment, and an error where it is not known how much that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from actors.engines import with_weights
from actors.errors import RequestError
from deployments.config import Config
from deployments.sections import PlacementConfig

NUM_DRAFT_TOKENS = 4
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
VARIANT = "vllm"
"""The row of a benchmark that is answered by such a server; ``vllm:ngram`` and ``vllm:none`` say how it speculates."""
SPECULATIONS = ("best", "ngram", "none")
OURS = "hints"
"""Our method of `speculative_config`, which vLLM's server does not have."""
DEFAULT_MEMORY = 0.9
"""Of a card, where `gpu_memory_utilization` is not set (older vLLM's default; newer ones take 0.92)."""
LARGEST_MEMORY = 0.95
"""Of a card, for all that shares it: CUDA and the server itself need some."""


@dataclass(frozen=True, slots=True)
class VllmServer:
    """What to start: `options` are fields of vLLM's engine arguments, `cores` those of a CPU engine."""

    model: str
    name: str
    options: Mapping[str, Any]
    cores: str | None
    environment: Mapping[str, str]


def speculation_of(variant: str) -> str | None:
    """How the server of the row `variant` speculates; None for a row of another kind. RequestError for an unknown
    word."""
    name, *words = variant.split(":")
    if name != VARIANT:
        return None
    word = words[0] if words else "best"
    if len(words) > 1 or word not in SPECULATIONS:
        known = ", ".join(f"{VARIANT}:{known}" for known in SPECULATIONS)
        raise RequestError(f"{variant!r} is no row that is known; there are: {VARIANT}, {known}.", "modes")
    return word


def own_servers(config: Config | None, variants: Iterable[str]) -> dict[str, VllmServer]:
    """The server of each of `variants` that is answered by one, by variant. RequestError as `equal` raises it, and
    where no `config` says what to start."""
    wanted = {variant: speculation for variant in variants if (speculation := speculation_of(variant)) is not None}
    if wanted and config is None:
        raise RequestError(f"The row {min(wanted)!r} needs --profile or --config: it starts a server.", "modes")
    return {variant: equal(config, speculation) for variant, speculation in wanted.items() if config is not None}


def needs_gpus(config: Config) -> bool:
    """Whether the deployment's engines are on GPUs. Then they hold their memory as long as they live, and a server that
    is to have all of it can only be started after them."""
    return any(any(placement.gpus) for placement in _placements(config))


def same(config: Config) -> VllmServer:
    """The target alone, on the target's own hardware, without token-level speculation."""
    options = {name: value for name, value in _options(config).items() if name != "speculative_config"}
    return _server(config, options, config.target.placement.cpu_cores)


def equal(config: Config, speculation: str = "best") -> VllmServer:
    """The target on all hardware of the deployment, with vLLM's own token-level speculation.

    ``best``: what the target's engine has, if it is vLLM's; else the draft's model as draft model; else n-gram look-up.
    ``ngram`` and ``none`` say what they are. RequestError for a deployment without a model, for one on GPUs whose
    replicas come and go, and for one on CPUs of whose engines only the target is bound to cores.
    """
    if config.target.engine.kind != "vllm":
        raise RequestError("vLLM's own server needs a model, and this deployment's target has none.", "modes")
    options = _options(config)
    own = options.pop("speculative_config", None)
    chosen = {"best": _best(config, own), "ngram": NGRAM, "none": None}[speculation]
    if chosen is not None:
        options["speculative_config"] = chosen
    if needs_gpus(config):
        options.pop("distributed_executor_backend", None)  # Ray belongs to the deployment, and has ended with it
        return _server(config, options | _all_cards(config, options), config.target.placement.cpu_cores)
    return _server(config, options, _all_cores(config))


def method_of(options: Mapping[str, Any]) -> str:
    """How an engine with `options` speculates on tokens, in vLLM's word; ``none`` where it does not."""
    chosen = options.get("speculative_config")
    if not chosen:
        return "none"
    return str(chosen.get("method") or "not named") if isinstance(chosen, Mapping) else str(chosen)


def _server(config: Config, options: Mapping[str, Any], cores: str | None) -> VllmServer:
    return VllmServer(config.target.model, config.served_model_name, options, cores, config.target.placement.env)


def _options(config: Config) -> dict[str, Any]:
    """The engine options of the target, as `actors.engines.create_engine` completes them."""
    return with_weights(config.target.model, config.target.engine.options)


def _best(config: Config, own: Any) -> Any:
    if own is not None and not (isinstance(own, Mapping) and own.get("method") == OURS):
        return own
    model = own.get("model") if own else None
    if model is None and config.draft is not None and config.draft.engine.kind == "vllm":
        model = config.draft.model
    if model is None:
        return NGRAM
    return {"method": "draft_model", "model": model, "num_speculative_tokens": NUM_DRAFT_TOKENS}


def _all_cores(config: Config) -> str | None:
    """The target's cores and the draft's. Where the target has several workers, each with cores of its own, they keep
    theirs."""
    own = config.target.placement.cpu_cores
    if own is None or config.draft is None:
        return own
    drafts = config.draft.placement.cpu_cores
    if drafts is None:
        raise RequestError(
            f"How many cores vLLM's own server may have is not known: the target is bound to the cores {own}, and the "
            "draft to none. Say in the config which ones the draft has.",
            "draft.placement.cpu_cores",
        )
    drafts = drafts.replace("|", ",")  # one engine has them now, and not one of the draft's workers each
    return own if "|" in own or drafts == own else f"{own},{drafts}"


def _all_cards(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """As many engines of the target's size as fit on the deployment's GPUs. Where the target shares a card, each has
    the memory that all roles together have of a card, in the mean over their cards."""
    if config.autoscaling is not None or any(placement.autoscaling for placement in _placements(config)):
        raise RequestError(
            "How many GPUs vLLM's own server may have is not known while the deployment's replicas come and go. Take "
            "`autoscaling` out of the config and give each role the num_replicas to compare with.",
            "autoscaling",
        )
    num_cards = math.ceil(sum(p.num_replicas * sum(p.gpus) for p in _placements(config)) - 1e-9)
    size = int(options.get("tensor_parallel_size") or 1) * int(options.get("pipeline_parallel_size") or 1)
    num_engines = max(1, math.floor(num_cards / size))
    found: dict[str, Any] = {"data_parallel_size": num_engines} if num_engines > 1 else {}
    if config.target.placement.shares_card:
        found["gpu_memory_utilization"] = min(LARGEST_MEMORY, round(_memory(config) / num_cards, 3))
    return found


def _memory(config: Config) -> float:
    """What all roles hold, in cards. Of a verifier that shares a card it is not known, and little."""
    held = 0.0
    for writer in (config.target, config.draft):
        if writer is not None:
            share = float(writer.engine.options.get("gpu_memory_utilization") or DEFAULT_MEMORY)
            held += share * _num_parts(writer.placement)
    verifier = config.verifier.placement
    return held if verifier.shares_card else held + DEFAULT_MEMORY * _num_parts(verifier)


def _num_parts(placement: PlacementConfig) -> int:
    """On how many cards its replicas hold memory, or parts of one that they share."""
    return placement.num_replicas * sum(math.ceil(gpus) for gpus in placement.gpus)


def _placements(config: Config) -> list[PlacementConfig]:
    writers = [config.target, *([config.draft] if config.draft is not None else [])]
    return [*(writer.placement for writer in writers), config.verifier.placement]
