"""A backend that does what its script says, and keeps account of what became of every generation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from actors.errors import LookaheadError
from deployments.config import Config, validate_config
from deployments.gateway.api import create_app
from deployments.gateway.stay import Stay
from deployments.generation import (
    Channel,
    Committed,
    Finished,
    GenerationRequest,
    Opened,
    Origin,
    Output,
    SpeculationSummary,
)

Act = Output | Exception | float
"""What a script does next: give an output, raise, or sleep so many seconds."""
Script = Callable[[GenerationRequest], Sequence[Act]]
MODEL = "org/two-models"

SUMMARY = SpeculationSummary(
    mode="lookahead",
    num_steps=4,
    num_accepted_steps=2,
    num_recovered_steps=1,
    num_target_steps=1,
    num_draft_steps=5,
    num_cancelled_steps=2,
    accepted_tokens=6,
    rejected_tokens=5,
    output_tokens=12,
    degraded=("draft_unavailable",),
    num_branch_steps=1,
)


def config(**gateway: Any) -> Config:
    """A deployment with a draft, two verifiers and two fidelities."""
    writer = {"model": "scripted", "engine": {"kind": "scripted"}}
    return validate_config(
        {
            "served_model_name": MODEL,
            "target": writer,
            "draft": writer,
            "verifier": {"verifiers": {"exact": [{"kind": "exact"}], "anything": [{"kind": "always"}]}},
            "speculation": {"fidelity": "exact", "fidelities": {"exact": "exact", "fast": "anything"}},
            "gateway": gateway,
        },
        "the test",
    )


def opened(request: GenerationRequest) -> Opened:
    return Opened(request.request_id, 7)


def thought(text: str, step: int, origin: Origin = Origin.ACCEPTED) -> Committed:
    return Committed(text, Channel.REASONING, origin, 3, step)


def said(text: str, step: int, origin: Origin = Origin.TARGET) -> Committed:
    return Committed(text, Channel.CONTENT, origin, 3, step)


def finished(reason: str = "stop", stop_reason: str | None = None) -> Finished:
    return Finished(reason, 7, 12, 9, SUMMARY, stop_reason)


def usual(request: GenerationRequest) -> Sequence[Act]:
    """Three steps of reasoning, of which one says nothing yet, and an answer in two pieces."""
    return [
        opened(request),
        thought("Six times ", 0),
        thought("", 1, Origin.RECOVERED),
        thought("seven.\n\n", 1, Origin.RECOVERED),
        said("It is ", 2),
        said("42 \u2028 \U0001f600.", 2),
        finished(),
    ]


class ScriptedBackend:
    """`Backend` by script. `ends` says of every request id how it ended: finished, failed or closed."""

    def __init__(self, script: Script = usual) -> None:
        self.script = script
        self.requests: list[GenerationRequest] = []
        self.running: set[str] = set()
        self.ends: dict[str, str] = {}
        self.kept: list[GenerationRequest] = []
        self.roles = {"target": True, "draft": True}
        self.traces: dict[str, dict[str, Any]] = {}
        self.trouble: LookaheadError | None = None

    async def generate(self, request: GenerationRequest, stay: Stay | None = None) -> AsyncIterator[Output]:
        self.requests.append(request)
        self.running.add(request.request_id)
        end = "closed"
        try:
            for act in self.script(request):
                if isinstance(act, float):
                    await asyncio.sleep(act)
                elif isinstance(act, Exception):
                    end = "failed"
                    raise act
                else:
                    yield act
            end = "finished"
        finally:
            self.running.discard(request.request_id)
            self.ends[request.request_id] = end

    async def hand_over(self, stream_id: str, owner: str) -> list[GenerationRequest]:
        return [r for r in self.kept if r.keep is not None and (r.keep.stream_id, r.keep.owner) == (stream_id, owner)]

    async def readiness(self) -> dict[str, bool]:
        if self.trouble:
            raise self.trouble
        return self.roles

    async def trace(self, request_id: str) -> bytes | None:
        return json.dumps(self.traces[request_id]).encode() if request_id in self.traces else None

    async def metrics(self) -> str:
        return "# TYPE lookahead_requests_in_flight gauge\nlookahead_requests_in_flight 0\n"


_behind: list[ScriptedBackend] = []
_app: list[FastAPI] = []


def shared_app(backend: ScriptedBackend) -> FastAPI:
    """The app of the plain `config`, with `backend` behind it from now on; making an app anew takes a while."""
    _behind[:] = [backend]
    if not _app:
        _app.append(create_app(config(), lambda: _behind[0]))
    return _app[0]


def chat(**more: Any) -> dict[str, Any]:
    """The smallest body of a chat completion, and more."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "What is six times seven?"}], **more}


def completion(**more: Any) -> dict[str, Any]:
    """The smallest body of a completion, and more."""
    return {"model": MODEL, "prompt": "Six times seven is", **more}


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client of the app, without a network between them."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


def events_of(body: str) -> list[dict[str, Any]]:
    """The JSON events of a stream, which must end in [DONE] and hold nothing else but comments."""
    blocks = [block for block in body.split("\n\n") if block and not block.startswith(":")]
    assert blocks[-1] == "data: [DONE]"
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait for `condition`, or fail."""
    for _ in range(round(within_s / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError(f"not within {within_s} seconds")


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """The app behind a real socket on the loopback interface; the base URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=5))
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or serving.done())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
