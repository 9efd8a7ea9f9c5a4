"""What the coordinator costs: CPU for each committed step, and the time a step takes beyond its engine.

Promises: measured on scripted engines over real Ray processes, so that nothing but the road itself is in the figures;
CPU is the coordinator process's own, from the operating system; the added time is the difference between what the
coordinator saw of a target step and what the engine itself took, step by step.

Run: ``python -m deployments.bench.overhead``
"""

from __future__ import annotations

import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import ray

from deployments.cli.serve import running
from deployments.config import Config, load_profile, validate_config

NUM_WARM_UP = 2
LEVELS = ((1, 4), (8, 24), (32, 64))
"""Requests at once, and requests in all."""


def settings() -> Config:
    """The scripted profile with one replica a role, longer answers and a free port."""
    data = load_profile("scripted").model_dump()
    data["gateway"]["port"] = 0
    data["target"]["engine"]["options"] |= {"num_steps": 16, "token_s": 0.02}
    data["draft"]["engine"]["options"] |= {"num_steps": 16, "token_s": 0.004}
    return validate_config(data, "overhead")


def coordinator_cpu_s() -> float:
    """CPU time of the coordinator process so far, user and system."""
    names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
    name = next(n for n in names if n.startswith("SERVE_REPLICA::lookahead#coordinator"))
    times: os.times_result = ray.get(ray.get_actor(name, namespace="serve").__ray_call__.remote(lambda _: os.times()))
    return times.user + times.system


def ask(url: str, number: int) -> dict[str, Any]:
    """One request; its trace."""
    request_id = f"overhead-{number}"
    body = {
        "model": "lookahead-scripted",
        "temperature": 0,
        "messages": [{"role": "user", "content": f"Sum {number}?"}],
    }
    with httpx.Client(timeout=120) as http:
        http.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": request_id}).raise_for_status()
        trace: dict[str, Any] = http.get(f"{url}/v1/traces/{request_id}").raise_for_status().json()
    return trace


def added_ms(trace: dict[str, Any]) -> list[float]:
    """Milliseconds that each whole target step took beyond its engine."""
    spans = [s for s in trace["spans"] if s["kind"] == "target" and "engine_s" in s["detail"]]
    return [(s["end_s"] - s["start_s"] - s["detail"]["engine_s"]) * 1000 for s in spans]


def measure() -> list[dict[str, float]]:
    """A row for each level of load."""
    rows = []
    with running(settings()) as url:
        number = 0
        for concurrency, num_requests in ((1, NUM_WARM_UP), *LEVELS):
            cpu, start = coordinator_cpu_s(), time.perf_counter()
            with ThreadPoolExecutor(concurrency) as pool:
                traces = list(pool.map(lambda n: ask(url, n), range(number, number + num_requests)))
            number += num_requests
            wall, cpu = time.perf_counter() - start, coordinator_cpu_s() - cpu
            steps = sum(trace["summary"]["num_steps"] for trace in traces)
            added = sorted(ms for trace in traces for ms in added_ms(trace))
            rows.append(
                {
                    "concurrency": concurrency,
                    "num_requests": num_requests,
                    "committed_steps": steps,
                    "steps_per_s": steps / wall,
                    "cpu_ms_per_committed_step": 1000 * cpu / steps,
                    "added_ms_p50": statistics.median(added),
                    "added_ms_p99": added[int(0.99 * (len(added) - 1))],
                }
            )
    return rows[1:]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
