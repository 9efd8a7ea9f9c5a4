"""Clients that ask at a set rate whoever else is answered: a process of its own, apart from the cluster's driver.

Promises: requests leave at the times of a Poisson process by a seed; each is asked once; a client that waited
`PATIENCE_S` leaves. One JSON line for each request goes to stdout.

Run by `deployments.bench.overload`; by hand: ``python -m deployments.bench.overload_clients URL RATE SECONDS BODY``
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

import httpx

PATIENCE_S = 15.0
ERROR_KEYS = {"message", "type", "param", "code"}


def departures(seed: int, rate: float, seconds: float) -> list[float]:
    """Seconds after the start at which requests leave."""
    chance, at, found = random.Random(seed), 0.0, list[float]()
    while (at := at + chance.expovariate(rate)) < seconds:
        found.append(at)
    return found


def is_openai_error(body: bytes) -> bool:
    """Whether an error has OpenAI's form."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(error, dict) and set(error) == ERROR_KEYS and bool(error["message"])


async def ask(http: httpx.AsyncClient, url: str, body: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One request's fate. Status 0: the connection broke, or the client left."""
    started = time.perf_counter()
    message = {"role": "user", "content": f"Sum {number}?"}
    line: dict[str, Any] = {"status": 0, "retry_after": None, "is_openai": None, "problem": None}
    try:
        async with asyncio.timeout(PATIENCE_S):
            response = await http.post(f"{url}/v1/chat/completions", json={**body, "messages": [message]})
        line["status"] = response.status_code
        line["retry_after"] = response.headers.get("retry-after")
        if response.is_error:
            line["is_openai"] = is_openai_error(response.content)
    except TimeoutError:
        line["problem"] = "left"
    except httpx.HTTPError as error:
        line["problem"] = type(error).__name__
    return line | {"latency_s": time.perf_counter() - started}


async def run(url: str, rate: float, seconds: float, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All requests of one level."""
    zero = time.perf_counter()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=None, limits=limits, trust_env=False) as http:  # nosec B113

        async def one(number: int, at_s: float) -> dict[str, Any]:
            await asyncio.sleep(zero + at_s - time.perf_counter())
            late_s = time.perf_counter() - zero - at_s
            return await ask(http, url, body, number) | {"at_s": at_s, "late_s": late_s}

        times = departures(int(rate * 1000), rate, seconds)
        return await asyncio.gather(*(one(number, at) for number, at in enumerate(times)))


if __name__ == "__main__":
    for line in asyncio.run(run(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), json.loads(sys.argv[4]))):
        print(json.dumps(line))
