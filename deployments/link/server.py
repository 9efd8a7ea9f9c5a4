"""The replica's end: runs what callers ask for.

Promises: a call that its caller ends, or whose caller is gone or silent, is cancelled at once and its work closed; an
error reaches the caller as an error of `actors.errors`, what nobody expected without its words, which are in the log; a
caller that reads slowly holds back its own calls only; after `drain` nothing runs any more, and no caller had more to
ask and nobody else to ask it of.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection
from contextlib import aclosing
from typing import Any

from actors.errors import LookaheadError, RoleUnavailable
from deployments.link.frames import (
    ALIVE,
    CALL,
    DONE,
    END,
    FAILED,
    ITEM,
    KEEP,
    KEEPS,
    LEAVING,
    LOAD,
    MORE,
    NEEDS,
    RESULT,
    SECRET_BYTES,
    Address,
    Connection,
)
from deployments.link.kept import NUM_PLACES, Keeper

logger = logging.getLogger(__name__)

TICK_S = 0.1
"""How often the load is looked at. What has changed is told at once, anything else every `HEARTBEAT_TICKS`."""
HEARTBEAT_TICKS = 10
CALLER_SILENCE_S = 15.0
"""A caller that was not heard of for so long is gone, or as good as that: its work is ended."""
WINDOW = 256
"""So many items of a call may be on their way before its reader has taken any of them."""


class LinkServer:
    """Serves `methods` of `served` to whoever knows the secret.

    `load` says how full the replica is (1: every further call waits); without it that is the calls over `capacity`.
    """

    def __init__(
        self,
        served: object,
        methods: Collection[str],
        replica: str,
        capacity: int,
        load: Callable[[], float] | None = None,
    ) -> None:
        self.served = served
        self.methods = frozenset(methods)
        self.replica = replica
        self._capacity = capacity
        self._load = load if load is not None else lambda: self.num_calls / capacity
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._callers: set[_Caller] = set()
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._address: Address | None = None
        self._is_leaving = False
        self.changed = asyncio.Event()
        """Set when `is_needed` may have become false."""

    @property
    def num_calls(self) -> int:
        """Calls that run now."""
        return len(self._tasks())

    @property
    def is_needed(self) -> bool:
        """Whether calls run, or this replica is to leave and not every caller has said that it can do without."""
        waits = self._is_leaving and any(caller.may_need for caller in self._callers)
        return waits or bool(self._tasks())

    @property
    def address(self) -> Address:
        """Where to call; after `start`."""
        if self._address is None:
            raise RoleUnavailable("The replica does not listen yet.")
        return self._address

    async def start(self, host: str) -> Address:
        """Listen on `host`, on a port that is free."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Caller(self, self._secret), host, 0)
        port = self._server.sockets[0].getsockname()[1]
        self._address = Address(self.replica, host, port, self._secret, self._capacity)
        self._ticker = asyncio.create_task(self._tick())
        return self._address

    async def drain(self) -> None:
        """Tell all callers to go elsewhere, and wait until no call runs and each of them can."""
        self._is_leaving = True
        for caller in self._callers:
            caller.say(LEAVING)
        while self.is_needed:
            self.changed.clear()
            await self.changed.wait()

    async def close(self) -> None:
        """End all calls and stop listening. Safe to call twice."""
        if self._server is not None:
            self._server.close()
        if self._ticker is not None:
            self._ticker.cancel()
        tasks = self._tasks()
        for caller in tuple(self._callers):
            caller.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the turn in which the sockets are closed

    def arrived(self, caller: _Caller) -> None:
        """A connection was made."""
        self._callers.add(caller)

    def left(self, caller: _Caller) -> None:
        """A connection is gone."""
        self._callers.discard(caller)
        self.changed.set()

    def greet(self, caller: _Caller) -> None:
        """What a caller has to know before its first call."""
        caller.say(LOAD, self._load(), len(caller.running))
        caller.say(KEEPS, NUM_PLACES)
        if self._is_leaving:
            caller.say(LEAVING)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for caller in self._callers for task in caller.running.values()]

    async def _tick(self) -> None:
        loop, told, num_ticks = asyncio.get_running_loop(), -1.0, 0
        while True:
            await asyncio.sleep(TICK_S)
            num_ticks += 1
            load = self._load()
            if load != told or num_ticks % HEARTBEAT_TICKS == 0:
                for caller in self._callers:
                    caller.say(LOAD, load, len(caller.running))
                told = load
            silent_since = loop.time() - CALLER_SILENCE_S
            for caller in tuple(self._callers):
                if caller.heard_at < silent_since:
                    caller.close()


