"""A replica whose engine has died goes with it.

Promises: within about `WATCH_S` of the engine's death every caller has lost its connection, as to a replica that died,
and the process ends, which Serve takes for a crash. By its own health check Serve would believe it after three
failures, half a minute, and meanwhile a replica that fails every call at once looks like the one with the least to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from deployments.link.server import LinkServer

logger = logging.getLogger(__name__)

WATCH_S = 1.0


def _exit() -> None:
    logging.shutdown()
    os._exit(1)  # nothing in this process may hold it up: what the engine left behind, its guard ends


class EngineWatch:
    """Looks at an engine as long as it is not stopped; `end` ends the process."""

    def __init__(
        self, check_health: Callable[[], Awaitable[None]], server: LinkServer, end: Callable[[], None] = _exit
    ) -> None:
        self._check_health = check_health
        self._server = server
        self._end = end
        self._task = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """The engine is to end. Safe to call twice."""
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._check_health()
            except Exception as error:  # as Serve's health check: whatever is raised
                logger.error("This replica ends, since its engine does not work any more: %s", error)
                break
        try:
            await self._server.close()
        finally:
            self._end()
