"""Signals while Ray has the process: answered though the main thread does not come to them, else left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import FrameType

import pytest

from deployments.server.interrupts import own_sigterm

DEAF = """
import signal, threading, time
from deployments.server.interrupts import answered
with answered(0.2):
    threading.Timer(1, print, ["ready"], {"flush": True}).start()
    # as in a call into C++: whoever is told of the signal, it is not the main thread
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    time.sleep(60)
"""
AWAKE = """
import signal, sys, time
from deployments.server.interrupts import answered
try:
    with answered(0.2):
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.6)
    sys.exit(7)
"""
AFTERWARDS = """
import signal, sys, time
from deployments.server.interrupts import answered
with answered(0.2):
    pass
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.6)
    sys.exit(7)
"""


def ended(script: str, kind: signal.Signals) -> tuple[int, str]:
    """Exit code and stderr of `script`, which is sent `kind` when it has printed a line."""

    def as_at_a_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], preexec_fn=as_at_a_terminal, **pipes) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(kind)
            _, words = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, words


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_process_whose_main_thread_does_not_answer_ends(kind: signal.Signals) -> None:
    handled = "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)"
    assert ended(handled + DEAF, kind) == (130, "lookahead: stopped.\n")


@pytest.mark.parametrize("script", [AWAKE, AFTERWARDS])
def test_one_that_answers_ends_as_it_will(script: str) -> None:
    assert ended(script, signal.SIGINT) == (7, "")


def test_what_ray_s_handler_of_sigterm_ends_is_ended_as_by_ours() -> None:
    def ours(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def ray_s(number: int, frame: FrameType | None) -> None:
        sys.exit(1)

    def taken() -> None:
        with own_sigterm():
            signal.signal(signal.SIGTERM, ray_s)
            signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with pytest.raises(KeyboardInterrupt):
            taken()
        assert signal.getsignal(signal.SIGTERM) is ours
        with own_sigterm():
            signal.signal(signal.SIGTERM, ray_s)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
