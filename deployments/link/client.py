"""The caller's end of a connection to one replica.

Promises: whatever ends a call here (result, error, cancellation, a closed iterator) ends it there; when the connection
breaks or falls silent every call on it fails with RoleUnavailable, at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from actors.errors import RoleUnavailable
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
    Address,
    Connection,
)
from deployments.link.kept import Sender
from deployments.link.server import WINDOW
from deployments.link.silence import Silence

CONNECT_S = 3.0
GRACE_S = 0.05
ALIVE_S = 1.0
"""How often a caller says that it is there, and looks whether the replica is."""


class Link(Connection):
    """Calls to one replica, any number at once."""

    def __init__(self, address: Address, silence_s: float, is_needed: Callable[[Link], bool]) -> None:
        super().__init__()
        self.address = address
        self.is_leaving = False
        """Whether the replica finishes what it has and takes nothing new."""
        self.silence = Silence()
        """Of what works in the replica; that of its process ends the link."""
        self._silence_s = silence_s
        self._is_needed = is_needed
        self._load = 0.0
        self._num_then = 0
        """Calls from here that are in the load which the replica told."""
        self._calls: dict[int, asyncio.Queue[tuple[str, Any]]] = {}
        self._num_begun = 0
        self._sender = Sender()
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, address: Address, silence_s: float, is_needed: Callable[[Link], bool] = lambda _: False
    ) -> Link:
        """A connection to `address`; RoleUnavailable if it cannot be had. `silence_s`: how long a replica that lives
        may at most say nothing.

        A replica that is leaving is told by `is_needed`, at once and then every `ALIVE_S`, whether more is to be asked
        here of which nobody else could be asked: it stays until that is over."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                _, link = await loop.create_connection(
                    lambda: cls(address, silence_s, is_needed), address.host, address.port
                )
        except (OSError, TimeoutError) as error:
            raise RoleUnavailable(f"Replica {address.replica} does not answer: {error}.") from error
        link.say_secret(address.secret)
        link.say(ALIVE)
        link._watcher = asyncio.create_task(link._watch())
        return link

    @property
    def replica(self) -> str:
        """The name of the replica."""
        return self.address.replica

    @property
    def is_silent(self) -> bool:
        """Whether what works in the replica takes calls and answers none, for all that is known."""
        return self.silence.lasts(asyncio.get_running_loop().time())

    @property
    def load(self) -> float:
        """How full the replica is, with what began and ended here since it said so (1: more has to wait)."""
        return max(0.0, self._load + (len(self._calls) - self._num_then) / self.address.capacity)

    @property
    def num_calls(self) -> int:
        """Calls on this link now."""
        return len(self._calls)

    async def items(self, method: str, *args: Any) -> AsyncGenerator[Any, None]:
        """The items of `method`; of one that is no stream, its result as the only item."""
        number, queue = self._num_begun, asyncio.Queue[tuple[str, Any]]()
        self._num_begun += 1
        self._calls[number] = queue
        is_over, num_taken = False, 0
        try:
            if not self.is_open:
                raise self._gone()
            news, args = self._sender.short(args)
            for place, part in news:
                self.say(KEEP, place, part)
            self.say(CALL, number, method, args)
            while True:
                kind, value = await queue.get()
                if kind == ITEM:
                    yield value
                    num_taken += 1
                    if num_taken == WINDOW // 2:
                        self.say(MORE, number, num_taken)
                        num_taken = 0
                    continue
                is_over = True
                if kind == FAILED:
                    raise value
                if kind == RESULT:
                    yield value
                return
        finally:
            del self._calls[number]
            if not is_over:
                self.say(END, number)

    async def aclose(self) -> None:
        """End the connection and all calls on it."""
        self.close()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    def on_message(self, message: tuple[Any, ...]) -> None:
        """As in `Connection`."""
        kind = message[0]
        if kind == LOAD:
            self._load, self._num_then = message[1], message[2]
        elif kind == LEAVING:
            self.is_leaving = True
            self.say(NEEDS, self._is_needed(self))
        elif kind == KEEPS:
            self._sender.num_places = message[1]
        elif (queue := self._calls.get(message[1])) is not None:
            queue.put_nowait((kind, message[2] if kind != DONE else None))

    def on_lost(self) -> None:
        """As in `Connection`."""
        for queue in self._calls.values():
            queue.put_nowait((FAILED, self._gone()))

    def _gone(self) -> RoleUnavailable:
        return RoleUnavailable(f"Replica {self.address.replica} was lost.")

    async def _watch(self) -> None:
        """Say that this end is there, and give the other one up where it is not."""
        loop = asyncio.get_running_loop()
        while self.is_open:
            await asyncio.sleep(min(ALIVE_S, self._silence_s / 3))
            self.say(ALIVE)
            if self.is_leaving:
                self.say(NEEDS, self._is_needed(self))
            if loop.time() - self.heard_at > self._silence_s:
                await asyncio.sleep(GRACE_S)  # if it was this process that slept, what came meanwhile is read now
                if loop.time() - self.heard_at > self._silence_s:
                    self.close()
