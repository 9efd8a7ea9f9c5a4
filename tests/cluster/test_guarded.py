"""Over real Ray processes: hostile connections through Serve's proxy, logs without secrets, and the audit log."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from deployments.telemetry.audit_reading import explain, find
from tests.cluster.conftest import Served
from tests.cluster.test_cluster import MODEL, ask
from tests.unit.gateway.wire import Wire

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

KEY = "lk-marked-key-5512"
MARK = "marked-prompt-7741"


def body(**more: Any) -> bytes:
    question = {"role": "user", "content": "Who is there?"}
    return json.dumps({"model": MODEL, "messages": [question], "max_tokens": 8, **more}).encode()


async def answers_on(url: str) -> None:
    """The server still serves."""
    async with Wire(url) as wire:
        await wire.send(wire.post(body()))
        assert (await wire.answer()).startswith(b"HTTP/1.1 200")


async def test_what_only_a_socket_can_do_behind_serves_proxy(served: Served) -> None:
    url = served.url
    async with Wire(url) as wire:  # 100 MB are refused for what they say they are: nobody waits for them
        await wire.send(wire.head("POST", "/v1/chat/completions", f"content-length: {100 * 2**20}"))
        assert (await wire.answer()).startswith(b"HTTP/1.1 413")
    await answers_on(url)
    drips = [Wire(url) for _ in range(20)]
    for wire in drips:
        await wire.open()
        await wire.send(wire.head("POST", "/v1/chat/completions", "content-length: 1000") + b"{")
    await answers_on(url)
    for wire in drips:
        wire.finish()
        await wire.close()
    async with Wire(url) as wire:  # headers beyond the bound
        lines = [f"x-{n}: {'y' * 300}" for n in range(150)]
        await wire.send(wire.head("POST", "/v1/chat/completions", f"content-length: {len(body())}", *lines) + body())
        answer = await wire.answer()
        assert answer[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400"), answer[:300]
    for raw in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n"):
        async with Wire(url) as wire:
            await wire.send(raw)
            wire.finish()
            answer = await wire.answer()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:300]
    async with Wire(url) as wire:  # closed by half, in the middle of a stream
        await wire.send(wire.post(body(stream=True, max_tokens=500)))
        await wire.read_some()
        wire.finish()
        await wire.answer()
    for _ in range(100):
        if served.metric("lookahead_requests_in_flight") == 0:
            break
        await asyncio.sleep(0.1)
    assert served.metric("lookahead_requests_in_flight") == 0
    await answers_on(url)


def logs() -> list[Path]:
    """All that Ray and its workers have logged."""
    session = ray._private.worker._global_node.get_session_dir_path()
    return [file for file in Path(session, "logs").rglob("*") if file.is_file()]


def test_no_log_of_the_cluster_has_a_key_a_prompt_or_a_text(served: Served) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = ask(served, f"Count {MARK}", "marked")
    words = answer.choices[0].message.content[:40]
    for wrong in ({"messages": [{"role": MARK, "content": 1}]}, {"model": MARK}, {MARK: 1}, {"max_tokens": 10**9}):
        marked = body(**{"messages": [{"role": "user", "content": MARK}]} | wrong)
        refused = httpx.post(f"{served.url}/v1/chat/completions", content=marked, headers=headers)
        assert refused.status_code in (400, 404, 415)
    files = logs()
    assert any(file.stat().st_size for file in files)
    for file in files:
        text = file.read_bytes()
        for secret in (KEY, MARK, words):
            assert secret.encode() not in text, file


def test_the_audit_log_says_why_each_step_stands(served: Served) -> None:
    answer = ask(served, f"Why {MARK}?", "audited", speculation={"verifier": "numbers"})
    summary: Any = answer.model_extra["speculation"]
    folder = Path(served.config.telemetry.audit.path or "")
    for _ in range(100):
        found = find(folder, "audited") if "audited" in contents(folder) else None
        if found is not None and found.end is not None:
            break
        time.sleep(0.05)
    assert found is not None
    assert found.end is not None
    assert found.end["outcome"] == "finished"
    steps = [d["step"] for d in found.decisions if d["step"] is not None]
    assert steps == list(range(summary["num_steps"]))
    accepted = [d for d in found.decisions if d["outcome"] == "accepted"]
    assert len(accepted) == summary["num_accepted_steps"]
    assert "the draft's step was accepted, because" in " ".join(explain(found, accepted[0]["step"]))
    assert MARK not in contents(folder)


def contents(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.iterdir())
