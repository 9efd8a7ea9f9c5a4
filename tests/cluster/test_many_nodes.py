"""Five Ray nodes on this machine: roles where their resources are, fake GPUs, and a node that dies in mid-stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from actors.engines.scripted import Script, ScriptOptions
from deployments.bench.nodes import Nodes, nodes
from deployments.config import Config, load_profile, validate_config

PLACES: dict[str, tuple[dict[str, float], int]] = {
    "head": ({}, 0),
    "front-a": ({"gateway": 1, "coordinator": 1}, 0),
    "front-b": ({"gateway": 1, "coordinator": 1}, 0),
    "model-a": ({"target": 1}, 1),
    "model-b": ({"draft": 1, "target": 1, "verifier": 1}, 2),
}
"""The nodes: custom resources and fake GPUs."""
LOOK = """
import json, os, sys, ray
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False, logging_level="ERROR")
nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
look = lambda _: (ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
found = []
for entry in ray.util.list_named_actors(all_namespaces=True):
    if entry["name"].startswith("SERVE_REPLICA::lookahead#"):
        node, gpus = ray.get(ray.get_actor(entry["name"], namespace="serve").__ray_call__.remote(look))
        found.append([entry["name"].split("#")[1], node, nodes[node], gpus])
print(json.dumps(found))
"""
"""Where every replica is, what its node has, and the GPUs that it sees."""
NUM_STEPS = 30


def settings() -> Config:
    data = load_profile("scripted").model_dump()
    data["gateway"]["port"] = 8125
    for role, number in (("gateway", 2), ("coordinator", 2), ("target", 2), ("draft", 1), ("verifier", 1)):
        data[role]["placement"] |= {"resources": {role: 1}, "num_cpus": 0.05, "num_replicas": number}
    data["target"]["placement"]["num_gpus"] = 1
    data["draft"]["placement"]["num_gpus"] = 0.5
    for role in ("target", "draft"):
        data[role]["engine"]["options"]["num_steps"] = NUM_STEPS
    return validate_config(data, "test")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Nodes, str]]:
    with nodes() as cluster:
        for name, (resources, num_gpus) in PLACES.items():
            cluster.add(name, resources, num_gpus)
        yield cluster, cluster.deploy(settings())


def test_roles_are_on_their_nodes_and_see_their_own_gpus(served: tuple[Nodes, str]) -> None:
    cluster, _ = served
    command = [sys.executable, "-c", LOOK, cluster.address]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    places: dict[str, list[tuple[str, str]]] = {}
    for role, node, resources, gpus in json.loads(said.splitlines()[-1]):
        assert resources.get(role), f"{role} is on a node with {resources}"
        places.setdefault(role, []).append((node, gpus))
    for role in ("gateway", "coordinator", "target"):
        assert len({node for node, _ in places[role]}) == 2, f"two {role}s on one node"
    targets, (draft,) = dict(places["target"]), places["draft"]
    assert all(len(gpus.split(",")) == 1 and gpus for gpus in [*targets.values(), draft[1]])
    assert targets[draft[0]] != draft[1], "target and draft of one node share a GPU"


def whole_text(question: str) -> str:
    script = Script(ScriptOptions(num_steps=NUM_STEPS), f"user: {question}")
    return "".join(script.step(index) for index in range(NUM_STEPS))


def ask(url: str, question: str, begun: threading.Event | None = None) -> str:
    """The streamed text of an answer of the target's words."""
    body: dict[str, Any] = {
        "model": "lookahead-scripted",
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "speculation": {"fidelity": "exact"},
    }
    text = ""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60.0) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            assert '"error"' not in line, line
            if line.startswith("data: {"):
                choices = httpx.Response(200, content=line.removeprefix("data: ")).json()["choices"]
                text += (choices[0]["delta"].get("content") or "") if choices else ""
                if begun is not None and text:
                    begun.set()
    return text


def test_a_node_that_dies_in_mid_stream_costs_a_pause_and_no_word(served: tuple[Nodes, str]) -> None:
    cluster, url = served
    texts: dict[str, str] = {}
    begun = [threading.Event() for _ in range(4)]

    def run(number: int) -> None:
        question = f"Sum {number}?"
        texts[question] = ask(url, question, begun[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for event in begun:
        assert event.wait(20)
    cluster.nodes["model-b"].kill()
    for thread in threads:
        thread.join(60)
    assert texts == {question: whole_text(question) for question in (f"Sum {number}?" for number in range(4))}
