"""Users who ask one streamed question after another, and judge what they get.

Promises: never more than `concurrency` streams at once; nothing is asked a second time, so that a stream which the
server ended is a failure whatever the reason; every stream has a request id of its own, in the report and in the
server's traces.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from actors.engines.scripted import ScriptOptions
from actors.errors import LookaheadError
from actors.messages import Message
from deployments.chaos.texts import KINDS, complaint, expected
from deployments.server.client import Question, ask, connect

AFTER_FAILURE_S = 0.5
"""A user who was refused does not come again at once."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How one stream ended. `problem` None: with exactly the expected text. Times are seconds of the wall clock."""

    request_id: str
    kind: str
    started_at: float
    ended_at: float
    num_characters: int
    longest_silence_s: float
    degraded: tuple[str, ...] = ()
    problem: str | None = None
    is_wrong_text: bool = False
    """Whether what came is not a beginning of the expected text, so that not only the end is missing."""

    def as_dict(self) -> dict[str, Any]:
        """For a line of a record."""
        return {"event": "stream", **asdict(self), "duration_s": self.ended_at - self.started_at}


@dataclass(frozen=True, slots=True)
class Load:
    """Who asks. `num_streams` at least are asked, and more until `may_end` says so."""

    url: str
    model: str
    target: ScriptOptions
    draft: ScriptOptions
    run_id: str
    num_streams: int
    concurrency: int
    timeout_s: float


async def run_streams(load: Load, may_end: Callable[[], bool], on_end: Callable[[StreamEnd], None]) -> list[StreamEnd]:
    """All streams, to their ends."""
    ends: list[StreamEnd] = []
    numbers = iter(range(10**9))

    async def user(first_s: float) -> None:
        await asyncio.sleep(first_s)
        async with connect(load.url) as http:
            while (number := next(numbers)) < load.num_streams or not may_end():
                end = await _ask(load, http, number)
                ends.append(end)
                on_end(end)
                if end.problem is not None:
                    await asyncio.sleep(AFTER_FAILURE_S)

    async with asyncio.TaskGroup() as group:
        for i in range(load.concurrency):
            group.create_task(user(i * 0.05))
    return ends


async def _ask(load: Load, http: Any, number: int) -> StreamEnd:
    kind = list(KINDS)[number % len(KINDS)]
    request_id = f"chaos-{load.run_id}-{number}"
    text = f"Sum {load.run_id} {number}?"
    question = Question((Message("user", text),), load.model, temperature=0, speculation=KINDS[kind])
    http.headers["x-request-id"] = request_id
    started_at, problem, reply = time.time(), None, None
    try:
        reply = await ask(http, question, timeout_s=load.timeout_s)
        problem = reply.error
    except LookaheadError as error:
        problem = str(error)
    wanted = expected(text, load.target, load.draft, judged=kind == "judged")
    said = reply.text if reply is not None else ""
    wrong = complaint(said, wanted)
    is_wrong = wrong is not None and not (problem and wrong.startswith("lost: ends"))
    return StreamEnd(
        request_id,
        kind,
        started_at,
        time.time(),
        len(said),
        (reply.longest_silence_s if reply is not None else None) or 0.0,
        tuple(((reply.speculation if reply is not None else None) or {}).get("degraded", ())),
        "; ".join(filter(None, (problem, wrong))) or None,
        is_wrong,
    )