class _Caller(Connection):
    """One caller: its calls and what may still be sent of each."""

    def __init__(self, server: LinkServer, secret: bytes) -> None:
        super().__init__(secret)
        self._server = server
        self._is_known = False
        self._needs: bool | None = None
        """What it said when it had heard that the replica is to leave."""
        self.running: dict[int, asyncio.Task[None]] = {}
        self._windows: dict[int, asyncio.Semaphore] = {}
        self._keeper = Keeper()

    @property
    def may_need(self) -> bool:
        """Whether a replica that is to leave has to wait for this caller: for its answer, or until it has no more to
        ask, or somebody else to ask it of."""
        return self._is_known and self._needs is not False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As in `Connection`."""
        super().connection_made(transport)
        self._server.arrived(self)

    def on_message(self, message: tuple[Any, ...]) -> None:
        """As in `Connection`."""
        kind, *rest = message
        if kind in (CALL, KEEP):
            try:
                self._take(kind, *rest)
            except KeyError:
                logger.error("A caller counts on what was not kept; the connection is made anew.")
                self.close()
        elif kind == END:
            task = self.running.get(rest[0])
            if task is not None:
                task.cancel()
        elif kind == MORE:
            number, count = rest
            window = self._windows.get(number)
            for _ in range(count if window is not None else 0):
                window.release()  # type: ignore[union-attr]
        elif kind == NEEDS:
            self._needs = rest[0]
            self._server.changed.set()
        elif kind == ALIVE and not self._is_known:
            self._is_known = True
            self._server.greet(self)

    def _take(self, kind: str, number: int, *rest: Any) -> None:
        if kind == KEEP:
            self._keeper.keep(number, *rest)
            return
        method, args = rest
        args = self._keeper.whole(args)
        self._windows[number] = asyncio.Semaphore(WINDOW)
        task = self.running[number] = asyncio.create_task(self._run(number, method, args))
        # Not in a `finally` of the task's own: one that is ended before its first step never comes to it.
        task.add_done_callback(lambda _: self._forget(number))

    def _forget(self, number: int) -> None:
        del self.running[number], self._windows[number]
        self._server.changed.set()

    def on_lost(self) -> None:
        """As in `Connection`."""
        self._server.left(self)
        for task in self.running.values():
            task.cancel()

    async def _run(self, number: int, method: str, args: tuple[Any, ...]) -> None:
        try:
            if method not in self._server.methods:
                raise RoleUnavailable(f"The replica has no method {method!r}: it runs another version.")
            result = getattr(self._server.served, method)(*args)
            if hasattr(result, "__aiter__"):
                async with aclosing(result) as items:
                    async for item in items:
                        await self._windows[number].acquire()
                        await self.room()
                        self.say(ITEM, number, item)
                self.say(DONE, number)
            else:
                self.say(RESULT, number, await result)
        except asyncio.CancelledError:
            # Told to a caller that has ended the call itself it is not read; to any other it is the truth.
            self.say(FAILED, number, RoleUnavailable("The call was ended by the replica."))
            raise
        except LookaheadError as error:
            self.say(FAILED, number, error)
        except Exception as error:
            logger.error("%s failed in a way nobody expected", method, exc_info=error)
            where = f"inside the server; the log of replica {self._server.replica} says how"
            self.say(FAILED, number, RoleUnavailable(f"{method} failed {where}."))
