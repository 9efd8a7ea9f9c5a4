"""What every command promises: help with an example, and an answer at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from actors.errors import RequestError
from deployments.cli.terminal import all_written
from tests.unit.test_interrupts import ended

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


def test_a_command_that_was_stopped_is_not_stopped_again(lookahead, server, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("deployments.cli.chat.served_model", interrupted)
    assert lookahead("chat", "Hi", "--url", server.url).code == 130
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_installed_command_is_stopped_while_it_imports(tmp_path, kind):
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    module, function = project["project"]["scripts"]["lookahead"].split(":")
    (tmp_path / "typer.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from {module} import {function}; {function}()"
    assert ended(script, kind) == (130, "lookahead: stopped.\n")


def test_the_installed_command_does_what_the_module_does():
    done = subprocess.run([sys.executable, "-m", "deployments.cli.entry", "nonsense"], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"No such command" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [("keys", "new"), ("models", "list", "--json")])
def test_a_full_disk_under_stdout_is_one_sentence(command, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli.main", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 1
    assert done.stderr == "lookahead: The output could not be written: No space left on device.\n"


def test_a_key_that_nobody_sees_is_an_error():
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli.main", "keys", "new"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        preexec_fn=lambda: os.close(1),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("lookahead: There is no stdout, so what this command made went nowhere")


def test_other_errors_of_the_system_are_not_taken_for_it(capsys):
    with pytest.raises(RequestError, match=r"^/here could not be written: No space"), all_written():
        raise OSError(errno.ENOSPC, "No space left on device", "/here")
    with pytest.raises(PermissionError), all_written():
        raise PermissionError(errno.EACCES, "Permission denied", "/here")
    with pytest.raises(SystemExit) as end, all_written():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert end.value.code == 1
