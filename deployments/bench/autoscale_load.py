"""Requests at a rate that rises and falls, from a process of its own: what each of them took, and whether it was whole.

Promises: open loop, so that a slow server does not lower the load; a reply counts as whole only with its `[DONE]`, an
end that the model gave and no error; every request that was sent has a line.

Run: ``python -m deployments.bench.autoscale_load URL MODEL 0.1:60,1.0:120,0.1:90 > requests.jsonl``
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

import httpx

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Phase:
    """So many requests a second for so long."""

    rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Sent:
    """A request; times are seconds since the epoch."""

    start_s: float
    end_s: float
    first_s: float | None
    problem: str | None = None


def phases_of(text: str) -> list[Phase]:
    """``RATE:SECONDS,RATE:SECONDS``."""
    return [Phase(*map(float, part.split(":"))) for part in text.split(",")]


def arrivals(phases: list[Phase]) -> list[float]:
    """When requests come, in seconds from the start: evenly within a phase."""
    times: list[float] = []
    begin = 0.0
    for phase in phases:
        times += [begin + number / phase.rate for number in range(round(phase.rate * phase.seconds))]
        begin += phase.seconds
    return times


async def ask(http: httpx.AsyncClient, url: str, model: str, number: int) -> Sent:
    """One request, streamed to its end."""
    body = {
        "model": model,
        "temperature": 0,
        "stream": True,
        "messages": [{"role": "user", "content": f"Sum number {number}?"}],
    }
    start, first, ended, problem = time.time(), None, False, None
    try:
        async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                problem = f"{reply.status_code}: {(await reply.aread())[:200]!r}"
            last = ""
            async for line in reply.aiter_lines():
                if line.startswith("data: "):
                    last = line[6:]
                    first = first or time.time()
                    ended |= '"finish_reason":"stop"' in last.replace(" ", "")
                    if '"error"' in last:
                        problem = last[:200]
            if problem is None and not (ended and last == "[DONE]"):
                problem = "the stream broke off"
    except httpx.HTTPError as error:
        problem = repr(error)
    return Sent(start, time.time(), first, problem)


async def drive(url: str, model: str, phases: list[Phase]) -> None:
    """Send them all; a line for each as it ends."""
    begin = time.monotonic()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as http, asyncio.TaskGroup() as running:
        for number, at in enumerate(arrivals(phases)):
            await asyncio.sleep(max(begin + at - time.monotonic(), 0.0))
            running.create_task(_told(http, url, model, number))


async def _told(http: httpx.AsyncClient, url: str, model: str, number: int) -> None:
    print(json.dumps(asdict(await ask(http, url, model, number))), flush=True)


if __name__ == "__main__":
    asyncio.run(drive(sys.argv[1], sys.argv[2], phases_of(sys.argv[3])))
