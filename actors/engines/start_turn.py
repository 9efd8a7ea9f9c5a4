"""One engine after the other where several start on one card.

vLLM sizes its cache by the whole card's free memory before and after a trial pass, and takes it that nobody else's use
changes in between: of two that start at once, one gets too little cache or none.

Promises: of those that take a turn on a node, one at a time has it; it ends with the body, whatever ends that, and with
the process. Files are locked by Linux and macOS alike (flock(2)); the kernel lets go of a dead process's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

POLL_S = 0.2


def lock_file() -> Path:
    """The file of this node that this user's engines lock."""
    return Path(tempfile.gettempdir()) / f"lookahead-engine-start-{os.getuid()}.lock"


@contextlib.asynccontextmanager
async def turn(file: Path | None = None) -> AsyncIterator[None]:
    """Waits until no other process (or task) has the turn of `file`, and has it while the body runs."""
    # Not inherited: an engine's process that outlived its parent would keep the lock.
    descriptor = os.open(file or lock_file(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # asked again rather than waited for, so that a cancelled start ends at once
                await asyncio.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)
