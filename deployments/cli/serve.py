"""`lookahead serve`: the whole cluster on this machine, or on the Ray cluster that this machine belongs to.

Promises: the address is printed when all roles are able to serve; Ctrl-C, SIGTERM and errors end all of it.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated

import typer

from actors.errors import ConfigError
from deployments.server.ending import GRACE_S
from deployments.server.launch import logs, running

if TYPE_CHECKING:
    from deployments.config import Config


def serve(
    profile: Annotated[str | None, typer.Option(help="A shipped profile: local, scripted, ...")] = None,
    config: Annotated[str | None, typer.Option(help="A config file instead of a profile.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 finds a free one.")] = None,
    address: Annotated[
        str, typer.Option(help="Ray cluster: 'local' starts one here, 'auto' joins the running one.")
    ] = "local",
) -> None:
    """Start draft, target, verifier, coordinator and gateway, and serve until Ctrl-C.

    Example: lookahead serve --profile local --port 8000
    """
    settings = choose(profile, config, host, port)
    with running(settings, address=address) as url:
        model = settings.served_model_name
        typer.echo(f"Serving {model} at {url}/v1 - stop with Ctrl-C")
        typer.echo(f'Try: lookahead chat "What is 12 * 13?" --url {url}', err=True)
        is_here = address == "local"
        typer.echo(f"Logs: {logs()}{'' if is_here else ', on the node of each role'}", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
        cut = f"answers under way have {GRACE_S:.0f} s more, then they are cut; Ctrl-C again cuts them now."
        typer.echo(f"Stopping: {cut}" if is_here else "Stopping ...", err=True)


def choose(profile: str | None, config: str | None, host: str | None = None, port: int | None = None) -> Config:
    """The configuration that the options name; `local` by default."""
    from deployments.config import load_config, load_profile

    if profile is not None and config is not None:
        raise ConfigError("Give --profile or --config, not both.")
    settings = load_config(config) if config is not None else load_profile("local" if profile is None else profile)
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return settings.model_copy(update={"gateway": settings.gateway.model_copy(update=changes)})
