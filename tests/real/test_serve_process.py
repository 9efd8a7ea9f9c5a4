"""`lookahead serve` as a process: whatever ends it, it ends all that it started, and says nothing that frightens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.real


def _children(pid: int) -> set[int]:
    """All processes below `pid`."""
    found: set[int] = set()
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, timeout=30, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in table.splitlines())}
    waiting = {pid}
    while waiting:
        waiting = {child for child, parent in parents.items() if parent in waiting} - found
        found |= waiting
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _as_at_a_terminal() -> None:
    """A background job of a shell starts with SIGINT ignored, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_signals_end_it_whole() -> None:
    """Two servers that start side by side, since that is what takes the time; each gets its own signal."""
    command = [sys.executable, "-m", "deployments.cli.main", "serve", "--profile", "scripted", "--port", "0"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    with ExitStack() as stack:
        servers = {}
        for kind in (signal.SIGINT, signal.SIGTERM):
            servers[kind] = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                    preexec_fn=_as_at_a_terminal,
                )
            )
            stack.callback(servers[kind].kill)
        for kind, server in servers.items():
            _ends_whole(server, kind)


def _ends_whole(server: subprocess.Popen[str], kind: signal.Signals) -> None:
    assert server.stdout is not None
    line = server.stdout.readline()
    url = line.split(" at ")[1].split("/v1")[0]
    assert httpx.get(f"{url}/ready", timeout=30).status_code == 200
    children = _children(server.pid)
    with _asked(url) as response:
        lines = response.iter_lines()
        next(lines)
        server.send_signal(kind)
        refused = _refused(url)
        rest = list(lines)
    out, words = server.communicate(timeout=60)
    assert [one for one in rest if one][-1] == "data: [DONE]", "what is under way comes to its end"
    assert len(rest) > 50, "and was not there yet when it was told to end"
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_served")
    assert (server.returncode, out) == (0, ""), kind
    cut = "Stopping: answers under way have 30 s more, then they are cut; Ctrl-C again cuts them now."
    assert words.splitlines()[-1] == cut
    assert "received" not in words
    deadline = time.monotonic() + 20
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in children if _is_alive(pid)], kind


def _asked(url: str) -> AbstractContextManager[httpx.Response]:
    """A stream of some seconds, as the target alone writes it."""
    body: dict[str, Any] = {"model": "lookahead-scripted", "stream": True, "speculation": {"mode": "target"}}
    body["messages"] = [{"role": "user", "content": "What is under way?"}]
    return httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60)


def _refused(url: str) -> httpx.Response:
    """What the first request gets that is not served any more."""
    deadline = time.monotonic() + 20
    while (answer := httpx.get(f"{url}/v1/models", timeout=30)).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer
