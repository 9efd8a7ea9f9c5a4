"""One engine after the other where several start on one card.

vLLM sizes its cache by the whole card's free memory before and after a trial pass, and takes it that nobody else's use
changes in between: of two that start at once, one gets too little cache or none.

Promises: of those that take a turn on a card, one at a time has it, whatever other cards each of them is on; who does
not know its cards has the node to itself. A turn ends with the body, whatever ends that, and with the process. Files
are locked by Linux and macOS alike (flock(2)); the kernel lets go of a dead process's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

POLL_S = 0.2


def lock_file(card: str | None = None) -> Path:
    """The file that this user's engines on `card` of this node lock; of None the node's own."""
    name = f"lookahead-engine-start-{os.getuid()}"
    if card is not None:
        name += "-" + re.sub(r"[^\w.-]", "-", card)  # a part of a card may have slashes in its name
    return Path(tempfile.gettempdir()) / f"{name}.lock"


@contextlib.asynccontextmanager
async def turn(cards: Iterable[str] = ()) -> AsyncIterator[None]:
    """Waits until no other process (or task) has the turn of any of `cards`, in this node's names for them, and has it
    while the body runs; without any, until nobody on the node has one."""
    wanted = sorted(set(cards))  # in one order for all: of two that wait for each other neither would start
    async with contextlib.AsyncExitStack() as held:
        await held.enter_async_context(_locked(lock_file(), fcntl.LOCK_SH if wanted else fcntl.LOCK_EX))
        for card in wanted:
            await held.enter_async_context(_locked(lock_file(card), fcntl.LOCK_EX))
        yield


@contextlib.asynccontextmanager
async def _locked(file: Path, kind: int) -> AsyncIterator[None]:
    # Not inherited: an engine's process that outlived its parent would keep the lock.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # asked again rather than waited for, so that a cancelled start ends at once
                await asyncio.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)
