"""Ray on this machine, started or joined.

Promises: a start that fails because the machine is busy is tried a second time, after everything of the first has
ended; Ctrl-C is answered within seconds however long Ray waits; a token that is made for the start is readable by its
owner alone; what cannot be started or joined is told in one sentence, with advice that can help.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import ConfigError, ServiceError
from deployments.server.interrupts import answered, own_sigterm

if TYPE_CHECKING:
    from ray._private.node import Node

AGENT_IS_LATE = "Timed out waiting for file"
"""What the raylet writes before it aborts, since an agent has not told a port within 15 s. No setting of Ray 2.60
changes that; an agent is a Python process that imports for three seconds, and for twenty where others compute."""


def join(address: str) -> None:
    """Start Ray on this machine, or join the cluster at `address`; ServiceError or ConfigError if it cannot be."""
    with answered(), own_sigterm():
        if address == "local":
            _start()
        else:
            _join(address)


def _start() -> None:
    """What Ray's agent imports was read from disk in the first attempt, so that the second has the better chance."""
    import ray

    _require_a_folder()
    make_token()
    for is_last in (False, True):
        try:
            ray.init(address="local", log_to_driver=False, logging_level="ERROR", include_dashboard=False)
            return
        except Exception as error:  # Ray's own, the system's, and a plain Exception where a process starts too slowly
            node = _node_of(error)
            if is_last or node is None:
                raise ServiceError(_why_not_started(error, node)) from error
            print("Ray was not up in time on this machine, which is busy: trying once more.", file=sys.stderr)
            node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)
            ray.shutdown()


def _require_a_folder() -> None:
    """All processes begin in the current folder; without one Ray fails after a minute and names no path."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"The current folder cannot be used: {error.strerror}. It was deleted or closed to you: change to one that "
            "is there, and start again."
        ) from error


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        raise ConfigError(
            f"No Ray cluster could be joined at {address!r}: {_words(error)}. `ray status` says what runs; `ray "
            "start --head` begins a cluster, and without --address one starts on this machine. One with "
            "RAY_AUTH_MODE=token takes only the token it was started with (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, "
            "or ~/.ray/auth_token).",
            "address",
        ) from error


def _node_of(error: Exception) -> Node | None:
    """What Ray had started when `error` was raised; `ray.shutdown` does not know of a node that did not come up."""
    from ray._private.node import Node

    owners = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((one for one in owners if isinstance(one, Node) and getattr(one, "all_processes", None)), None)


def _why_not_started(error: Exception, node: Node | None) -> str:
    if node is not None and AGENT_IS_LATE in _raylet_said(node):
        return (
            "Ray does not start on this machine, which is too busy: Ray's own agent was not up within Ray's limit, "
            "twice. No setting raises that limit; try again when less runs here."
        )
    set_folder, why = os.environ.get("RAY_TMPDIR"), _words(error)
    folder = f"{set_folder} (RAY_TMPDIR)" if set_folder else "/tmp/ray"  # nosec B108 # named, not written
    if "AF_UNIX" in why:
        return f"Ray does not start on this machine: {why}. Its sockets are below RAY_TMPDIR: name a shorter folder."
    return (
        f"Ray does not start on this machine: {why}. It needs to write to {folder}, and to "
        "~/.ray/auth_token unless RAY_AUTH_TOKEN holds a token; on a machine that is busy "
        "RAY_raylet_start_wait_time_s=180 gives it longer."
    )


def _raylet_said(node: Node) -> str:
    with contextlib.suppress(OSError):
        return Path(node.get_logs_dir_path(), "raylet.err").read_text(encoding="utf-8", errors="replace")
    return ""


def _words(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def make_token() -> None:
    """The token of a cluster that asks for one, where there is none: Ray would make it readable by everybody."""
    has_one = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_one or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # it is there, or Ray says why it cannot be
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
