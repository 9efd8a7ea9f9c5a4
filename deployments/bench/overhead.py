"""What the coordinator costs: CPU and memory, and the time a step takes beyond its engine.

Promises: measured on scripted engines over real Ray processes, so that nothing but the road itself is in the figures;
CPU and memory are the coordinator process's own, from the operating system; the added time is the difference between
what the coordinator saw of a target step and what the engine itself took, step by step.

Run: ``python -m deployments.bench.overhead``; with ``--crowd 500``: so many requests at once, on slow engines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from typing import Any

import httpx
import ray

from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import running

NUM_WARM_UP = 2
LEVELS = ((1, 4), (8, 24), (32, 64))
"""Requests at once, and requests in all."""
CROWD_TOKEN_S = 0.16
"""Seconds a token of the target for a crowd: 500 users then ask for some 200 steps a second."""
CROWD_ARRIVES_S = 10.0
"""Its requests come evenly in this time. All at once they would stay in step, and wait for each other at every one."""
CROWD_BURST = 12
"""Tokens of a crowd's engines that come out together: as on a GPU, engines cost this machine's cores little then."""
ROLES = ("gateway", "coordinator", "target", "draft", "verifier")
MAX_TOKENS = 1024
"""More than any answer has. Without a limit a request counts as one that fills the context, which slow engines do not
do within its time limit, and is refused."""
SETTLE_S = 3.0
"""How long a crowd runs before its memory is looked at."""


def settings(token_s: float = 0.02, num_at_once: int = 64, burst: int = 1) -> Config:
    """The scripted profile with one replica a role, longer answers and a free port; nobody waits at the gateway."""
    data = load_profile("scripted").model_dump()
    data["gateway"]["port"] = 0
    data["gateway"]["request_timeout_s"] = 86_400.0  # admission refuses whom it does not expect to end in time
    data["gateway"]["admission"]["max_concurrent"] = num_at_once
    data["gateway"]["placement"]["max_ongoing_requests"] = num_at_once + 512
    data["target"]["engine"]["options"] |= {"num_steps": 16, "token_s": token_s, "burst": burst}
    data["draft"]["engine"]["options"] |= {"num_steps": 16, "token_s": token_s / 5, "burst": burst}
    for role in ("target", "draft", "verifier"):
        data[role]["placement"]["max_ongoing_requests"] = 10_000
    return validate_config(data, "overhead")


def in_replica(role: str, look: Any) -> Any:
    """What `look` returns in the process of the role's replica."""
    names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
    name = next(n for n in names if n.startswith(f"SERVE_REPLICA::lookahead#{role}"))
    return ray.get(ray.get_actor(name, namespace="serve").__ray_call__.remote(lambda _: look()))


def cpu_of_roles() -> dict[str, float]:
    """CPU time of each role's process so far."""
    return {role: in_replica(role, cpu_s) for role in ROLES}


def cpu_s() -> float:
    """CPU time of this process so far, user and system."""
    times = os.times()
    return times.user + times.system


def memory_bytes() -> int:
    """Resident memory of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def ask(http: httpx.AsyncClient, number: int) -> str:
    """One request; its id."""
    request_id = f"overhead-{number}"
    body = {
        "model": "lookahead-scripted",
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "messages": [{"role": "user", "content": f"Sum {number}?"}],
    }
    answer = await http.post("/v1/chat/completions", json=body, headers={"x-request-id": request_id})
    answer.raise_for_status()
    return request_id


def added_ms(trace: dict[str, Any]) -> list[float]:
    """Milliseconds that each whole target step took beyond its engine."""
    spans = [s for s in trace["spans"] if s["kind"] == "target" and "engine_s" in s["detail"]]
    return [(s["end_s"] - s["start_s"] - s["detail"]["engine_s"]) * 1000 for s in spans]


def steady(traces: list[dict[str, Any]]) -> float | None:
    """Steps committed a second from when the last request began until the first one ended; None if that is not so."""
    begin = max(trace["started_at"] for trace in traces)
    end = min(trace["started_at"] + trace["duration_s"] for trace in traces)
    if end <= begin:
        return None
    times = (trace["started_at"] + commit["at_s"] for trace in traces for commit in trace["commits"])
    return float(sum(begin <= at < end for at in times) / (end - begin))


async def load(url: str, first: int, concurrency: int, num_requests: int, arrive_s: float) -> dict[str, Any]:
    """A row: `num_requests` requests from number `first` on, `concurrency` at once, which come within `arrive_s`."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        in_turn = asyncio.Semaphore(concurrency)

        async def one(number: int) -> str:
            await asyncio.sleep(arrive_s * (number - first) / num_requests)
            async with in_turn:
                return await ask(http, number)

        empty, before, start = in_replica("coordinator", memory_bytes), cpu_of_roles(), time.perf_counter()
        asked = asyncio.gather(*(one(number) for number in range(first, first + num_requests)))
        await asyncio.wait((asked,), timeout=arrive_s + SETTLE_S)
        full = await asyncio.to_thread(in_replica, "coordinator", memory_bytes)
        request_ids = await asked
        wall, after = time.perf_counter() - start, cpu_of_roles()
        traces = [(await http.get(f"/v1/traces/{request_id}")).raise_for_status().json() for request_id in request_ids]
    cpu = {role: after[role] - before[role] for role in ROLES}
    steps = sum(trace["summary"]["num_steps"] for trace in traces)
    added = sorted(ms for trace in traces for ms in added_ms(trace))
    return {
        "concurrency": concurrency,
        "num_requests": num_requests,
        "committed_steps": steps,
        "steps_per_s": steps / wall,
        "steps_per_s_with_all_in_flight": steady(traces),
        "cpu_ms_per_committed_step": 1000 * cpu["coordinator"] / steps,
        "cpu_share_of_a_core": {role: round(seconds / wall, 3) for role, seconds in cpu.items()},
        "added_ms_p50": statistics.median(added),
        "added_ms_p99": added[int(0.99 * (len(added) - 1))],
        "memory_kb_per_request": (full - empty) / 1024 / min(concurrency, num_requests),
    }


async def measure(url: str, levels: tuple[tuple[int, int], ...], arrive_s: float) -> list[dict[str, Any]]:
    """A row for each level of load, after a warm-up; the requests of a level come within `arrive_s`."""
    rows, number = [], 0
    for concurrency, num_requests in ((1, NUM_WARM_UP), *levels):
        rows.append(await load(url, number, concurrency, num_requests, arrive_s))
        number += num_requests
    return rows[1:]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="What the coordinator costs, on scripted engines.")
    parser.add_argument("--crowd", type=int, help="So many requests at once on slow engines, and no other level.")
    crowd = parser.parse_args().crowd
    with running(settings() if crowd is None else settings(CROWD_TOKEN_S, crowd, CROWD_BURST)) as url:
        levels, arrive_s = (LEVELS, 0.0) if crowd is None else (((crowd, crowd),), CROWD_ARRIVES_S)
        rows = asyncio.run(measure(url, levels, arrive_s))
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
