"""Work that several callers ask for at once is done once, and its results are kept for those who ask later.

Promises: equal keys share one running piece of work; a caller that is cancelled takes nothing from the others, and the
work itself is cancelled, and awaited, with its last caller; a failure reaches all who wait and is not kept; at most
`num_kept` results are kept, the one that was asked for longest ago goes first. Belongs to one event loop at a time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class _Running(Generic[Result]):
    task: asyncio.Task[Result]
    num_callers: int = 0


class SharedWork(Generic[Result]):
    """Results by key. `keep` says of a result whether it may be given again."""

    def __init__(self, num_kept: int, keep: Callable[[Result], bool]) -> None:
        self._num_kept = num_kept
        self._keep = keep
        self._kept: OrderedDict[Hashable, Result] = OrderedDict()
        self._running: dict[Hashable, _Running[Result]] = {}

    async def result(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, Result]]) -> tuple[Result, bool]:
        """The result for `key`, and whether somebody else's work gave it: kept from before, or still running."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key], True
        running = self._running.get(key)
        is_shared = running is not None
        if running is None:
            running = self._running[key] = _Running(asyncio.create_task(work()))
        running.num_callers += 1
        try:
            result = await asyncio.shield(running.task)
        finally:
            running.num_callers -= 1
            if not running.num_callers:
                # A caller that comes from now on starts anew: what it would join may be cancelled.
                self._running.pop(key, None)
                if not running.task.done():
                    running.task.cancel()
                    await asyncio.gather(running.task, return_exceptions=True)
        if self._keep(result):
            self._kept[key] = result
            while len(self._kept) > self._num_kept:
                self._kept.popitem(last=False)
        return result, is_shared
