"""Blocks as they are asked, without a server: who meets whom, and what the engines counted meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from deployments.bench import runner
from deployments.bench.problems import Problem
from deployments.bench.record import Record, latest
from deployments.bench.review import Server
from deployments.bench.rows import rows
from deployments.bench.runner import Manner, Runner
from deployments.server.client import Question, Reply
from tests.unit.bench.test_plan_and_record import PLAN

FOUR = replace(PLAN, num_problems=4, modes=("target",), concurrency=(2,))
PROBLEMS = [Problem(f"How many, {index}?", "4") for index in range(4)]


@dataclass
class Endpoint:
    """Stands where `ask` and the token counter do: each question drafts two tokens; `fails` are its words that fail."""

    fails: str = ""
    num_asked: int = 0
    salts: list[str | None] = field(default_factory=list)
    num_open: int = 0
    most_open: int = 0
    seen: int = 0

    async def ask(self, http: Any, question: Question, timeout_s: float) -> Reply:
        self.salts.append(question.cache_salt)
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        await asyncio.sleep(0.001)
        self.num_open -= 1
        self.num_asked += 1
        failed = self.fails and self.fails in question.messages[0].content
        usage = {"completion_tokens": 3}
        return Reply(text="The answer is 4.", usage=usage, latency_s=0.1, error="It broke." if failed else None)

    async def since_last(self) -> dict[str, dict[str, float]]:
        new, self.seen = self.num_asked - self.seen, self.num_asked
        return {"target": {"num_drafts": new, "num_draft_tokens": 2.0 * new, "num_accepted_tokens": new}}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    found = Endpoint()
    monkeypatch.setattr(runner, "ask", found.ask)
    return found


def measure(record: Record, endpoint: Endpoint, *, retry_failed: bool = False) -> None:
    servers: Any = {"target": Server(None, "m", endpoint)}
    asyncio.run(Runner(servers, FOUR, PROBLEMS, record, Manner(9.0, retry_failed=retry_failed)).run())


def test_what_failed_is_tried_again_under_its_own_load_and_tokens_are_counted_once(tmp_path, endpoint) -> None:
    with Record(tmp_path) as record:
        endpoint.fails = "0?"
        measure(record, endpoint)
        endpoint.fails, endpoint.most_open = "", 0
        measure(record, endpoint, retry_failed=True)
        measure(record, endpoint, retry_failed=True)
        (row,) = rows(record.lines, FOUR)
        starts = {line.block_started_at for line in latest(record.lines).values()}
    assert (row["num_requests"], row["num_failed"], row["num_tried_again"]) == (4, 0, 4)
    assert (endpoint.most_open, len(starts)) == (2, 1)
    assert row["token_acceptance"]["target"]["num_draft_tokens"] == 8


def test_a_run_that_was_stopped_goes_on_with_whole_blocks(tmp_path, endpoint) -> None:
    with Record(tmp_path) as record:
        measure(record, endpoint)
    whole = record.path.read_text().splitlines(keepends=True)
    record.path.write_text("".join(whole[:3]))
    with Record(tmp_path) as record:
        endpoint.most_open = 0
        measure(record, endpoint)
        assert {line.block_started_at for line in latest(record.lines).values()} == {record.lines[-1].block_started_at}
    assert (endpoint.most_open, len(record.lines)) == (2, 7)


def test_no_load_finds_the_prompts_of_the_one_before_in_a_cache(tmp_path, endpoint) -> None:
    """Nor does vLLM's own server, which takes salts as well; one that we do not know may refuse them."""
    modes = ("target", "vllm", "plain")
    plan = replace(PLAN, num_problems=2, modes=modes, concurrency=(1, 2))
    with Record(tmp_path) as record:
        servers: Any = dict.fromkeys(modes, Server(None, "m", endpoint))
        asyncio.run(Runner(servers, plan, PROBLEMS, record, Manner(9.0, salt="s")).run())
    assert set(endpoint.salts) == {None, *(f"s {mode}, {num} at once" for mode in modes[:2] for num in (1, 2))}
    assert endpoint.salts.count("s target, 2 at once") == 2
