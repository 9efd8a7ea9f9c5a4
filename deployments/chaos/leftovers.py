"""What is left in a cluster where nothing should be: generations, requests, actors, placement groups, tasks, processes.

Promises: reads only; what cannot be asked counts as left, with the reason.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any

import httpx

from deployments.chaos.replicas import Replica, num_running, replicas_now
from deployments.server.launch import APP_NAME

SETTLE_S = 10.0
"""After the last stream: calls to replicas that were frozen need a moment to end."""
GONE_S = 15.0
IGNORED = re.compile("memory|^node:")


async def wait_until_ready(url: str, patience_s: float) -> float | None:
    """Seconds until every role answers; None if it never does."""
    started = time.monotonic()
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        while time.monotonic() - started < patience_s:
            try:
                if (await http.get(f"{url}/ready")).status_code == 200:
                    return time.monotonic() - started
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.5)
    return None


async def work_left(url: str) -> dict[str, Any]:
    """Generations in engines and requests in flight, as soon as there are none, or after `SETTLE_S`."""
    started = time.monotonic()
    while True:
        running = await num_running(("draft", "target"), 5.0)
        in_flight = await _requests_in_flight(url)
        counts = [count for found in running.values() if isinstance(found, list) for count in found]
        is_known = all(isinstance(found, list) for found in running.values())
        left = (sum(counts) + in_flight) if is_known and in_flight is not None else None
        if left == 0 or time.monotonic() - started > SETTLE_S:
            waited_s = round(time.monotonic() - started, 2)
            return {"left": left, "num_running": running, "requests_in_flight": in_flight, "waited_s": waited_s}
        await asyncio.sleep(0.2)


async def _requests_in_flight(url: str) -> float | None:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            lines = (await http.get(f"{url}/metrics")).text.splitlines()
    except httpx.HTTPError:
        return None
    name = "lookahead_requests_in_flight"
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def after_deletion() -> dict[str, Any]:
    """Delete the application; what Ray still has of it then."""
    import ray
    from ray import serve

    try:
        serve.delete(APP_NAME)
    except TimeoutError as error:
        return {"deletion": str(error) or "it does not end"}
    deadline = time.monotonic() + GONE_S
    while True:
        names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
        groups = [g for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
        held = _held()
        left = {
            "actors": [name for name in names if name.startswith(f"SERVE_REPLICA::{APP_NAME}#")],
            "placement_groups": [group["placement_group_id"] for group in groups],
            "replicas_of_serve": [replica.id for replica in replicas_now()],
            "resources_held_by_tasks_and_actors": held,
        }
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def _held() -> dict[str, float]:
    """CPUs and custom resources that are not free. Memory is the object store's, a bit of the node the controller's."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    held = {name: round(total[name] - free.get(name, 0.0), 4) for name in total if not IGNORED.search(name)}
    return {name: amount for name, amount in held.items() if amount > 0}


def processes_left(replicas: Iterable[Replica]) -> list[int]:
    """The processes of `replicas` that still run after a while."""
    deadline = time.monotonic() + GONE_S
    while True:
        alive = sorted({replica.pid for replica in replicas if replica.is_alive})
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.2)
