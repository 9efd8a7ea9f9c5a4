"""A replica whose engine dies, on a virtual clock, with connections of the product."""

from __future__ import annotations

import asyncio

import pytest

from actors.errors import RoleUnavailable
from deployments.engine_watch import WATCH_S, EngineWatch
from deployments.link.client import Link
from deployments.link.server import LinkServer
from tests.unit.clock import run_virtually


class Writer:
    """Whose engine dies when it is told to."""

    def __init__(self) -> None:
        self.is_dead = False

    async def check_health(self) -> None:
        if self.is_dead:
            raise RoleUnavailable("The engine has died.")

    async def wait(self) -> None:
        """A call that nothing ends."""
        await asyncio.sleep(1e6)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_callers_lose_a_replica_whose_engine_has_died_and_it_ends(is_stopped: bool) -> None:
    async def scene() -> set[str]:
        log: set[str] = set()
        writer, loop = Writer(), asyncio.get_running_loop()
        server = LinkServer(writer, {"wait"}, "r0", 4)
        link = await Link.open(await server.start("127.0.0.1"), 1e6)
        watch = EngineWatch(writer.check_health, server, lambda: log.add("the process ends"))
        try:
            await asyncio.sleep(5 * WATCH_S)
            assert link.is_open
            writer.is_dead = True
            died_at = loop.time()
            if is_stopped:
                watch.stop()
            call = asyncio.ensure_future(anext(link.items("wait")))
            await asyncio.wait({call}, timeout=2 * WATCH_S)
            if call.done():
                assert isinstance(call.exception(), RoleUnavailable)
                assert loop.time() - died_at <= 1.1 * WATCH_S
                log.add("the call is lost")
            else:
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
        finally:
            watch.stop()
            await link.aclose()
            await server.close()
        return log

    assert run_virtually(scene()) == (set() if is_stopped else {"the process ends", "the call is lost"})
