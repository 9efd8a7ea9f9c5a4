"""Throughput at 1, 2, 4 and 8 target replicas, with as many more users.

Promises: real Ray nodes and processes on this machine, with fake GPUs, one a target and a quarter for the draft;
scripted engines whose tokens take longer the more sequences run, so that a replica has a capacity; committed tokens are
counted by the deployment's own metric over a window in which all users ask one request after another.

Run: ``python -m deployments.bench.scaling``
"""

from __future__ import annotations

import json
import threading
import time
from typing import Annotated, Any

import httpx
import typer

from deployments.bench.nodes import nodes
from deployments.config import Config, load_profile, validate_config

LEVELS = (1, 2, 4, 8)
USERS_A_REPLICA = 4
TOKEN_S = 0.025
"""A target step of 20 tokens takes 500 ms alone."""
SEQUENCE_S = 0.0025
DRAFT_TOKEN_S = 0.005
WARM_UP_S = 8.0
WINDOW_S = 20.0
PORT = 8124
PLACES: dict[str, tuple[dict[str, float], int]] = {
    "head": ({}, 0),
    "front": ({"gateway": 1, "coordinator": 1}, 0),
    "gpus": ({"target": 8, "draft": 1, "verifier": 1}, 9),
}
"""The nodes: custom resources and fake GPUs."""


def settings(num_targets: int) -> Config:
    """The scripted profile with so many target replicas."""
    data = load_profile("scripted").model_dump()
    data["gateway"]["port"] = PORT
    for role in ("gateway", "coordinator", "draft", "target", "verifier"):
        data[role]["placement"] |= {"resources": {role: 1}, "num_cpus": 0.05}
    data["target"]["placement"] |= {"num_replicas": num_targets, "num_gpus": 1}
    data["draft"]["placement"] |= {"num_gpus": 0.25}
    data["target"]["engine"]["options"] |= {"num_steps": 12, "token_s": TOKEN_S, "sequence_s": SEQUENCE_S}
    data["draft"]["engine"]["options"] |= {"num_steps": 12, "token_s": DRAFT_TOKEN_S}
    return validate_config(data, "scaling")


class Users:
    """People who ask one request after another, in threads of their own, until the block is left."""

    def __init__(self, url: str, number: int, mode: str) -> None:
        self._url = url
        self._mode = mode
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(number)]
        self.failures: list[str] = []

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, user: int) -> None:
        number = 0
        with httpx.Client(timeout=120.0) as http:
            while not self._over.is_set():
                number += 1
                question = [{"role": "user", "content": f"Sum {user} and {number}?"}]
                body = {"model": "lookahead-scripted", "messages": question, "speculation": {"mode": self._mode}}
                answer = http.post(f"{self._url}/v1/chat/completions", json=body)
                if answer.status_code != 200:
                    self.failures.append(answer.text)
                    return


def num_tokens(url: str) -> float:
    """Tokens committed since the deployment started."""
    lines = httpx.get(f"{url}/metrics", timeout=30.0).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("lookahead_output_tokens_total"))


def measure(url: str, num_targets: int, mode: str) -> dict[str, Any]:
    """Throughput of the running deployment. Raises RuntimeError if a request fails."""
    with Users(url, USERS_A_REPLICA * num_targets, mode) as users:
        time.sleep(WARM_UP_S)
        before, began = num_tokens(url), time.perf_counter()
        time.sleep(WINDOW_S)
        made, took_s = num_tokens(url) - before, time.perf_counter() - began
    if users.failures:
        raise RuntimeError(users.failures[0])
    num_users = USERS_A_REPLICA * num_targets
    return {"mode": mode, "targets": num_targets, "users": num_users, "tokens_per_s": round(made / took_s, 1)}


def main(mode: Annotated[str, typer.Option(help="The requests' mode.")] = "lookahead") -> None:
    """Measure throughput by target replicas. Example: python -m deployments.bench.scaling"""
    alone = 0.0
    with nodes() as cluster:
        for name, (resources, num_gpus) in PLACES.items():
            cluster.add(name, resources, num_gpus)
        for num_targets in LEVELS:
            row = measure(cluster.deploy(settings(num_targets)), num_targets, mode)
            alone = alone or row["tokens_per_s"]
            row["of_linear"] = round(row["tokens_per_s"] / (alone * num_targets), 3)
            typer.echo(json.dumps(row))


if __name__ == "__main__":
    typer.run(main)
