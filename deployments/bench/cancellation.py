"""How soon engines stop when a request is over before its time, and whether many such requests leave anything behind.

Promises: asked over HTTP only and counted at the engines, by their own logs, so that whatever lies between may be
replaced; the transport between processes is Serve's default or the one that `lookahead serve` uses, as asked. Exit code
1 if a p99 is above the limit or something grows.

Run: ``python -m deployments.bench.cancellation --trials 100 --soak 2000``
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import httpx
import typer

from actors.engines.control_folder import read_logs
from actors.engines.scripted import Script, ScriptOptions, detokenize, tokenize
from deployments.bench.cancelled_calls import (
    Generation,
    overrun_s,
    overrun_tokens,
    percentiles_ms,
    rejected_overruns_s,
    written_at,
)
from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import SERVE_TRANSPORT, running

LIMIT_S = 0.05
"""What the issue asks for: an engine stops within so many seconds."""
DEADLINE_S = 3.0
TOKEN_S = 0.02
NUM_STEPS = 40
AT_ONCE = 4
SETTLE_S = 1.0
"""After the last trial, before the logs are read: what still runs then has no end in them, and shows as running."""
MODES: Mapping[str, Mapping[str, Any]] = {
    "target": {"mode": "target"},
    "lookahead": {"mode": "lookahead", "fidelity": "exact", "controller": False},
}


def settings(control: Path) -> Config:
    """The scripted profile with long answers, a short deadline and engines that keep a log in `control`."""
    data = load_profile("scripted").model_dump()
    data["gateway"] |= {"port": 0, "request_timeout_s": DEADLINE_S}
    data["target"]["engine"]["options"] |= {"num_steps": NUM_STEPS, "token_s": TOKEN_S, "control": str(control)}
    data["draft"]["engine"]["options"] |= {"num_steps": NUM_STEPS, "token_s": TOKEN_S / 8, "control": str(control)}
    data["telemetry"]["max_traces"] = 64
    return validate_config(data, "cancellation")


def set_transport(name: str) -> None:
    """Before Serve is imported: ``serve`` is the transport of `lookahead serve`, ``default`` is Ray Serve's own."""
    if name == "default":
        os.environ.update(dict.fromkeys(SERVE_TRANSPORT, "0"))
    else:
        os.environ.update(SERVE_TRANSPORT)


@dataclass(frozen=True, slots=True)
class Trial:
    """One request that was over before its time. `stopped_at` None: known only from the logs."""

    cause: str
    mode: str
    question: str
    stopped_at: float | None
    trace: Mapping[str, Any] | None = None


