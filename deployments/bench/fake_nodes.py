"""A Ray cluster whose nodes are made up: Ray's own autoscaler adds and removes them, on one machine.

Promises: nodes have the resources that are asked for, GPUs too, though there are none; the head has none; every process
that was started ends with the context. Ray's provider `fake_multinode` starts each node's processes for real.
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
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from actors.errors import ServiceError

START_S = 60.0
END_S = 8.0
HEAD_NODE = "ray.head.default"
"""The provider knows the head by this name only."""
COMMANDS = (
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
"""Ray's autoscaler reads them, and this provider has no use for any."""
SETTLE_S = 3.0
"""A head whose autoscaler cannot read its configuration ends in this time."""


@contextlib.contextmanager
def fake_cluster(
    head: Mapping[str, float], node_types: Mapping[str, tuple[Mapping[str, float], int]], idle_s: float
) -> Iterator[str]:
    """The address of a cluster with a head of these resources, and of each type of node none to so many, which go after
    `idle_s` without work. ServiceError if it does not start."""
    with tempfile.TemporaryDirectory(prefix="la-", dir="/tmp") as folder:  # nosec B108 # sockets have short paths
        port = free_port()
        config = Path(folder) / "cluster.yaml"
        config.write_text(yaml.safe_dump(_config(head, node_types, idle_s, f"127.0.0.1:{port}")), encoding="utf-8")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
        command += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", f"--autoscaling-config={config}"]
        command += ["--include-dashboard=false", "--disable-usage-stats", f"--num-cpus={int(head['CPU'])}"]
        own = {name: amount for name, amount in head.items() if name not in ("CPU", "GPU")}
        command += ["--num-gpus=0", f"--resources={json.dumps(own)}", "--object-store-memory=100000000"]
        environment = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        with (Path(folder) / "start.log").open("w") as log:
            started = subprocess.Popen(  # nosec B603 # Ray's own command
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            _wait_for(port, started, Path(folder) / "start.log")
            yield f"127.0.0.1:{port}"
        finally:
            _end(started, folder)


def _config(
    head: Mapping[str, float],
    node_types: Mapping[str, tuple[Mapping[str, float], int]],
    idle_s: float,
    gcs_address: str,
) -> dict[str, object]:
    types = {
        name: {"resources": dict(resources), "node_config": {}, "min_workers": 0, "max_workers": most}
        for name, (resources, most) in node_types.items()
    }
    return {
        "cluster_name": "fake",
        "max_workers": sum(most for _, most in node_types.values()),
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": gcs_address,
        },
        "available_node_types": {
            HEAD_NODE: {"resources": dict(head), "node_config": {}, "min_workers": 0, "max_workers": 0},
            **types,
        },
        "head_node_type": HEAD_NODE,
        **{name: {} for name in ("auth", "file_mounts")},
        **{name: [] for name in COMMANDS},
        "file_mounts_sync_continuously": False,
    }


def _wait_for(port: int, started: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and started.poll() is None:
        time.sleep(0.2)
        if "Ray runtime started" in log.read_text(encoding="utf-8"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(SETTLE_S)
            if started.poll() is None:
                return
    raise ServiceError(f"Ray did not start on port {port}: {log.read_text(encoding='utf-8')[-1000:]}")


def _end(started: subprocess.Popen[bytes], folder: str) -> None:
    """First Ray's own way; then, by the folder in their command line, the processes of nodes that it leaves behind, and
    those that have given themselves another command line."""
    ours = family(started.pid)[1:]
    if started.poll() is None:
        started.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(END_S)
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(20):
            left = processes_of(folder)
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
            time.sleep(0.25)
    for pid in ours:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    started.kill()
    started.wait()


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def processes_of(folder: str) -> list[int]:
    """Those with `folder` in their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if folder.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
