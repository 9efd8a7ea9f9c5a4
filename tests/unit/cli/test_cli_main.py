"""What every command promises: help with an example, and an answer at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

COMMANDS = ("chat", "bench", "trace", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(lookahead, command):
    end = lookahead(command, "--help")
    assert end.code == 0
    assert f"Example: lookahead {command}" in " ".join(end.out.replace("│", " ").split())


def test_help_lists_the_commands(lookahead):
    end = lookahead("--help")
    assert end.code == 0
    for command in (*COMMANDS, "serve", "models"):
        assert command in end.out


def test_wrong_usage_is_exit_code_2(lookahead):
    assert lookahead("trace").code == 2
    assert lookahead("nonsense").code == 2


def test_help_loads_nothing_heavy():
    script = "import sys, deployments.cli.main; print([m for m in ('ray', 'torch', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_signal_closes_the_stream_and_ends_with_130(server, kind):
    server.delays["lookahead"] = 60.0
    command = [sys.executable, "-m", "deployments.cli.main", "chat", "Hi", "--url", server.url]

    def as_at_a_terminal():
        """A background job of a shell starts with SIGINT ignored, and hands that down."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=as_at_a_terminal) as process:
        try:
            deadline = time.monotonic() + 60
            while not server.open_streams and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(kind)
            _, words = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert words.strip().splitlines()[-1] == "lookahead: stopped."
    deadline = time.monotonic() + 5
    while server.open_streams and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.num_closed_early == 1
