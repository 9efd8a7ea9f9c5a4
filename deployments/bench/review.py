"""What is found out about an answer after it was measured: whether it is right, and where its time went.

Promises: nothing here runs while a request is being measured; what cannot be found out is left out with its reason and
fails nothing. A program that a model wrote is run by `run_programs`, for when the servers that were started have ended:
some places do not cut off the network (`bench.sandbox`), and such servers' ports run code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from actors.errors import LookaheadError
from deployments.bench import code_answers
from deployments.bench.grading import is_correct
from deployments.bench.problems import Problem
from deployments.bench.record import Measurement, Record, Review
from deployments.bench.time_use import acceptance_by_position, time_use
from deployments.bench.token_counts import Counts, TokenCounter
from deployments.server.client import get_json
from deployments.telemetry.timeline import read_trace


@dataclass(frozen=True, slots=True)
class Server:
    """Whom a row asks, under which model name; `counter` looks at its metrics."""

    http: httpx.AsyncClient
    model: str
    counter: TokenCounter


async def review_all(
    record: Record,
    problems: Sequence[Problem],
    servers: Mapping[str, Server],
    token_counts: Counts | None = None,
) -> None:
    """Look at every line that was not looked at yet; programs are left to `run_programs`. `servers` are by mode, and
    without them there are no traces to be had; `token_counts` belong to all of these lines together."""
    for line in record.unreviewed():
        trace = line.trace or await fetch_trace(line, servers.get(line.mode))
        found = review(line, problems[line.index], trace)
        record.review(line, replace(found, token_counts=token_counts))
        token_counts = None
        await asyncio.sleep(0)  # grading blocks: a Ctrl-C takes effect here


async def run_programs(record: Record, problems: Sequence[Problem], tick: Callable[[], None] = lambda: None) -> None:
    """Grade the answers that wait for it; `tick` is called once for each. Where nothing can be run they go on waiting,
    for a start on a machine where it can."""
    for line, before in record.waiting():
        correct, note = grade(line, problems[line.index])
        if correct is not None:
            record.review(line, replace(before, correct=correct, note=note or before.note, waits=False))
        tick()
        await asyncio.sleep(0)


def review(line: Measurement, problem: Problem, trace: Mapping[str, Any] | None) -> Review:
    """The grade of `line`, if no program has to be run for it, and what `trace` says of it."""
    waits = problem.code is not None and line.is_whole and code_answers.holds_program(line.text, problem.code)
    correct, note = (None, "") if waits else grade(line, problem)
    try:
        found = read_trace(dict(trace)) if trace and not {"error", "cut"} & trace.keys() else None
    except LookaheadError as error:
        found, note = None, note or str(error)
    if trace and "cut" in trace:
        note = note or "the server kept only the beginning of its trace"
    if trace and "spans" not in trace:
        note = note or str(trace.get("error") or "")
    return Review(
        started_at=line.started_at,
        request_id=line.request_id,
        correct=correct,
        note=note,
        time_use=time_use(found, line.latency_s) if found and line.is_whole else None,
        positions=acceptance_by_position(found) if found else None,
        waits=waits,
    )


def grade(line: Measurement, problem: Problem) -> tuple[bool | None, str]:
    """Whether the answer is right, and if not, why. Runs its program, if that is what was asked for."""
    if problem.code is None and problem.answer is None:
        return None, "the right answer is not known"
    if line.error is not None:
        return False, f"failed: {line.error}"
    if problem.code is not None:
        outcome = code_answers.judge(line.text, problem.code)
        return outcome.passed, outcome.note
    correct = is_correct(line.text, problem.answer or "", complete=line.finish_reason != "length")
    return correct, "" if correct else f"expected {problem.answer}"


async def fetch_trace(line: Measurement, server: Server | None) -> dict[str, Any] | None:
    """The step trace of `line`; None where there is none, {"error": ...} where it could not be had."""
    if server is None or line.speculation is None or not line.request_id:
        return None
    try:
        found = await get_json(server.http, f"/v1/traces/{line.request_id}")
    except LookaheadError as error:
        return {"error": str(error)}
    return found if isinstance(found, dict) else {"error": "the server's trace is not an object"}
