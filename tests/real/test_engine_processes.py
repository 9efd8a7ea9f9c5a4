"""No engine process outlives its parent, whatever ends the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from actors.engines.guard import engine_processes

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

OPTIONS = {"dtype": "float32", "max_model_len": 256, "enforce_eager": True, "load_format": "dummy"}

PARENT = f"""
import asyncio, sys
from actors.engines import create_engine

async def main():
    engine = await create_engine("vllm", "package:smollm2-135m-instruct", {OPTIONS!r}, sys.argv[1])
    print("ready", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    """Two parents that start side by side, since that is what takes the time; each is ended in its own way."""
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "VLLM_CPU_KVCACHE_SPACE": "1"}
    with ExitStack() as stack:
        parents = {
            how: stack.enter_context(
                subprocess.Popen([sys.executable, program, core], stdout=subprocess.PIPE, text=True, env=environment)
            )
            for how, core in ((signal.SIGKILL, "0"), (signal.SIGTERM, "1"))
        }
        children = {how: started(parent) for how, parent in parents.items()}
        time.sleep(1.5)  # the guards have looked
        for how, parent in parents.items():
            parent.send_signal(how)
            parent.wait(10)
    deadline = time.monotonic() + 10
    while (alive := still_there(children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == {}


def started(parent: subprocess.Popen[str]) -> set[int]:
    """The engine processes of `parent`, when it says that it is ready."""
    assert parent.stdout is not None
    assert "ready\n" in iter(parent.stdout.readline, "")
    children = set(engine_processes(parent.pid))
    assert len(children) >= 2, "the engine and its worker"
    return children


def still_there(children: dict[signal.Signals, set[int]]) -> dict[signal.Signals, set[int]]:
    """Those of `children` that are alive, by what ended their parent."""
    alive = {how: {pid for pid in pids if is_alive(pid)} for how, pids in children.items()}
    return {how: pids for how, pids in alive.items() if pids}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
