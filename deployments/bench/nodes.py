"""Several Ray nodes on one machine, each a set of processes of its own, and the deployment on them.

Promises: a node has the custom resources it is given, so that roles go where they belong; a node can be killed as a
machine dies: all its processes at once, with no word to anybody; everything that was started ends with the block.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import yaml

from actors.errors import ServiceError
from deployments.bench.wires import Host, inside
from deployments.cli.serve import APP_NAME, SERVE_TRANSPORT
from deployments.config import Config, load_config

GCS_PORT = 6399
START_S = 120.0
STORE_BYTES = 100_000_000
STARTED = "Ray runtime started"
"""What `ray start` says when the node is part of the cluster."""


@dataclass
class Node:
    """One Ray node: a ``ray start --block`` and everything below it."""

    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """All of its processes, at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid)
            for each in [*family.children(recursive=True), family]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.wait()


@dataclass
class Nodes:
    """The nodes of one cluster. `hosts`, where given, are the network namespaces that they run in, by name."""

    log: Path
    hosts: Mapping[str, Host] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Of the cluster's control store."""
        return f"{self.address_of('head')}:{GCS_PORT}"

    def address_of(self, name: str) -> str:
        """The node's address."""
        return self.hosts[name].address if name in self.hosts else "127.0.0.1"

    def add(self, name: str, resources: Mapping[str, float], num_gpus: int = 0) -> None:
        """Start the node `name`; the first one is called ``head``."""
        words = ["--head", f"--port={GCS_PORT}", "--include-dashboard=false", f"--temp-dir={self.log}/ray"]
        if name != "head":
            words = [f"--address={self.address}"]
        words += [f"--node-ip-address={self.address_of(name)}", "--num-cpus=1", f"--num-gpus={num_gpus}", "--block"]
        words += [f"--resources={json.dumps(dict(resources))}", "--min-worker-port=0", "--max-worker-port=0"]
        words += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *words]
        process = self.start(name, ray)
        self.nodes[name] = Node(name, process)
        if name == "head":
            _until(lambda: _has_started(self.log / "head.log", process), "the node head", self.log)
        # Nodes that start at the same moment choose the same names for their sockets in the folder that they share.
        _until(lambda: self._num_sockets() >= 2 * len(self.nodes), f"the node {name}", self.log)

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Run `command` on the node."""
        if name in self.hosts:
            command = self.hosts[name].command(*command)
        environment = os.environ | SERVE_TRANSPORT | {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        with open(self.log / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def _num_sockets(self) -> int:
        """Each node has two: of its raylet and of its object store."""
        return len(list(self.log.glob("ray/session_latest/sockets/*")))

    def deploy(self, config: Config) -> str:
        """Run, or change to, the deployment for `config` on these nodes; its URL, which is on the head node.

        Raises ServiceError if it does not come up.
        """
        path = self.log / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        words = [sys.executable, "-m", "deployments.bench.nodes", self.address, str(path)]
        process = self.start("head", words)
        url = f"http://{self.address_of('head')}:{config.gateway.port}"
        try:
            with inside(self.hosts["head"]) if self.hosts else contextlib.nullcontext():
                _until(lambda: _has_ended(process), "the deployment", self.log)
                _until(lambda: _is_ready(url), "the roles", self.log)
        finally:
            process.kill()
            process.wait()
        return url


@contextlib.contextmanager
def nodes(hosts: Mapping[str, Host] | None = None) -> Iterator[Nodes]:
    """A cluster without nodes yet, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="lk-", ignore_cleanup_errors=True) as folder:
        cluster = Nodes(Path(folder), hosts or {})
        try:
            yield cluster
        finally:
            for node in reversed(cluster.nodes.values()):
                node.kill()


def _until(condition: Callable[[], bool], what: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > end:
            said = "".join(f"--- {file.name}\n{file.read_text()[-2000:]}" for file in sorted(log.glob("*.log")))
            raise ServiceError(f"{what} did not come up within {START_S:g} s.\n{said}")
        time.sleep(0.2)


def _has_started(log: Path, process: subprocess.Popen[bytes]) -> bool:
    said = log.read_text()
    if process.poll() is not None:
        raise ServiceError(f"ray start ended with {process.returncode}.\n{said[-2000:]}")
    return STARTED in said


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    if process.poll():
        raise ServiceError(f"The deployment ended with {process.returncode}.")
    return process.poll() == 0


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


def main(address: str, path: str) -> None:
    """Deploy the config in the file at `path` on the cluster at `address`.

    One proxy, on the head node: several on one machine would share a port, and requests would go to any of them.
    """
    import ray
    from ray import serve

    from deployments.app import compose

    config = load_config(path)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    http = {"host": address.rpartition(":")[0], "port": config.gateway.port}
    serve.start(proxy_location="HeadOnly", http_options=http)
    serve.run(compose(config), name=APP_NAME)


if __name__ == "__main__":
    main(*sys.argv[1:])
