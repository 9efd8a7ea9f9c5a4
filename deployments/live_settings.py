"""What may change while replicas run: Serve's `user_config` laid over the configuration that they started with.

Promises: only settings that nothing but new requests read; the result is checked as a whole configuration is; an empty
`user_config` gives back what the replicas started with, which is the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.errors import ConfigError
from deployments.config import Config, modes_of, validate_config

SECTIONS = ("speculation", "verifiers")
FIXED = frozenset({"replica_timeout_s", "mode", "fidelities"})
"""Settings of `speculation` that connections are made with, and those that gateways go by, which take no changes."""


def changed(started: Config, user_config: Mapping[str, Any] | None) -> Config:
    """`started` with ``{"speculation": {...}, "verifiers": {NAME: [...]}}`` laid over it, mappings into each other.

    ConfigError for what is not a setting, cannot be, or needs a restart.
    """
    wanted = dict(user_config or {})
    if unknown := sorted(set(wanted) - set(SECTIONS)):
        raise ConfigError(f"user_config: {unknown[0]} cannot change while replicas run; speculation and verifiers can.")
    speculation, verifiers = wanted.get("speculation", {}), wanted.get("verifiers", {})
    if not isinstance(speculation, Mapping) or not isinstance(verifiers, Mapping):
        raise ConfigError("user_config: speculation and verifiers are mappings of settings.")
    if fixed := sorted(FIXED & set(speculation)):
        raise ConfigError(f"user_config: speculation.{fixed[0]} cannot change while replicas run; it needs a restart.")
    if new := sorted(set(verifiers) - set(started.verifier.verifiers)):
        raise ConfigError(f"user_config: the verifier {new[0]!r} is new; only checks of those that run can change.")
    data = started.model_dump()
    data["speculation"] = laid_over(data["speculation"], speculation)
    data["verifier"]["verifiers"] |= verifiers
    config = validate_config(data, "user_config")
    if modes_of(config) != modes_of(started):
        raise ConfigError(
            f"user_config: speculation.specreason.verifier {config.speculation.specreason.verifier!r} changes whether "
            "mode 'specreason' is offered, by which gateways go; it needs a restart."
        )
    return config


def laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the settings of `above`, mappings into each other; anything else takes its place whole."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = laid_over(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return merged