class Asker:
    """Makes requests to one server and ends them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._random = random.Random(0)

    async def try_one(self, cause: str, mode: str, question: str) -> Trial:
        """A trial of `cause`, one of `CAUSES`. Logs are told apart by `question`, which no other trial asks."""
        if cause.startswith("client gone"):
            return await self.client_gone(mode, question, stream=cause.endswith("streaming"))
        ways = {"deadline": self.deadline, "stop string": self.stop, "rejected step": self.rejected}
        return await ways[cause](mode, question)

    async def client_gone(self, mode: str, question: str, stream: bool) -> Trial:
        """The connection is closed in the middle of the answer."""
        async with self._http() as http:
            work = asyncio.create_task(self._read(http, _body(question, mode, stream=stream)))
            await asyncio.wait((work,), timeout=self._random.uniform(0.5, 1.2))
            stopped_at = time.time()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        return Trial("client gone, streaming" if stream else "client gone, unary", mode, question, stopped_at)

    async def deadline(self, mode: str, question: str) -> Trial:
        """The server's time limit passes."""
        async with self._http() as http:
            sent_at = time.time()
            await self._read(http, _body(question, mode, stream=True))
        return Trial("deadline", mode, question, sent_at + DEADLINE_S)

    async def stop(self, mode: str, question: str) -> Trial:
        """A stop string comes, in the middle of the third step."""
        async with self._http() as http:
            await self._read(http, _body(question, mode, stream=True) | {"stop": [_mark(question)]})
        return Trial("stop string", mode, question, None)

    async def rejected(self, mode: str, question: str) -> Trial:
        """Steps are rejected on the way; the request itself ends at its limit of tokens."""
        request_id = f"rejected-{uuid4().hex}"
        async with self._http() as http:
            headers = {"x-request-id": request_id}
            await self._read(http, _body(question, mode, stream=True) | {"max_tokens": 120}, headers)
            trace = (await http.get(f"{self._url}/v1/traces/{request_id}")).raise_for_status().json()
        return Trial("rejected step", mode, question, None, trace)

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[httpx.AsyncClient]:
        # Certificates are read for every client, and nothing here is encrypted.
        async with httpx.AsyncClient(timeout=60, trust_env=False, verify=False) as http:  # nosec B501
            yield http

    async def _read(
        self, http: httpx.AsyncClient, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        async with http.stream("POST", f"{self._url}/v1/chat/completions", json=body, headers=headers) as response:
            async for _ in response.aiter_bytes():
                pass


def _prompt(question: str) -> str:
    return f"user: {question}"


def _mark(question: str) -> str:
    """A word of the third step that no earlier one holds."""
    script = Script(ScriptOptions(num_steps=NUM_STEPS), _prompt(question))
    return script.step(2).rsplit(" = ", 1)[1].strip(".\n") + "."


def _body(question: str, mode: str, stream: bool) -> dict[str, Any]:
    return {
        "model": "lookahead-scripted",
        "temperature": 0,
        "stream": stream,
        "messages": [{"role": "user", "content": question}],
        "speculation": dict(MODES[mode]),
    }


CAUSES: tuple[tuple[str, str], ...] = (
    *(("client gone, streaming", mode) for mode in MODES),
    *(("client gone, unary", mode) for mode in MODES),
    *(("deadline", mode) for mode in MODES),
    ("stop string", "target"),
    ("rejected step", "lookahead"),
)
"""Each with the mode it is tried in. When a stop string is certain in a window only the coordinator knows, and a target
alone rejects nothing."""


async def run_trials(url: str, num_trials: int, causes: Sequence[tuple[str, str]] = CAUSES) -> list[Trial]:
    """`num_trials` of each cause, a few at once."""
    asker = Asker(url)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(cause: str, mode: str, question: str) -> Trial:
        async with gate:
            return await asker.try_one(cause, mode, question)

    # Numbered, not drawn: what a question's text holds, a step that is rejected say, is the same in every run.
    asked = [(*pair, f"Sum {i}, case {case}?") for i in range(num_trials) for case, pair in enumerate(causes)]
    trials = await asyncio.gather(*(one(*each) for each in asked))
    await asyncio.sleep(SETTLE_S)
    return list(trials)


def rows(trials: list[Trial], generations: list[Generation]) -> list[dict[str, Any]]:
    """For each cause and mode: how long engines went on, in milliseconds."""
    by_prompt: dict[str, list[Generation]] = {}
    for generation in generations:
        by_prompt.setdefault(generation.prompt, []).append(generation)
    found: dict[tuple[str, str], list[float]] = {}
    tokens: dict[tuple[str, str], int] = {}
    for trial in trials:
        key = (trial.cause, trial.mode)
        mine = by_prompt.get(_prompt(trial.question), [])
        values, num_tokens = _overruns(trial, mine)
        found.setdefault(key, []).extend(values)
        tokens[key] = tokens.get(key, 0) + num_tokens
    return [
        {
            "cause": cause,
            "mode": mode,
            "num_trials": sum((t.cause, t.mode) == (cause, mode) for t in trials),
            "num_measured": len(values),
            **percentiles_ms(values),
            "tokens_after": tokens[(cause, mode)],
        }
        for (cause, mode), values in found.items()
    ]


def _overruns(trial: Trial, mine: list[Generation]) -> tuple[list[float], int]:
    """How long the engines went on after the trial's end, and with how many tokens."""
    if trial.trace is not None:
        return rejected_overruns_s(mine, trial.trace), 0
    stopped_at = trial.stopped_at if trial.stopped_at is not None else _stop_written_at(trial, mine)
    if stopped_at is None:
        return [], 0
    value = overrun_s(mine, stopped_at)
    return ([] if value is None else [value]), overrun_tokens(mine, stopped_at)


def _stop_written_at(trial: Trial, mine: list[Generation]) -> float | None:
    """When the target wrote the end of the stop string."""
    mark = _mark(trial.question)
    for generation in mine:
        if generation.role == "target":
            pieces = [detokenize((token,)) for token in tokenize(generation.text)]
            if (at := written_at(generation, mark, pieces)) is not None:
                return at
    return None


def main(
    trials: Annotated[int, typer.Option(min=0, help="Requests of each cause and mode.")] = 100,
    soak: Annotated[int, typer.Option(min=0, help="Cancelled requests of the soak; 0: none.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, help="Requests of the soak at once.")] = 16,
    transport: Annotated[
        str, typer.Option(help="'serve' as `lookahead serve` does, or Ray Serve's 'default'.")
    ] = "serve",
) -> None:
    """Cancel in every way there is, and print one JSON document."""
    from deployments.bench.soak import run_soak

    set_transport(transport)
    result: dict[str, Any] = {"transport": transport, "limit_ms": 1000 * LIMIT_S}
    with tempfile.TemporaryDirectory(prefix="lookahead-cancel-") as folder, running(settings(Path(folder))) as url:
        if trials:
            done = asyncio.run(run_trials(url, trials))
            result["rows"] = rows(done, [Generation.of(entry) for entry in read_logs(Path(folder))])
        if soak:
            result["soak"] = asyncio.run(run_soak(url, soak, at_once))
    print(json.dumps(result, indent=2))
    late = [row for row in result.get("rows", []) if row.get("p99_ms", 0.0) > 1000 * LIMIT_S]
    grows = [name for name, row in result.get("soak", {}).get("processes", {}).items() if row["grows"]]
    if late or grows:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
