"""What the network between nodes costs: four hosts with wires between them that are delayed, then lossy.

Promises: head, front (gateway, coordinator), draft and target (target, verifier) are Ray nodes in network namespaces of
their own; every packet between them is delayed; the speed-up of lookahead over the target alone is measured anew for
each condition on the same running cluster, with scripted engines: a target step takes 500 ms, a draft step 100 ms, and
70 % of draft steps are accepted. Namespaces, nodes and files are gone afterwards.

Run as root: ``python -m deployments.bench.network``
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import httpx
import typer

from actors.engines.scripted import Script, ScriptOptions, tokenize
from deployments.bench.nodes import nodes
from deployments.bench.wires import Host, hosts, inside, missing
from deployments.config import Config, load_profile, validate_config

PLACES = {
    "head": {},
    "front": {"gateway": 1, "coordinator": 1},
    "draft": {"draft": 1},
    "target": {"target": 1, "verifier": 1},
}
"""The nodes and their custom resources."""
TARGET_STEP_S = 0.5
DRAFT_STEP_S = 0.1
DEPTH = 6
NUM_STEPS = 16
MODEL = "lookahead-scripted"


@dataclass(frozen=True)
class Condition:
    """How the wires are."""

    delay_ms: float
    loss: float = 0.0


@dataclass(frozen=True)
class Row:
    """What was measured in one condition; times are of one request, in seconds."""

    delay_ms: float
    loss: float
    target_s: float
    lookahead_s: float
    speedup: float
    accept_rate: float
    num_requests: int


USUAL = (Condition(0), Condition(20), Condition(20, 0.01), Condition(100))


def settings(num_steps: int = NUM_STEPS, scale: float = 1.0) -> Config:
    """The scripted profile with each role pinned to its node; steps take `scale` times as long."""
    data = load_profile("scripted").model_dump()
    data["gateway"]["port"] = 8123
    for role in ("gateway", "coordinator", "draft", "target", "verifier"):
        data[role]["placement"]["resources"] = {role: 0.5}
    num_tokens = tokens_of_a_step(num_steps)
    for role, step_s in (("target", TARGET_STEP_S), ("draft", DRAFT_STEP_S)):
        options = {"num_steps": num_steps, "token_s": scale * step_s / num_tokens}
        data[role]["engine"]["options"] |= options
    data["draft"]["engine"]["options"] |= {"agree": 0.5, "paraphrase": 0.2}
    return validate_config(data, "network")


def tokens_of_a_step(num_steps: int) -> float:
    """Tokens that a scripted step has, on average."""
    script = Script(ScriptOptions(num_steps=num_steps), "Sum 1?")
    return statistics.mean(len(tokenize(script.step(index))) for index in range(num_steps))


def ask(url: str, host: Host | None, question: str, mode: str) -> tuple[float, dict[str, Any]]:
    """One request, from `host`: its time, and what speculation did."""
    wishes: dict[str, Any] = {"mode": mode}
    if mode == "lookahead":
        wishes |= {"max_lookahead": DEPTH, "controller": False}
    body = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    began = time.perf_counter()
    if host is None:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body | {"speculation": wishes}, timeout=300.0)
    else:
        with inside(host):
            answer = httpx.post(f"{url}/v1/chat/completions", json=body | {"speculation": wishes}, timeout=300.0)
    took_s = time.perf_counter() - began
    speculation: dict[str, Any] = answer.raise_for_status().json()["speculation"]
    return took_s, speculation


def measure(url: str, host: Host | None, condition: Condition, num_requests: int) -> Row:
    """The same questions with the target alone and with lookahead, side by side."""
    questions = [f"Sum {number}?" for number in range(num_requests)]
    with ThreadPoolExecutor(num_requests) as pool:
        alone = list(pool.map(lambda question: ask(url, host, question, "target"), questions))
        ahead = list(pool.map(lambda question: ask(url, host, question, "lookahead"), questions))
    judged = sum(each["num_accepted_steps"] + each["num_recovered_steps"] for _, each in ahead)
    return Row(
        delay_ms=condition.delay_ms,
        loss=condition.loss,
        target_s=round(statistics.mean(s for s, _ in alone), 3),
        lookahead_s=round(statistics.mean(s for s, _ in ahead), 3),
        speedup=round(statistics.mean(a / b for (a, _), (b, _) in zip(alone, ahead, strict=True)), 3),
        accept_rate=round(sum(each["num_accepted_steps"] for _, each in ahead) / max(1, judged), 3),
        num_requests=num_requests,
    )


def run(conditions: Sequence[Condition], num_requests: int, config: Config) -> list[Row]:
    """A row for each condition. Raises ServiceError if the cluster does not come up."""
    rows = []
    with hosts(list(PLACES)) as (made, wire):
        by_name = dict(zip(PLACES, made, strict=True))
        with nodes(by_name) as cluster:
            for name, resources in PLACES.items():
                cluster.add(name, resources)
            with cluster.serving(config) as url:
                ask(url, by_name["head"], "Warm?", "lookahead")
                for condition in conditions:
                    wire.delay_s, wire.loss = condition.delay_ms / 1000, condition.loss
                    rows.append(measure(url, by_name["head"], condition, num_requests))
                wire.delay_s = wire.loss = 0.0
    return rows


def main(
    num_requests: Annotated[int, typer.Option(help="Requests of each mode and condition, side by side.")] = 4,
) -> None:
    """Measure what delay and loss between nodes cost. Example: python -m deployments.bench.network"""
    if (why := missing()) is not None:
        typer.echo(f"The hosts of this benchmark cannot be made here: {why}.", err=True)
        raise typer.Exit(1)
    rows = run(USUAL, num_requests, settings())
    for row in rows:
        typer.echo(json.dumps(asdict(row)))
    kept = rows[1].speedup / rows[0].speedup
    typer.echo(f"Of the speed-up, {kept:.1%} is left at {rows[1].delay_ms:g} ms of delay between nodes, each way.")


if __name__ == "__main__":
    typer.run(main)
