"""One call for each of many things, side by side, so many at a time.

Promises: the results come in the order of the things; the first failure ends the others, and is raised as it is;
nothing runs on when this returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")


async def for_each(
    call: Callable[[Thing], Awaitable[Result]], things: Sequence[Thing], concurrency: int | None = None
) -> list[Result]:
    """``call(thing)`` for each of `things`, at most `concurrency` of them running at once."""
    gate = asyncio.Semaphore(concurrency or max(1, len(things)))

    async def one(thing: Thing) -> Result:
        async with gate:
            return await call(thing)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(thing)) for thing in things]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
