"""A tiny server on loopback that speaks the gateway's stream: what the commands meet over HTTP, without models.

Promises: every body it got is in `bodies`; `open_streams` counts answers that are still being written.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

STEPS = (
    ("accepted", "First, 6 * 7 means six sevens.\n\n"),
    ("recovered", "Six sevens are 42.\n\n"),
    ("target", "The answer is 42."),
)


class SpeakingServer:
    """`fail_mid_stream`, `refuse`, `cut`, `stall`: questions that hold this word fail like that. `delays` are seconds
    between the steps, by mode."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.open_streams = 0
        self.most_open = 0
        self.num_closed_early = 0
        self.delays = {"target": 0.012, "lookahead": 0.004}
        self.key: str | None = None
        self.fail_mid_stream = "BREAK"
        self.refuse = "REFUSE"
        self.cut = "CUT"
        self.stall = "STALL"
        self.reasoning = False
        self.traces: dict[str, Any] = {}
        self.app = self._build()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        config = uvicorn.Config(self.app, host="127.0.0.1", port=self.port, log_level="error", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > deadline:
                raise RuntimeError("the test's server did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    async def has_open(self, number: int) -> None:
        """Wait until so many answers are being written, for five seconds at most."""
        async with asyncio.timeout(5):
            while self.open_streams != number:  # noqa: ASYNC110 - the server runs in another thread
                await asyncio.sleep(0.005)

    def _build(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": [{"id": "made-up", "object": "model"}]}

        @app.get("/version")
        async def version() -> dict[str, str]:
            return {"version": "9.9"}

        @app.get("/v1/traces/{request_id}")
        async def trace(request_id: str) -> Response:
            if request_id not in self.traces:
                return _error(404, f"There is no trace of {request_id}; it may be too old.")
            return JSONResponse(self.traces[request_id])

        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            body = await request.json()
            if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
                return _error(401, "No valid key.")
            mode = body.get("speculation", {}).get("mode", "lookahead")
            if mode not in self.delays:
                return _error(400, f"speculation.mode {mode!r} does not exist.")
            self.bodies.append(body)
            self.keys.add(request.headers.get("authorization"))
            question = body["messages"][-1]["content"]
            if self.refuse in question:
                return _error(429, "Too much work for now.")
            number = len(self.bodies)
            stream = self._speak(question, mode, f"req-{number}")
            answer = StreamingResponse(stream, media_type="text/event-stream")
            # Twice, as behind Ray Serve's proxy.
            answer.headers.append("x-request-id", f"req-{number}")
            answer.headers.append("x-request-id", f"req-{number}")
            return answer

        return app

    async def _speak(self, question: str, mode: str, request_id: str) -> AsyncIterator[str]:
        self.open_streams += 1
        self.most_open = max(self.most_open, self.open_streams)
        whole = False
        try:
            async for event in self._events(question, mode, request_id):
                yield event
            whole = True
        finally:
            self.open_streams -= 1
            self.num_closed_early += not whole

    async def _events(self, question: str, mode: str, request_id: str) -> AsyncIterator[str]:
        yield _data(
            {"id": request_id, "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
        )
        wanted = re.search(r"ANSWER(\d+)", question)
        for step, (origin, text) in enumerate(STEPS):
            await asyncio.sleep(self.delays[mode])
            shown = text.replace("42", wanted.group(1)) if wanted else text
            origin = "target" if mode == "target" else origin
            field = "reasoning" if self.reasoning and step == 0 else "content"
            choice = {"index": 0, "delta": {field: shown}, "finish_reason": None}
            yield _data({"id": request_id, "choices": [choice], "lookahead": {"origin": origin, "step": step}})
            if step == 0 and self.fail_mid_stream in question:
                yield _data({"error": {"message": "The target was lost.", "type": "server_error", "code": "x"}})
                yield "data: [DONE]\n\n"
                return
            if step == 0 and self.cut in question:
                return
            if step == 0 and self.stall in question:
                await asyncio.sleep(60)
        drafted = 0 if mode == "target" else 1
        speculation = {
            "mode": mode,
            "num_steps": 3,
            "num_accepted_steps": drafted,
            "num_recovered_steps": drafted,
            "num_target_steps": 3 - 2 * drafted,
            "num_draft_steps": 2 * drafted,
            "accept_rate": 0.5 * drafted,
            "draft_token_share": 0.0,
            "degraded": [],
        }
        yield _data({"id": request_id, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}
        yield _data({"id": request_id, "choices": [], "usage": usage, "speculation": speculation})
        yield "data: [DONE]\n\n"


def _data(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "error", "param": None, "code": "x"}}, status)
