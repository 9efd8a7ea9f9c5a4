"""The guard, on real processes: a parent that is killed, and children as vLLM starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.engines.guard import Guard, engine_processes

PARENT = """
import multiprocessing, subprocess, sys, time
from actors.engines.guard import Guard

def sleep_with_a_child(pipe):
    child = subprocess.Popen(["sleep", "600"])
    pipe.send(child.pid)
    time.sleep(600)

if __name__ == "__main__":
    guard = Guard.start()
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    engine = spawn.Process(target=sleep_with_a_child, args=(theirs,))
    engine.start()
    other = subprocess.Popen(["sleep", "600"])
    print(guard.pid, engine.pid, mine.recv(), other.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with a guard, an engine process, its child, and a child of another kind: their ids in this order."""
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        time.sleep(1.5)  # the guard has looked once
        yield process, pids
        process.kill()
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(pids: list[int], seconds: float) -> list[int]:
    """Those of `pids` that are still there after `seconds`."""
    deadline = time.monotonic() + seconds
    while (alive := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_engine_process_outlives_a_killed_parent(
    parent: tuple[subprocess.Popen[str], list[int]], how: signal.Signals
) -> None:
    process, (guard, engine, grandchild, other) = parent
    assert set(engine_processes(process.pid)) == {engine, grandchild}
    assert all(map(is_alive, (guard, engine, grandchild, other)))
    process.send_signal(how)
    assert wait_until_gone([guard, engine, grandchild], 10) == []
    assert is_alive(other)


def test_a_stopped_guard_is_gone_and_may_be_stopped_again() -> None:
    guard = Guard.start()
    pid = guard.pid
    assert pid is not None
    assert is_alive(pid)
    guard.stop()
    guard.stop()
    assert not is_alive(pid)
    assert guard.pid is None
