"""What users notice when Ray's control store (GCS) dies and comes back, in streams that run and in those begun then.

Promises: a cluster of its own on this machine; the store is killed with SIGKILL in mid-stream and its command started
again some seconds later, with the folder it kept its data in or without any; a replica is killed while it is away, and
another one afterwards, to see whether anybody starts new ones; every process that was started ends. Exit code 1 if a
stream failed, or the killed replicas were not replaced.

Run: ``python -m deployments.bench.control_store``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml

from actors.engines.scripted import ScriptOptions
from actors.errors import ServiceError
from deployments.bench.fake_nodes import family, free_port, processes_of
from deployments.chaos.streams import Load, StreamEnd, run_streams
from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import ON_EVERY_NODE

START_S = 120.0
BEFORE_S = 6.0
"""Streams run so long before the store dies, and for `AFTER_S` at least after it is back."""
AFTER_S = 20.0
REPLACED_S = 60.0
CONCURRENCY = 6
DEPLOY = """
import sys, ray
from ray import serve
from deployments.app import compose
from deployments.config import load_config
config = load_config(sys.argv[2])
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False, logging_level="ERROR")
serve.start(http_options={"host": "127.0.0.1", "port": config.gateway.port})
serve.run(compose(config), name="lookahead")
"""
"""In a process of its own: Ray ends whoever belongs to a cluster without a control store for a minute."""


def settings() -> Config:
    """The scripted profile with streams of some ten seconds, two targets and two coordinators."""
    data = load_profile("scripted").model_dump(mode="json")
    data["gateway"]["port"] = free_port()
    data["target"]["engine"]["options"] |= {"token_s": 0.05, "num_steps": 12}
    data["draft"]["engine"]["options"] |= {"token_s": 0.006, "num_steps": 12}
    for role in ("target", "coordinator"):
        data[role]["placement"]["num_replicas"] = 2
    return validate_config(data, "control store")


class Head:
    """A Ray head node whose processes are in `folder`."""

    def __init__(self, folder: str, storage: str) -> None:
        self._folder = folder
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._environment = os.environ | ON_EVERY_NODE | {"RAY_AUTH_MODE": "disabled"}
        if storage == "rocksdb":
            self._environment |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": f"{folder}/store"}
        self._store: subprocess.Popen[bytes] | None = None

    def start(self, config: Config) -> None:
        """Ray, and the application on it. ServiceError if either does not come up."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={self._port}"]
        command += ["--node-ip-address=127.0.0.1", f"--temp-dir={self._folder}", "--include-dashboard=false"]
        command += ["--disable-usage-stats", "--num-cpus=8", "--object-store-memory=100000000"]
        self._run(command)
        file = Path(self._folder) / "config.yaml"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        self._run([sys.executable, "-c", DEPLOY, self.address, str(file)])

    def replicas(self, role: str) -> list[int]:
        """Processes of the replicas of `role`."""
        return [pid for pid in self._all() if f"ServeReplica:lookahead:{role}" in _command(pid)[0]]

    def lose_store(self) -> tuple[list[str], Mapping[str, str]]:
        """Kill the control store; the command and environment to start it again with."""
        pid = next(pid for pid in processes_of(self._folder) if _command(pid)[0].endswith("gcs_server"))
        told = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        again = _command(pid), dict(line.split("=", 1) for line in told if "=" in line)
        os.kill(pid, signal.SIGKILL)
        return again

    def bring_store(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """What starts Ray's head again does this."""
        with (Path(self._folder) / "store.log").open("w") as log:
            self._store = subprocess.Popen(  # nosec B603 # Ray's own command line
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def end(self) -> None:
        """Every process."""
        for pid in self._all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._store is not None:
            self._store.kill()
            self._store.wait()

    def _all(self) -> list[int]:
        return sorted({each for pid in processes_of(self._folder) for each in family(pid)})

    def _run(self, command: Sequence[str]) -> None:
        log = Path(self._folder) / "start.log"
        with log.open("w") as out:  # not a pipe: Ray's processes would hold it open
            ended = subprocess.run(  # nosec B603 # Ray's command, and this package's own code
                command, env=self._environment, stdout=out, stderr=out, check=False, timeout=START_S
            )
        if ended.returncode:
            raise ServiceError(f"The cluster did not start: {log.read_text(encoding='utf-8')[-800:]}")


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return [""]


@contextlib.contextmanager
def head(storage: str) -> Iterator[Head]:
    """A head that ends with the context."""
    with tempfile.TemporaryDirectory(prefix="la-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # nosec B108 # short
        one = Head(folder, storage)
        try:
            yield one
        finally:
            one.end()


async def is_ready(url: str) -> bool:
    """Whether every role can serve."""
    with contextlib.suppress(httpx.HTTPError):
        async with httpx.AsyncClient(trust_env=False, timeout=12) as http:
            return (await http.get(f"{url}/ready")).status_code == 200
    return False


async def replaced_after_s(at: Head, role: str, num_wanted: int, url: str) -> float | None:
    """How long until so many replicas of `role` are there again and the server is ready; None: not in time."""
    began = time.monotonic()
    while time.monotonic() < began + REPLACED_S:
        if len(at.replicas(role)) >= num_wanted and await is_ready(url):
            return round(time.monotonic() - began, 1)
        await asyncio.sleep(0.5)
    return None


async def run(at: Head, config: Config, away_s: float) -> dict[str, Any]:
    """Streams all the time, and what happens to them."""
    url = f"http://127.0.0.1:{config.gateway.port}"
    scripts = [ScriptOptions(**role.engine.options) for role in (config.target, config.draft) if role is not None]
    load = Load(url, config.served_model_name, scripts[0], scripts[1], "store", CONCURRENCY, CONCURRENCY, 120.0)
    is_over = asyncio.Event()
    streams = asyncio.create_task(run_streams(load, is_over.is_set, lambda _: None))
    await asyncio.sleep(BEFORE_S)
    died_at, again = time.time(), at.lose_store()
    await asyncio.sleep(away_s / 2)
    os.kill(at.replicas("target")[0], signal.SIGKILL)
    await asyncio.sleep(away_s / 2)
    at.bring_store(*again)
    back_at = time.time()
    target_s = await replaced_after_s(at, "target", 2, url)
    for pid in at.replicas("draft"):
        os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(1.0)
    draft_s = await replaced_after_s(at, "draft", 1, url)
    await asyncio.sleep(max(0.0, back_at + AFTER_S - time.time()))
    is_over.set()
    ends = await streams
    return {
        "away_s": away_s,
        "killed_while_away_replaced_after_s": target_s,
        "killed_afterwards_replaced_after_s": draft_s,
        "streams": {name: _told(found) for name, found in _by_time(ends, died_at, back_at).items()},
    }


def _by_time(ends: Sequence[StreamEnd], died_at: float, back_at: float) -> dict[str, list[StreamEnd]]:
    return {
        "before": [end for end in ends if end.ended_at < died_at],
        "running when it died": [end for end in ends if end.started_at < died_at <= end.ended_at],
        "begun while it was away": [end for end in ends if died_at <= end.started_at < back_at],
        "begun afterwards": [end for end in ends if end.started_at >= back_at],
    }


def _told(ends: Sequence[StreamEnd]) -> dict[str, Any]:
    problems = [end.problem for end in ends if end.problem is not None]
    return {
        "num": len(ends),
        "num_failed": len(problems),
        "num_wrong": sum(end.is_wrong_text for end in ends),
        "longest_silence_s": round(max((end.longest_silence_s for end in ends), default=0.0), 1),
        "problems": problems[:3],
    }


def main(
    storage: Annotated[
        str, typer.Option(help="'rocksdb': a folder; 'memory': Ray's default, nothing is kept.")
    ] = "rocksdb",
    away_s: Annotated[float, typer.Option(min=1, max=55, help="Seconds; Ray's processes give up after 60.")] = 20.0,
) -> None:
    """Kill the control store while streams run, start it again, and print one JSON document."""
    config = settings()
    with head(storage) as at:
        at.start(config)
        found = asyncio.run(run(at, config, away_s))
    print(json.dumps({"storage": storage, **found}, indent=2))
    failed = sum(part["num_failed"] for part in found["streams"].values())
    if failed or None in (found["killed_while_away_replaced_after_s"], found["killed_afterwards_replaced_after_s"]):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
