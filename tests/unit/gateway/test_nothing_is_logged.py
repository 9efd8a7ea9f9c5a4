"""No log, no traceback and no terminal has a key, a prompt or a text, from the gateway down to the engines."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.config import Config, validate_config
from deployments.gateway.api import create_app
from deployments.generation import GenerationRequest, Output
from tests.unit.coordinator.bench import DRAFT, TARGET, Bench
from tests.unit.coordinator.bench import config as coordinated
from tests.unit.gateway.script import chat, client_of, completion

KEY = "lk-marked-key-5512"
MARK = "marked-prompt-7741"


class Over:
    """`Backend` over a coordinator in this process."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._coordinator: Any = None

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Output]:
        if self._coordinator is None:
            self._coordinator = await self._bench.coordinator()
        async for output in self._coordinator.generate(request):
            yield output

    async def readiness(self) -> dict[str, bool]:
        return {"target": True}

    async def trace(self, request_id: str) -> bytes | None:
        return None

    async def metrics(self) -> str:
        return str(self._coordinator.metrics())

    def close(self) -> None:
        self._coordinator.close()


def settings(folder: Path) -> Config:
    made = coordinated(max_attempts=2).model_dump()
    made["gateway"]["api_keys"] = [{"key": KEY, "name": "alice"}]
    made["telemetry"]["audit"] = {"path": str(folder)}
    return validate_config(made, "test")


def contents(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.iterdir())


class Failing:
    async def judge(self, asked: object) -> Any:
        raise RuntimeError("a defect")


@pytest.mark.parametrize("broken", ["nothing", "draft", "verifier", "target"])
async def test_all_that_is_logged_of_requests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], broken: str
) -> None:
    caplog.set_level(logging.DEBUG)
    made = settings(tmp_path)
    bench = Bench(
        TARGET.__class__(num_steps=3, words=2), DRAFT.__class__(role="draft", num_steps=3, words=2, agree=0.2), made
    )
    if broken == "verifier":
        bench.roles = bench.roles.__class__(bench.roles.target, bench.roles.drafter, Failing())  # type: ignore[arg-type]
    elif broken == "draft":
        bench.draft_engine.break_down("told to")
    elif broken == "target":
        bench.target_engine.break_down("told to")
    backend = Over(bench)
    headers = {"authorization": f"Bearer {KEY}"}
    message = [{"role": "user", "content": MARK}]
    async with client_of(create_app(made, lambda: backend)) as client:
        for stream in (False, True):
            body = chat(model=made.served_model_name, messages=message, stream=stream, stop=[MARK])
            answer = await client.post("/v1/chat/completions", headers=headers, json=body)
            failed = answer.status_code != 200 or '"error"' in answer.text
            assert failed == (broken == "target"), answer.text
        wrong = [
            chat(model=MARK),
            chat(**{MARK: 1}),
            completion(prompt=MARK, temperature=MARK),
            chat(messages=[{"role": MARK, "content": 1}]),
        ]
        for body in wrong:
            assert (await client.post("/v1/chat/completions", headers=headers, json=body)).status_code in (400, 404)
        refused = await client.post("/v1/chat/completions", headers={"authorization": f"Bearer {KEY}x"}, json=chat())
        assert refused.status_code == 401
        assert (await client.post("/v1/completions", headers=headers, content=MARK.encode())).status_code == 415
    backend.close()
    shown = capfd.readouterr()
    written = contents(tmp_path)
    assert [r["key"] for r in map(json.loads, written.splitlines()) if r["record"] == "end"] == ["alice", "alice"]
    for where in (caplog.text, shown.out, shown.err, written):
        for secret in (KEY, MARK, "counts"):
            assert secret not in where.replace('"counts"', "")
