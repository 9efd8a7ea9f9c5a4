"""Several Ray nodes on one machine, each a set of processes of its own, and the deployment on them.

Promises: a node has the custom resources it is given, so that roles go where they belong; a node can be killed as a
machine dies: all its processes at once, with no word to anybody; everything that was started ends with the block.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
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
from deployments.cli.serve import SERVE_TRANSPORT
from deployments.config import Config

GCS_PORT = 6399
START_S = 120.0
STORE_BYTES = 100_000_000


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
        self.nodes[name] = Node(name, self.start(name, ray))
        if name == "head":
            self._until_head()

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Run `command` on the node."""
        if name in self.hosts:
            command = self.hosts[name].command(*command)
        environment = os.environ | SERVE_TRANSPORT | {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        with open(self.log / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def _until_head(self) -> None:
        """Ray's nodes do not wait for a head that is not there."""
        with inside(self.hosts["head"]) if self.hosts else contextlib.nullcontext():
            _until(lambda: _listens(self.address_of("head"), GCS_PORT), "the head node", self.log)

    @contextlib.contextmanager
    def serving(self, config: Config) -> Iterator[str]:
        """The deployment for `config` on these nodes; its URL, which is on the head node."""
        path = self.log / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        cli = "from deployments.cli.main import main; main()"
        port = config.gateway.port
        words = ["serve", "--config", str(path), "--address", self.address, "--host", "0.0.0.0", "--port", str(port)]
        process = self.start("head", [sys.executable, "-c", cli, *words])
        url = f"http://{self.address_of('head')}:{port}"
        try:
            with inside(self.hosts["head"]) if self.hosts else contextlib.nullcontext():
                _until(lambda: _is_ready(url, process), "the deployment", self.log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                Node("serve", process).kill()


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


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _is_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise ServiceError(f"lookahead serve ended with {process.returncode}.")
    try:
        return httpx.get(f"{url}/ready", timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False
