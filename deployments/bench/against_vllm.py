"""Target-only through this server against `vllm serve`: the same weights, flags, core and prompts, in one run.

Promises: both servers are up all the time and only one is asked at a time, in alternating order, so that a drifting
machine hits both alike; each round is a pair; the ratio is of tokens per second, ours over vLLM's.

Run: ``python -m deployments.bench.against_vllm --profile local``
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import Annotated, Any

import httpx
import typer

from actors.errors import RequestError, ServiceError
from deployments.bench import vllm_server
from deployments.bench.equal_hardware import needs_gpus, same
from deployments.bench.figures import bootstrap_ci
from deployments.bench.problems import synthetic
from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import running


def main(
    profile: Annotated[str, typer.Option(help="Whose target is measured.")] = "local",
    concurrency: Annotated[str, typer.Option(help="Requests at once, several levels with commas between.")] = "1,4",
    rounds: Annotated[int, typer.Option(min=3, help="Pairs of measurements a level.")] = 6,
    max_tokens: Annotated[int, typer.Option(min=8, help="Tokens a request.")] = 64,
) -> None:
    """Compare, and print one JSON document."""
    config = target_only(load_profile(profile))
    if needs_gpus(config):
        raise RequestError(
            "Both servers have to run at once, and GPUs hold one: take `lookahead bench` there.", "profile"
        )
    levels = [int(level) for level in concurrency.split(",")]
    with vllm_server.running(same(config)) as theirs, running(config) as ours:
        rows = asyncio.run(measure(config, {"ours": ours, "vllm": theirs}, levels, rounds, max_tokens))
    print(json.dumps(rows, indent=2))


def target_only(config: Config) -> Config:
    """`config` without a draft and without our own token speculation, on a free port."""
    data = config.model_dump() | {"draft": None}
    data["target"]["engine"]["options"].pop("speculative_config", None)
    data["speculation"] |= {"mode": "target", "fidelity": "exact", "fidelities": {"exact": "exact"}}
    data["verifier"]["verifiers"] = {"exact": [{"kind": "exact"}]}
    data["gateway"]["port"] = 0
    return validate_config(data, "comparison")


async def measure(
    config: Config, urls: dict[str, str], levels: list[int], rounds: int, max_tokens: int
) -> list[dict[str, Any]]:
    """A row for each level: tokens per second of both, and the paired ratio with its interval."""
    rows = []
    async with httpx.AsyncClient(timeout=600) as http:
        for name in urls:
            await _burst(http, config, urls[name], 1, -1, 8)
        for level in levels:
            rates: dict[str, list[float]] = {name: [] for name in urls}
            for number in range(rounds):
                for name in sorted(urls, reverse=bool(number % 2)):
                    rates[name].append(await _burst(http, config, urls[name], level, number, max_tokens))
            ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["vllm"], strict=True)]
            medians = {f"{name}_tokens_per_s": statistics.median(values) for name, values in rates.items()}
            interval = bootstrap_ci(ratios, seed=0)
            rows.append({"concurrency": level, **medians, "ratio": statistics.median(ratios), "ratio_ci95": interval})
    return rows


async def _burst(
    http: httpx.AsyncClient, config: Config, url: str, concurrency: int, number: int, max_tokens: int
) -> float:
    """Tokens per second over `concurrency` streams at once. Both servers get the same problems in a round. Raises
    HTTPStatusError or ServiceError where one of them is refused or has no end."""
    problems = synthetic(concurrency, seed=1000 + number)

    async def one(question: str) -> int:
        body = {
            "model": config.served_model_name,
            "messages": [{"role": "user", "content": question + " Explain every step at length."}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        tokens = None
        async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[len("data: ") :])
                    tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        if tokens is None:
            raise ServiceError(f"{url} did not say how many tokens it wrote: the answer is not whole.")
        return int(tokens)

    start = time.perf_counter()
    counts = await asyncio.gather(*(one(problem.question) for problem in problems))
    return sum(counts) / (time.perf_counter() - start)


if __name__ == "__main__":
    typer.run(main)
