"""Many thousands of bodies against the HTTP side, in this process, with a backend that writes a set text.

Promises: each body gets an answer within `PATIENCE_S`, never a 5xx; an error has OpenAI's form, and a message that
names the field where it is a field's fault; a refused request never reaches the backend, and none is left running. The
first body that breaks a promise is made as small as possible and shown, with exit code 1.

Run: ``python -m deployments.bench.fuzz --examples 20000`` (needs the `dev` extra)
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from starlette.types import ASGIApp

from actors.errors import LookaheadError
from deployments.bench.fuzz_bodies import Post, posts
from deployments.config import load_profile
from deployments.gateway.api import create_app
from deployments.gateway.schemas import ChatRequest, CompletionRequest
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

FIELDS = ChatRequest.model_fields.keys() | CompletionRequest.model_fields.keys()
PATIENCE_S = 20.0
"""An answer that takes longer counts as none."""


class SetText:
    """A `Backend` that writes three words whatever it is asked."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.num_running = 0

    async def generate(self, request: GenerationRequest, stay: Stay | None = None) -> AsyncIterator[Output]:
        """As `Backend.generate`."""
        self.num_asked += 1
        self.num_running += 1
        try:
            yield Opened(request.request_id, 3)
            yield Committed("It is 42.", Channel.CONTENT, Origin.TARGET, 3, 0)
            yield Finished("stop", 3, 3, 0, SpeculationSummary("target", 1, num_target_steps=1, output_tokens=3))
        finally:
            self.num_running -= 1

    async def hand_over(self, stream_id: str, owner: str) -> list[GenerationRequest | Exception]:
        """As `Backend.hand_over`: nothing is kept."""
        return []

    async def readiness(self) -> dict[str, bool]:
        """As `Backend.readiness`."""
        return {"target": True}

    async def trace(self, request_id: str) -> bytes | None:
        """As `Backend.trace`."""
        return None

    async def metrics(self) -> str:
        """As `Backend.metrics`."""
        return ""


class Broken(LookaheadError):
    """A body broke a promise."""


@dataclass
class Tally:
    """What was tried, and what came back."""

    num_tried: int = 0
    num_bytes: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """By status, path and error code."""
    params: set[str] = field(default_factory=set)
    """Fields that errors named."""
    slowest_s: float = 0.0


def try_bodies(app: ASGIApp, backend: SetText, model: str, examples: int, start: int) -> Tally:
    """Send `examples` bodies to `app`; `start` is the seed. Raises Broken for the smallest that breaks a promise."""
    tally = Tally()
    with asyncio.Runner() as runner:

        @seed(start)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(posts(model))
        def send(post: Post) -> None:
            asked, began = backend.num_asked, time.perf_counter()
            try:
                status, kind, body = runner.run(_post(app, post))
            except Exception as error:
                raise Broken(f"{type(error).__name__}: {error} for {post!r:.2000}") from error
            tally.slowest_s = max(tally.slowest_s, time.perf_counter() - began)
            tally.num_tried += 1
            tally.num_bytes += len(post.body)
            code, param, problem = judge(status, kind, body)
            if problem is None and status != 200 and backend.num_asked > asked:
                problem = "the backend was asked for a request that was refused"
            if problem is None and backend.num_running:
                problem = "a generation is still running"
            if problem:
                raise Broken(f"{problem}: {status} {body!r:.1000} for {post!r:.2000}")
            tally.answers[f"{status} {post.path} {code}"] += 1
            if param:
                tally.params.add(re.sub(r"\[\d+\]", "[]", param))

        send()
    return tally


def judge(status: int, kind: str, body: bytes) -> tuple[str, str | None, str | None]:
    """The error's code, its param, and what is wrong with the answer (None: nothing)."""
    if status == 200:
        whole = body.endswith(b"data: [DONE]\n\n") if kind.startswith("text/event-stream") else _is_object(body)
        return ("stream" if kind.startswith("text/event-stream") else "whole"), None, None if whole else "not whole"
    try:
        error = json.loads(body)["error"]
        code, param, message = error["code"], error["param"], error["message"]
    except (ValueError, KeyError, TypeError):
        return "?", None, "the error has not OpenAI's form"
    if set(error) != {"message", "type", "param", "code"} or not message:
        return code, param, "the error has not OpenAI's form"
    if status >= 500:
        return code, param, "the server failed"
    if param and param not in message and repr(param)[1:-1] not in message:  # names that cannot be printed are escaped
        return code, param, f"the message does not name {param}"
    return code, param, None


def _is_object(body: bytes) -> bool:
    return isinstance(json.loads(body), dict)


async def _post(app: ASGIApp, post: Post) -> tuple[int, str, bytes]:
    """Status, content type and body of the answer."""
    sent: list[MutableMapping[str, Any]] = []
    done = asyncio.Event()
    parts = [post.body]

    async def receive() -> dict[str, Any]:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            done.set()

    typed = [(b"content-type", post.content_type.encode())] if post.content_type else []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": post.path,
        "raw_path": post.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": typed,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    async with asyncio.timeout(PATIENCE_S):
        await app(scope, receive, send)
    headers = dict(sent[0]["headers"])
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], headers.get(b"content-type", b"").decode(), body


def main(
    examples: Annotated[int, typer.Option(min=1, help="How many bodies.")] = 20_000,
    start: Annotated[int, typer.Option("--seed", help="The same seed gives the same bodies.")] = 0,
) -> None:
    """Try `examples` bodies, and print what came back as one JSON document."""
    config = load_profile("scripted")
    config = config.model_copy(update={"gateway": config.gateway.model_copy(update={"max_body_bytes": 256 * 1024})})
    backend = SetText()
    try:
        tally = try_bodies(create_app(config, lambda: backend), backend, config.served_model_name, examples, start)
    except Broken as error:
        print(f"fuzz: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    result = {
        "num_tried": tally.num_tried,
        "num_bytes": tally.num_bytes,
        "num_5xx": 0,
        "slowest_s": round(tally.slowest_s, 3),
        "answers": dict(sorted(tally.answers.items())),
        "fields_named": sorted(param for param in tally.params if re.split(r"\W", param)[0] in FIELDS),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)
