"""A head and five more Ray nodes on this machine: roles on the nodes of their type, and nodes that die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from openai import OpenAI, OpenAIError

from deployments.bench.fake_nodes import fake_cluster, family
from deployments.config import load_profile, validate_config
from deployments.server.launch import ON_EVERY_NODE
from tests.cluster.conftest import Served
from tests.cluster.test_cluster import ask, truth

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

HEAD = {"CPU": 2, "verifier": 1}
NODE_TYPES = {
    "front": ({"CPU": 1, "gateway": 1, "coordinator": 1}, 2),
    "target": ({"CPU": 1, "GPU": 1, "target": 1}, 2),
    "draft": ({"CPU": 1, "GPU": 1, "draft": 1}, 1),
}
"""As in `cluster.yaml`, but for the verifier."""
NUM_REPLICAS = {"gateway": 2, "coordinator": 2, "target": 2, "draft": 1, "verifier": 1}
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
    for role in ("target", "draft"):
        settings[role]["engine"]["options"]["num_steps"] = 12
    settings["target"]["placement"]["num_gpus"] = 1
    settings["draft"]["placement"]["num_gpus"] = 0.5
    port = settings["gateway"]["port"] = free_port()
    config = tmp_path_factory.mktemp("nodes") / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch, fake_cluster(HEAD, NODE_TYPES, idle_s=300.0) as address:
        for name, value in ON_EVERY_NODE.items():
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
    gpus = [(each.node, each.gpus) for each in replicas if each.role in ("target", "draft")]
    assert len(set(gpus)) == 3
    assert {gpu for _, gpu in gpus} == {"0"}


def test_gateways_and_coordinators_are_on_two_nodes_without_gpus(cluster: Cluster) -> None:
    fronts = {role: [each for each in cluster.replicas if each.role == role] for role in ("gateway", "coordinator")}
    nodes = [{each.node for each in replicas} for replicas in fronts.values()]
    assert nodes[0] == nodes[1]
    assert len(nodes[0]) == 2
    assert not any("GPU" in each.resources for replicas in fronts.values() for each in replicas)


class Reading:
    """A stream under way: what of its text has come, and why it did less than was asked."""

    def __init__(self, number: int, served: Served) -> None:
        self.begun = threading.Event()
        self.text = ""
        self.reasons: list[str] = []
        self.truth = truth(f"Sum {number}?", served)
        self._number = number
        self._served = served

    def read(self) -> str | None:
        """To its end; the problem, if it broke off."""
        options, ended = {"mode": "lookahead", "fidelity": "exact"}, False
        try:
            for chunk in ask(self._served, f"Sum {self._number}?", stream=True, speculation=options):
                self.text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                if self.text:
                    self.begun.set()
                self.reasons += (chunk.model_extra.get("speculation") or {}).get("degraded", [])
                ended = bool(chunk.choices and chunk.choices[0].finish_reason) or ended
        except (OpenAIError, httpx.HTTPError) as error:
            return repr(error)
        return None if ended else "the stream has no end"


def read_while(served: Served, strike: Callable[[], None], num: int = NUM_STREAMS) -> list[tuple[Reading, str | None]]:
    """Streams that all have begun when `strike` is called, and the problem of each."""
    streams = [Reading(number, served) for number in range(num)]
    with ThreadPoolExecutor(num) as pool:
        reading = [pool.submit(stream.read) for stream in streams]
        assert all(stream.begun.wait(20) for stream in streams)
        strike()
        return [(stream, future.result(60)) for stream, future in zip(streams, reading, strict=True)]


def test_nodes_of_target_and_draft_that_die_in_mid_stream_cost_a_pause_and_no_word(cluster: Cluster) -> None:
    first = {each.role: each for each in cluster.replicas}
    reasons: set[str] = set()

    def strike() -> None:
        kill_node(first["target"].raylet)
        time.sleep(0.3)
        kill_node(first["draft"].raylet)

    for stream, problem in read_while(cluster.served, strike):
        assert problem is None
        assert stream.text == stream.truth
        reasons.update(stream.reasons)
    assert reasons >= {"target_retried", "draft_unavailable"}


def test_a_front_node_that_dies_in_mid_stream_costs_only_the_streams_of_its_gateway(cluster: Cluster) -> None:
    """Its coordinator's streams that came through the other gateway lose no word; what came through its own gateway is
    right up to where it broke off, and whoever asks again is answered."""
    front = next(each for each in cluster.replicas if each.role == "coordinator")
    # Of four it is one on the average that is the coordinator's and came through the other gateway.
    ended = read_while(cluster.served, lambda: kill_node(front.raylet), 3 * NUM_STREAMS)
    whole = [stream for stream, problem in ended if problem is None]
    assert all(stream.text == stream.truth for stream in whole)
    assert any("coordinator_resumed" in stream.reasons for stream in whole)
    assert all(stream.truth.startswith(stream.text) for stream, _ in ended)
    assert ask(cluster.served, "Sum 99?", max_tokens=4).usage.completion_tokens == 4
