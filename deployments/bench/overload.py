"""What a server does under more load than it can carry: goodput from one to twenty times its capacity, and refusals.

Promises: the engine is the bottleneck (a scripted one whose tokens a second are the same however many sequences run),
so that capacity is a known number; clients are an open loop in a process of their own, and say how long an answer is
worth anything to them (``timeout`` in the body) unless told not to; an answer counts only within the objective. Each
level begins with an empty server, and is also counted in parts, since limits have to be found. Exit code 1 if less than
`KEPT` of the peak goodput is left at the highest load.

Run: ``python -m deployments.bench.overload --seconds 20``
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
import yaml

from actors.errors import RequestError, ServiceError
from deployments.bench.cancelled_calls import percentiles_ms
from deployments.chaos.leftovers import work_left
from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import running

KEPT = 0.95
NUM_TOKENS = 16
"""Of each answer."""
TOKENS_PER_S = 40.0
"""Of the engine, all sequences together: few, so that two cores can carry twenty times as many requests."""
CAPACITY = TOKENS_PER_S / NUM_TOKENS
"""Answers a second."""
OBJECTIVE_S = 4.0
"""An answer within it counts: ten times what it takes alone."""
PART_S = 5.0
"""Goodput is also told for the requests that left within each so many seconds."""


def settings(changes: Sequence[str] = ()) -> Config:
    """The scripted profile with an engine of fixed throughput; each change is ``section.key=VALUE``, VALUE in YAML.

    RequestError for a change without a value, ConfigError for a setting that does not exist.
    """
    data = load_profile("scripted").model_dump()
    data["gateway"]["port"] = 0
    data["target"]["engine"]["options"] |= {"token_s": 1 / TOKENS_PER_S, "sequence_s": 1 / TOKENS_PER_S}
    for change in changes:
        path, found, value = change.partition("=")
        if not found:
            raise RequestError(f"--set {change!r} is not like gateway.max_body_bytes=1000.", "set")
        *sections, key = path.split(".")
        section = data
        for name in sections:
            section = section[name] if isinstance(section.get(name), dict) else section.setdefault(name, {})
        section[key] = yaml.safe_load(value)
    return validate_config(data, "overload")


def body_of(mode: str, limit_s: float) -> dict[str, Any]:
    """What every client asks, but for its question. `limit_s` 0: it does not say how long it will wait."""
    return {
        "model": "lookahead-scripted",
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
        "speculation": {"mode": mode, "fidelity": "exact"},
        **({"timeout": limit_s} if limit_s else {}),
    }


def offer(url: str, load: float, seconds: float, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fates of all requests at `load` times the capacity."""
    command = [sys.executable, "-m", "deployments.bench.overload_clients", url, str(load * CAPACITY), str(seconds)]
    done = subprocess.run(  # nosec B603 # this package's own module
        [*command, json.dumps(body)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ServiceError(f"The clients failed: {done.stderr.strip()[-300:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def row(load: float, seconds: float, fates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What became of the requests of one level."""
    good = [f for f in fates if f["status"] == 200 and f["latency_s"] <= OBJECTIVE_S]
    parts = Counter(int(f["at_s"] // PART_S) for f in good)
    refused = [f for f in fates if f["status"] >= 400]
    return {
        "load": load,
        "offered_per_s": round(len(fates) / seconds, 2),
        "goodput_per_s": round(len(good) / seconds, 3),
        "goodput_in_parts_per_s": [parts[part] / PART_S for part in range(int(seconds // PART_S))],
        "num_requests": len(fates),
        "num_good": len(good),
        "num_answered_late": sum(f["status"] == 200 for f in fates) - len(good),
        "num_left": sum(f["problem"] == "left" for f in fates),
        "num_broken": sum(f["problem"] not in (None, "left") for f in fates),
        "answered": percentiles_ms([f["latency_s"] for f in fates if f["status"] == 200]),
        "refusals": {
            "by_status": dict(Counter(str(f["status"]) for f in refused)),
            "latency": percentiles_ms([f["latency_s"] for f in refused]),
            "num_in_openais_form": sum(bool(f["is_openai"]) for f in refused),
            "num_with_retry_after": sum(f["retry_after"] is not None for f in refused),
        },
        "clients_late": percentiles_ms([f["late_s"] for f in fates]),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How much of the peak goodput is left at the highest load."""
    peak = max(rows, key=lambda one: one["goodput_per_s"])
    last = max(rows, key=lambda one: one["load"])
    share = last["goodput_per_s"] / peak["goodput_per_s"] if peak["goodput_per_s"] else 0.0
    refused = sum(last["refusals"]["by_status"].values())
    return {
        "capacity_per_s": CAPACITY,
        "objective_s": OBJECTIVE_S,
        "peak_goodput_per_s": peak["goodput_per_s"],
        "peak_at_load": peak["load"],
        "kept_at_highest_load": round(share, 3),
        "all_refusals_in_openais_form": refused == last["refusals"]["num_in_openais_form"],
        "is_kept": share >= KEPT,
    }


def main(
    loads: Annotated[str, typer.Option(help="Times the capacity, with commas between.")] = "0.5,0.8,1,2,5,10,20",
    seconds: Annotated[float, typer.Option(min=1, help="For each load.")] = 20.0,
    mode: Annotated[str, typer.Option(help="target or lookahead.")] = "target",
    limit_s: Annotated[
        float, typer.Option(min=0, help="The 'timeout' in seconds that clients ask with; 0: none.")
    ] = OBJECTIVE_S,
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=VALUE of the configuration.")] = None,
) -> None:
    """Offer each load in turn, from an empty server, and print one JSON document."""
    rows: list[dict[str, Any]] = []
    body = body_of(mode, limit_s)
    with running(settings(changes or ())) as url:
        offer(url, 0.5, 4.0, body)  # warm-up
        for load in (float(text) for text in loads.split(",")):
            asyncio.run(work_left(url))
            rows.append(row(load, seconds, offer(url, load, seconds, body)))
            print(f"{load:g}x: {rows[-1]['goodput_per_s']} good answers a second", file=sys.stderr)
    result = summary(rows)
    print(json.dumps({"mode": mode, "limit_s": limit_s, "changes": changes or [], **result, "rows": rows}, indent=2))
    if not result["is_kept"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
