"""No engine process outlives its parent, whatever ends the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.engines.guard import engine_processes

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

OPTIONS = {"dtype": "float32", "max_model_len": 256, "enforce_eager": True, "load_format": "dummy"}

PARENT = f"""
import asyncio, os
from actors.engines import create_engine

async def main():
    engine = await create_engine("vllm", "package:smollm2-135m-instruct", {OPTIONS!r}, "0")
    print("ready", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_killed_parent(tmp_path: Path, how: signal.Signals) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "VLLM_CPU_KVCACHE_SPACE": "1"}
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        lines = iter(parent.stdout.readline, "")
        assert "ready\n" in lines
        children = engine_processes(parent.pid)
        assert len(children) >= 2, "the engine and its worker"
        time.sleep(1.5)  # the guard has looked
        parent.send_signal(how)
        parent.wait(10)
    deadline = time.monotonic() + 10
    while (alive := [pid for pid in children if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
