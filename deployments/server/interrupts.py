"""Ctrl-C and SIGTERM while Ray has the process.

Promises: one that the main thread does not come to within seconds, since it waits in Ray's own code, ends the process
all the same; Ray's handlers are in the place of ours no longer than Ray starts, and end as ours do; what has begun to
end is not interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

GRACE_S = 5.0
"""How long the main thread has to leave the body of `answered` after a signal."""
STOPPED = 130


@contextlib.contextmanager
def answered(grace_s: float = GRACE_S) -> Iterator[None]:
    """While the body runs, SIGINT and SIGTERM are answered even if the main thread waits where Python handles neither,
    as in Ray's C++: after `grace_s` the process says that it is stopped and ends. The kernel, or where that cannot
    Ray's reaper, ends with it what Ray has started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # a signal handler writes to it
    left = threading.Event()
    watcher = threading.Thread(target=_end_unless, args=(left, os.fdopen(reader, "rb", 0), grace_s), daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.close(writer)
        watcher.join()


def _end_unless(left: threading.Event, signals: BinaryIO, grace_s: float) -> None:
    """Ends the process `grace_s` after one of the `signals` to stop, unless the body was left by then."""
    with signals:
        while number := signals.read(1):
            if number[0] in (signal.SIGINT, signal.SIGTERM) and not left.wait(grace_s):
                print("lookahead: stopped.", file=sys.stderr, flush=True)
                os._exit(STOPPED)


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Ray puts handlers of SIGTERM in the place of ours. One ends the process with code 1, which is taken for what ours
    does; the last one prints a stack and aborts, and ours is put back for it."""
    own = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        if callable(own):
            own(signal.SIGTERM, None)
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave half of the cluster running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
