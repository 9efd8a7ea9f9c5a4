"""A cluster for the length of one command, or a server that runs already.

Promises: a cluster that was started here listens on a port that nothing else uses, and is gone when the command ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import RequestError

if TYPE_CHECKING:
    from deployments.config import Config


def chosen_config(profile: str | None, config: Path | None, url: str | None) -> Config | None:
    """The configuration to start; None for a server at `url`. RequestError unless exactly one of the three is given."""
    from deployments.config import load_config, load_profile

    if sum(choice is not None for choice in (profile, config, url)) != 1:
        raise RequestError("Give exactly one of --profile NAME, --config FILE and --url URL.", "profile")
    if profile is not None:
        return load_profile(profile)
    return load_config(config) if config is not None else None


@contextmanager
def server(config: Config | None, url: str | None) -> Iterator[str]:
    """The address of a server that is ready: `url`, or a cluster of `config` that ends with the context."""
    if config is None:
        if url is None:
            raise RequestError("There is neither a configuration nor an address of a server.", "url")
        yield url
        return
    from deployments.server.launch import running

    any_port = config.gateway.model_copy(update={"port": 0})
    with running(config.model_copy(update={"gateway": any_port})) as address:
        yield address


def server_key(config: Config | None, api_key: str | None) -> str | None:
    """The key to send: the one given, else the first that the configuration has in plain."""
    if api_key is None and config is not None:
        plain = [entry if isinstance(entry, str) else entry.key for entry in config.gateway.api_keys]
        return next((key for key in plain if key is not None and not key.startswith("sha256:")), None)
    return api_key
