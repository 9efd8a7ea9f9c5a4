"""A head and three more Ray nodes on this machine: roles on the nodes of their type, and a node that dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from openai import OpenAI

from deployments.bench.fake_nodes import fake_cluster, family
from deployments.config import load_profile, validate_config
from deployments.server.launch import SERVE_TRANSPORT
from tests.cluster.conftest import Served
from tests.cluster.test_cluster import ask, truth

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

HEAD = {"CPU": 2, "gateway": 1}
NODE_TYPES = {
    "front": ({"CPU": 1, "coordinator": 1}, 2),
    "models": ({"CPU": 1, "GPU": 3, "target": 2, "draft": 1, "verifier": 1}, 1),
}
"""The gateway is on the head, since the streams of a gateway end with it."""
NUM_REPLICAS = {"gateway": 1, "coordinator": 2, "target": 2, "draft": 1, "verifier": 1}
NUM_STREAMS = 8
DEPLOY = """
import json, os, sys, ray
from ray import serve
from deployments.app import compose
from deployments.config import load_config
config = load_config(sys.argv[2])
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False, logging_level="ERROR")
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": config.gateway.port})
serve.run(compose(config), name="lookahead")
nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
look = lambda _: (ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getppid())
for entry in ray.util.list_named_actors(all_namespaces=True):
    if entry["name"].startswith("SERVE_REPLICA::lookahead#"):
        node, gpus, raylet = ray.get(ray.get_actor(entry["name"]).__ray_call__.remote(look))
        print(json.dumps([entry["name"].split("#")[1], node, gpus, raylet, sorted(nodes[node])]))
"""
"""Prints where each replica is. In a process of its own: this one may belong to another cluster. With one proxy, on the
head: those of all nodes would share its port on this machine, and a connection whose proxy dies ends with it."""


@dataclass(frozen=True)
class Replica:
    """Where a replica is. `raylet` is the process of Ray that all others of its node descend from."""

    role: str
    node: str
    gpus: str
    raylet: int
    resources: list[str]


@dataclass(frozen=True)
class Cluster:
    """The deployment on several nodes, and where its replicas were when it came up."""

    replicas: list[Replica]
    served: Served


def kill_node(raylet: int) -> None:
    """As a machine dies: all its processes, with no word to anybody."""
    for pid in family(raylet):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = load_profile("scripted").model_dump(mode="json")
    settings["gateway"]["port"] = 0
    for role, number in NUM_REPLICAS.items():
        settings[role]["placement"] |= {"resources": {role: 1}, "num_replicas": number}
    settings["target"]["placement"]["num_gpus"] = 1
    settings["draft"]["placement"]["num_gpus"] = 0.5
    port = settings["gateway"]["port"] = free_port()
    config = tmp_path_factory.mktemp("nodes") / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch, fake_cluster(HEAD, NODE_TYPES, idle_s=300.0) as address:
        for name, value in {**SERVE_TRANSPORT, "RAY_worker_niceness": "0"}.items():
            patch.setenv(name, value)
        replicas = [Replica(*json.loads(line)) for line in deploy(address, config) if line.startswith("[")]
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            yield Cluster(replicas, Served(url, validate_config(settings, "nodes"), client))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def deploy(address: str, config: Path) -> list[str]:
    """The lines that `DEPLOY` prints."""
    command = [sys.executable, "-c", DEPLOY, address, str(config)]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_roles_are_on_nodes_of_their_type_and_share_no_gpu(cluster: Cluster) -> None:
    replicas = cluster.replicas
    assert Counter(each.role for each in replicas) == NUM_REPLICAS
    assert all(each.role in each.resources for each in replicas)
    assert len({each.node for each in replicas}) == 4
    assert len({each.node for each in replicas if each.role == "coordinator"}) == 2
    gpus = [each.gpus for each in replicas if each.role in ("target", "draft")]
    assert sorted(gpus) == ["0", "1", "2"]


def test_a_node_that_dies_in_mid_stream_costs_a_pause_and_no_word(cluster: Cluster) -> None:
    coordinators = [each for each in cluster.replicas if each.role == "coordinator"]
    begun = [threading.Event() for _ in range(NUM_STREAMS)]
    reasons: list[str] = []

    def read(number: int) -> str:
        text = ""
        options = {"mode": "lookahead", "fidelity": "exact"}
        for chunk in ask(cluster.served, f"Sum {number}?", stream=True, speculation=options):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            if text:
                begun[number].set()
            summary = chunk.model_extra.get("speculation") or {}
            reasons.extend(summary.get("degraded", []))
        return text

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        reading = [pool.submit(read, number) for number in range(NUM_STREAMS)]
        assert all(event.wait(20) for event in begun)
        kill_node(coordinators[0].raylet)
        for number, text in enumerate(reading):
            assert text.result(60) == truth(f"Sum {number}?", cluster.served)
    assert "coordinator_resumed" in reasons
