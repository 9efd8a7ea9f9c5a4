"""An event loop on a virtual clock: sleeping costs nothing, and the order of things is what it would have been.

Promises: time jumps to the next thing that is due whenever nothing else can happen; it begins at 0. What waits for ever
is an error, after `THREAD_S` real seconds in which a thread could have gone on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

THREAD_S = 20.0


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Time jumps to the next thing that is due whenever nothing else can happen."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            if ready := select(0):  # a connection has something, or a thread
                return ready
            if timeout is not None:
                self._now += timeout
                return select(0)
            ready = select(THREAD_S)  # nothing is due, so only a thread can go on
            if not ready:
                raise RuntimeError("everybody waits for ever")
            return ready

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        """Seconds since the loop was made, on its own clock."""
        return self._now


def run_virtually(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work` on a virtual clock that starts at 0; RuntimeError if it leaves something running."""
    loop = VirtualClockLoop()
    try:
        asyncio.set_event_loop(loop)
        result = loop.run_until_complete(work)
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if left:
            raise RuntimeError(f"still running: {left}")
        loop.run_until_complete(loop.shutdown_asyncgens())
        return result
    finally:
        asyncio.set_event_loop(None)
        loop.close()
