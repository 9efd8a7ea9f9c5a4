"""Who runs in the cluster: the replicas of each role on this machine, by what Serve's controller says of them.

Promises: a signal goes only to a process that is still the replica it was; nothing waits for a replica to answer, since
it may be frozen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.server.launch import APP_NAME


@dataclass(frozen=True, slots=True)
class Replica:
    """One process that holds a role."""

    role: str
    id: str
    pid: int
    birth: int
    """When the process began, in the kernel's ticks: numbers of processes come again."""
    state: str

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs. One that ended and was not yet waited for does not."""
        return _birth(self.pid) == self.birth

    def send(self, number: signal.Signals) -> bool:
        """Signal the process; False if it is gone."""
        if not self.is_alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def replicas_now() -> list[Replica]:
    """All that Serve knows of on this machine and that have a process."""
    import ray
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    details: dict[str, Any] = client.get_serve_details() if client is not None else {}
    here = ray.util.get_node_ip_address()
    deployments = details.get("applications", {}).get(APP_NAME, {}).get("deployments", {})
    found = []
    for role, deployment in deployments.items():
        for replica in deployment["replicas"]:
            birth = _birth(replica["pid"]) if replica.get("pid") and replica.get("node_ip") in (here, None) else None
            if birth is not None:
                state = getattr(replica["state"], "value", replica["state"])
                found.append(Replica(role, str(replica["replica_id"]), int(replica["pid"]), birth, str(state)))
    return found


def _birth(pid: int) -> int | None:
    """When the process of a replica began; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
        is_replica = b"ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, IndexError):
        return None
    return int(fields[19]) if is_replica and fields[0] != "Z" else None


async def num_running(roles: Sequence[str], patience_s: float) -> dict[str, list[int] | str]:
    """Of each role the generations in each replica's engine now; words where not all could be asked."""
    from ray import serve

    found: dict[str, list[int] | str] = {}
    for role in roles:
        try:
            handle = serve.get_deployment_handle(role, APP_NAME)
            if not handle.is_initialized:
                handle._init(_run_router_in_separate_loop=True)  # else bound to a loop that ends too soon
            found[role] = await asyncio.wait_for(handle.broadcast("num_running").results_async(), patience_s)
        except Exception as error:
            found[role] = f"{type(error).__name__}: {error}"
    return found
