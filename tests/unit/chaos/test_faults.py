"""Faults strike processes and are taken back: against processes that are called like replicas, without Ray."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.chaos import faults as chaos_faults
from deployments.chaos.faults import FaultMaker, striking
from deployments.chaos.leftovers import processes_left
from deployments.chaos.plan import Fault
from deployments.chaos.replicas import Replica, _birth


@pytest.fixture
def victim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    code = "import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, "ray::ServeReplica:lookahead:target"])
    while (birth := _birth(process.pid)) is None:
        pass
    replica = Replica("target", "abc", process.pid, birth, "RUNNING")
    monkeypatch.setattr(chaos_faults, "replicas_now", lambda: [replica] if replica.is_alive else [])
    yield replica
    process.kill()
    process.wait()


def state(replica: Replica) -> str:
    return Path(f"/proc/{replica.pid}/stat").read_text().rsplit(") ", 1)[1][0]


def fault(kind: str, number: int = 0, at_s: float = 0.0, garbage: str = "", role: str = "target") -> Fault:
    return Fault(number, at_s, role, kind, 0.5, 0.4, garbage)


async def test_a_frozen_process_runs_again_and_is_struck_once_at_a_time(victim: Replica, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    maker = FaultMaker(tmp_path, told.append)
    await maker.strike(fault("freeze"))
    await asyncio.sleep(0.1)
    assert state(victim) == "T"
    await maker.strike(fault("kill", 1))
    assert [event["event"] for event in told] == ["fault", "nobody to strike"]
    await asyncio.sleep(0.5)
    assert state(victim) in "SR"
    assert told[-1]["event"] == "fault over"


@pytest.mark.parametrize(("kind", "garbage"), [("freeze", ""), ("garbage", "broken"), ("slow", "")])
async def test_what_ends_the_body_takes_everything_back(
    victim: Replica, tmp_path: Path, kind: str, garbage: str
) -> None:
    maker = FaultMaker(tmp_path, lambda event: None)

    def is_struck() -> bool:
        return state(victim) == "T" if kind == "freeze" else (tmp_path / f"{victim.pid}.json").exists()

    async def body() -> None:
        async with striking(maker, [fault(kind, garbage=garbage)]):
            await asyncio.sleep(0.15)
            assert is_struck()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    assert not is_struck()
    assert state(victim) in "SR"


async def test_a_killed_process_is_gone_and_its_number_is_not_struck_again(victim: Replica, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    maker = FaultMaker(tmp_path, told.append)
    assert Replica("target", "abc", victim.pid, victim.birth + 1, "RUNNING").is_alive is False
    async with striking(maker, [fault("kill"), fault("kill", 1, 0.2)]) as strikes:
        await strikes
    assert not victim.is_alive
    assert [event["event"] for event in told] == ["fault", "nobody to strike"]
    assert processes_left(maker.seen) == []
