"""What `serve run` and `serve deploy` are given: which configuration, and what of it is to be otherwise."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from deployments.config import Config, load_config, load_profile, validate_config
from deployments.live_settings import laid_over


class BuildArgs(BaseModel):
    """Arguments of `build` on Serve's command line and in its YAML: one of profile, config and settings, and what is
    to be otherwise."""

    model_config = ConfigDict(extra="forbid")

    profile: str | None = None
    """A shipped profile."""
    config: str | None = None
    """Path of a config file on the machine that builds."""
    settings: dict[str, Any] | None = None
    """The whole configuration, inline."""
    changes: dict[str, Any] = {}
    """Settings that are laid over it, mappings into each other."""
    revision: str = ""
    """Any word. Serve looks at these arguments only, and builds anew where they are others: a file that was edited
    under its former path needs another one."""

    @model_validator(mode="after")
    def _one_of_the_three(self) -> BuildArgs:
        given = sorted(self.model_fields_set & {"profile", "config", "settings"})
        if len(given) > 1:
            raise ValueError(f"give one of profile, config and settings, not {' and '.join(given)}")
        return self

    def resolve(self) -> Config:
        """The configuration; ConfigError says what is wrong with it."""
        config = self._unchanged()
        if not self.changes:
            return config
        return validate_config(laid_over(config.model_dump(), self.changes), "changes")

    def _unchanged(self) -> Config:
        if self.settings is not None:
            return validate_config(self.settings, "settings")
        if self.config is not None:
            return load_config(self.config)
        return load_profile("local" if self.profile is None else self.profile)
