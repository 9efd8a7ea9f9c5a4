"""Ends the processes of an engine whose parent died without saying goodbye.

Promises: whatever ends a process that holds an engine (SIGKILL and SIGTERM too), the engine's processes are killed
within about two seconds, and nobody else's. The guard is a process of its own, because a killed parent can do nothing
any more; it looks at its parent's id once a second and ends with it. Linux only: elsewhere `start` gives no guard.

This file is also the guard's program, so it imports the standard library alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

POLL_S = 1.0
"""How often the guard looks whether its parent is there, and for engine processes until it has found some."""
KNOWN_POLL_S = 10.0
"""How often it looks for more of them. A look costs some two milliseconds of CPU per hundred processes of the machine;
what the known ones have started in between is found at the end."""
ENGINE_MARKS = (b"VLLM::", b"from multiprocessing.spawn import")
"""Command lines of engine processes: vLLM's own titles, and what a spawned process is called before it has one."""


class Guard:
    """A running guard over the engine processes that this process starts; `stop` it when they have ended."""

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        self._process = process

    @classmethod
    def start(cls) -> Guard:
        """Start guarding, before the first engine process is made."""
        if not sys.platform.startswith("linux"):
            return cls(None)
        command = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid())]
        # A session of its own keeps a Ctrl-C, which ends the whole group of the parent, away from the guard.
        guard = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # nosec B603 # our own file
        return cls(guard)

    @property
    def pid(self) -> int | None:
        """The guard's process id, while there is one."""
        return self._process.pid if self._process is not None else None

    def stop(self) -> None:
        """End the guard. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def watch(parent: int) -> None:
    """Remember `parent`'s engine processes while it lives, and kill them once it is gone."""
    engine: dict[int, str] = {}
    next_look = 0.0
    while os.getppid() == parent:
        if time.monotonic() >= next_look:
            engine = engine_processes(parent)
            next_look = time.monotonic() + (KNOWN_POLL_S if engine else POLL_S)
        time.sleep(POLL_S)
    running = _running()
    # An id that was given to another process since has another start time.
    roots = {pid for pid, started in engine.items() if pid in running and running[pid][1] == started}
    for pid in roots | _descendants(roots, running):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def engine_processes(parent: int) -> dict[int, str]:
    """The ids and start times of `parent`'s children that are an engine's, and of all that these started."""
    running = _running()
    children = {pid for pid, (owner, _) in running.items() if owner == parent and _is_engine(pid)}
    return {pid: running[pid][1] for pid in children | _descendants(children, running)}


def _descendants(roots: set[int], running: dict[int, tuple[int, str]]) -> set[int]:
    found: set[int] = set()
    newest = roots
    while newest:
        newest = {pid for pid, (owner, _) in running.items() if owner in newest} - found
        found |= newest
    return found


def _running() -> dict[int, tuple[int, str]]:
    """Every process: its parent's id, and its start time, which tells it from a later one of the same id."""
    running: dict[int, tuple[int, str]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # After the command's name, which is in parentheses and may hold anything: state, parent, ..., start time.
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if len(fields) > 19:
                running[int(name)] = (int(fields[1]), fields[19].decode())
    return running


def _is_engine(pid: int) -> bool:
    command = _read(f"/proc/{pid}/cmdline")
    return any(mark in command for mark in ENGINE_MARKS)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # the process has just ended
        return b""


if __name__ == "__main__":
    watch(int(sys.argv[1]))
