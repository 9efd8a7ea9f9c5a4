"""What an engine takes of its model's generation config, as `vllm serve` does: how tokens are drawn where a request
does not say. Pure.

Promises: what the operator sets and cannot be had is an error that names it; what else the model's own file says of the
drawing, or says with a value that the engine refuses, is left out with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from actors.errors import ConfigError
from actors.messages import NEUTRAL, Sampling

OVERRIDE = "override_generation_config"
"""vLLM's option that goes before the model's file."""
TAKEN = tuple(field.name for field in fields(Sampling) if field.name != "seed")
"""Not taken: a presence or frequency penalty, which counts what one call wrote and would begin anew with each step; and
a usual or greatest length."""

logger = logging.getLogger(__name__)


def check_override(options: Mapping[str, Any]) -> None:
    """ConfigError for a value in engine options that would have no effect."""
    override = options.get(OVERRIDE)
    for name in override if isinstance(override, Mapping) else ():
        if name not in TAKEN:
            raise ConfigError(
                f"{OVERRIDE} cannot have {name!r} in this server; it may have: {', '.join(TAKEN)}.",
                f"engine.options.{OVERRIDE}",
            )


def default_sampling(
    told: Mapping[str, Any], override: Mapping[str, Any], model: str, refusal: Callable[[Sampling], str | None]
) -> Sampling:
    """What is taken where a request does not say.

    `told` is vLLM's `ModelConfig.get_diff_sampling_param`, in which the operator's `override` has gone before the file;
    `refusal` is why the engine would serve no request that is drawn so, None if it would. ConfigError for such a value
    in `override`.
    """
    left_out = sorted(name for name, value in told.items() if name not in TAKEN and value)
    taken: dict[str, Any] = {}
    for name in TAKEN:
        if name not in told:
            continue
        # Each beside neutral ones: a temperature of 0 would hide what a request that sets another one is refused for.
        reason = refusal(replace(NEUTRAL, **{name: told[name]}))
        if reason is None:
            taken[name] = told[name]
        elif name in override:
            raise ConfigError(
                f"{OVERRIDE} sets {name} to {told[name]!r}, and the engine of {model} would refuse requests for it "
                f"({reason}); correct it or leave it out.",
                f"engine.options.{OVERRIDE}",
            )
        else:
            left_out.append(f"{name} {told[name]!r} ({reason})")
    if left_out:
        logger.warning("Of the generation config of %s this server does not take: %s.", model, ", ".join(left_out))
    return replace(NEUTRAL, **taken)
