"""Thousands of requests whose clients leave: whether memory, open files and tasks of the server grow.

Promises: streams and whole answers, with speculation and without, by turns; each is left at a random moment, also
before its first word; how many had reached a coordinator is told; the first part is warm-up, since caches fill; a
process that is replaced on the way is an error.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from actors.errors import ServiceError
from deployments.bench.trend import Trend, trend
from deployments.chaos.leftovers import work_left
from deployments.chaos.replicas import replicas_now

NUM_SAMPLES = 40
WARM_UP = 0.4
"""Share of the requests before which nothing is judged: 64 traces, 4096 verdicts and allocators' pools fill first."""
LEAVE_S = (0.0, 1.0)
"""When a client leaves: some before the server has begun, most in the middle of their text."""
MAX_KIB = 1000.0
"""Growth for a thousand requests that counts as a leak, if the interval excludes zero: a kilobyte each."""
MAX_LEFT = 1.0
"""The same of files and tasks."""
MAX_BLOCKS = 1000.0
"""The same of memory blocks of Python's objects: one for each request. They tell a leak from an allocator's pools."""
NUM_SHOWN = 10
"""Samples of memory that are told, evenly spread."""
MODES = ("target", "lookahead")


@dataclass(frozen=True, slots=True)
class Sample:
    """One process after so many requests. Memory is resident, in KiB."""

    num_requests: int
    rss_kib: float
    num_files: int
    num_tasks: int
    num_blocks: int = 0
    """That Python's objects have in this process, garbage collected before."""


def count_objects() -> tuple[int, int]:
    """Tasks and blocks of this process."""
    gc.collect()
    return count_tasks(), sys.getallocatedblocks()


def count_tasks() -> int:
    """Tasks of asyncio that are not done, over all event loops of this process."""
    names = ("_all_tasks", "_scheduled_tasks")  # until 3.11, and from 3.12 on
    known = next(getattr(asyncio.tasks, name) for name in names if hasattr(asyncio.tasks, name))
    return sum(not task.done() for task in list(known))


class Watched:
    """The server's processes, by name."""

    def __init__(self) -> None:
        import ray

        self._pids = {f"{r.role} {r.id[:4]}": r.pid for r in replicas_now()}
        actors = {entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)}
        self._actors = {}
        for name in sorted(actors):
            actor = ray.get_actor(name, namespace="serve")
            pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
            label = next((known for known, its in self._pids.items() if its == pid), None)
            if label is None and "PROXY" in name.upper():
                self._pids[label := "proxy"] = pid
            if label is not None:
                self._actors[label] = actor

    def sample(self, num_requests: int) -> dict[str, Sample]:
        """Of each process now. ServiceError if one is gone."""
        import ray

        counts = ray.get([a.__ray_call__.remote(lambda _: count_objects()) for a in self._actors.values()], timeout=60)
        by_name = dict(zip(self._actors, counts, strict=True))
        found = {}
        for name, pid in self._pids.items():
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
                num_files = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError as error:
                raise ServiceError(f"The process of {name} ended during the soak.") from error
            rss_kib = pages * os.sysconf("SC_PAGE_SIZE") / 1024
            found[name] = Sample(num_requests, rss_kib, num_files, *by_name.get(name, (0, 0)))
        return found


async def run_soak(url: str, num_requests: int, at_once: int) -> dict[str, Any]:
    """Leave `num_requests` requests, `at_once` at a time; the slopes of every process for a thousand requests."""
    watched = await asyncio.to_thread(Watched)
    samples: dict[str, list[Sample]] = {}
    every = max(1, num_requests // NUM_SAMPLES)
    before = await num_ended(url)
    started, done, num_whole, chance = time.monotonic(), 0, 0, random.Random(0)
    while done < num_requests:
        batch = min(every, num_requests - done)
        num_whole += await _leave(url, batch, at_once, chance)
        done += batch
        await asyncio.sleep(0.3)  # what was cancelled last must have time to end before it is counted
        for name, sample in (await asyncio.to_thread(watched.sample, done)).items():
            samples.setdefault(name, []).append(sample)
    wall_s = time.monotonic() - started
    return {
        "num_requests": num_requests,
        "num_begun": round(await num_ended(url) - before),
        "num_whole": num_whole,
        "wall_s": round(wall_s, 1),
        "work_left": await work_left(url),
        "processes": {name: describe(found) for name, found in samples.items()},
    }


async def num_ended(url: str) -> float:
    """Requests that coordinators had and that have ended, however."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        lines = (await http.get(f"{url}/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("lookahead_request_seconds_count"))


async def _leave(url: str, num_requests: int, at_once: int, chance: random.Random) -> int:
    """How many were answered before their client left."""
    numbers = iter(range(num_requests))
    whole = 0

    async def user() -> None:
        nonlocal whole
        for number in numbers:
            body = {
                "model": "lookahead-scripted",
                "stream": bool(number % 2),
                "messages": [{"role": "user", "content": f"Leave {uuid4().hex}"}],
                "speculation": {"mode": MODES[number // 2 % 2]},
            }
            try:
                async with (
                    asyncio.timeout(chance.uniform(*LEAVE_S)),
                    httpx.AsyncClient(trust_env=False, verify=False) as http,  # nosec B501 # loopback, no TLS
                ):
                    await http.post(f"{url}/v1/chat/completions", json=body)
                whole += 1
            except TimeoutError:
                pass

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(user())
    return whole


def describe(samples: list[Sample]) -> dict[str, Any]:
    """First and last values after the warm-up, and slopes for a thousand requests with their 95 % intervals."""
    last = samples[-1].num_requests
    counted = [s for s in samples if s.num_requests > WARM_UP * last]
    xs = [s.num_requests / 1000 for s in counted]
    limits = {"rss_kib": MAX_KIB, "num_files": MAX_LEFT, "num_tasks": MAX_LEFT, "num_blocks": MAX_BLOCKS}
    slopes = {name: trend(xs, [float(getattr(s, name)) for s in counted]) for name in limits}
    shown = samples[len(samples) - 1 :: -max(1, len(samples) // NUM_SHOWN)][::-1]
    grows = [name for name, slope in slopes.items() if not slope.is_flat and slope.slope > limits[name]]
    return {
        "rss_mib": [round(s.rss_kib / 1024, 1) for s in (samples[0], counted[0], counted[-1])],
        "rss_mib_at": {s.num_requests: round(s.rss_kib / 1024, 1) for s in shown},
        "num_files": [s.num_files for s in (samples[0], counted[0], counted[-1])],
        "num_tasks": [s.num_tasks for s in (samples[0], counted[0], counted[-1])],
        "num_blocks": [s.num_blocks for s in (samples[0], counted[0], counted[-1])],
        "per_1000": {name: _interval(slope) for name, slope in slopes.items()},
        "grows": grows,
    }


def _interval(slope: Trend) -> list[float]:
    return [round(value, 2) for value in (slope.slope, slope.low, slope.high)]
