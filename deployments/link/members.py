"""The replicas of one role that this process is connected to.

Promises: a replica that starts is found within `LOOK_S` (sooner while a call waits, or all that there are leave); one
that is lost is not called again before it is found anew; waiting for a replica is bounded; the last replica of a role
stays as long as this process has more to ask of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

from actors.errors import RoleUnavailable
from deployments.link.balance import Balance
from deployments.link.client import Link
from deployments.link.frames import Address

logger = logging.getLogger(__name__)

LOOK_S = 4.0
"""How often replicas are looked for, for each ten of them that there are: asking all costs a call to each."""
HURRY_S = 0.2
"""The same while a call waits for the first of them."""
SILENCE_S = 5.0
"""A replica that says nothing for so long is given up, until it is found to answer again."""

Announce = Callable[[], Awaitable[Sequence[Address]]]
"""Asks Ray Serve where the replicas of a role listen; those that do not answer are left out."""


class Members:
    """Connections to all replicas of `role`, and the choice among them. `is_used`: whether anything goes on here that
    cannot end well without the role, also while it calls nobody. `on_change` is called when replicas may have come, and
    again and again while one is leaving."""

    def __init__(
        self,
        role: str,
        announce: Announce,
        silence_s: float = SILENCE_S,
        is_used: Callable[[], bool] = lambda: False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.role = role
        self._announce = announce
        self._silence_s = silence_s
        self._is_used = is_used
        self._on_change = on_change
        self._links: dict[str, Link] = {}
        self._balance = Balance()
        self._found = asyncio.Event()
        self._hurry = asyncio.Event()
        self._num_waiting = 0
        self._search: asyncio.Task[None] | None = None

    @property
    def links(self) -> tuple[Link, ...]:
        """To the replicas that can be called now."""
        return tuple(link for link in self._links.values() if link.is_open)

    @property
    def leaving(self) -> tuple[Link, ...]:
        """Those of them that are to replicas that take nothing new."""
        return tuple(link for link in self.links if link.is_leaving)

    async def link(self, session_id: str, wait_s: float, avoid: frozenset[str] = frozenset()) -> Link:
        """The connection for a call of `session_id`; RoleUnavailable if no replica is there within `wait_s`."""
        if self._search is None or self._search.done():
            self._search = asyncio.create_task(self._look())
        links = self.links
        if not links:
            await self._wait(wait_s)
            links = self.links
        return self._links[self._balance.choose(session_id, links, avoid)]

    def home(self, session_id: str) -> str:
        """The replica that the last call of `session_id` went to; empty where the next one goes elsewhere if it can."""
        link = self._links.get(self._balance.home(session_id))
        stays = link is not None and link.is_open and self._balance.stays(session_id, link)
        return link.replica if link is not None and stays else ""

    def shun(self, session_id: str, link: Link) -> None:
        """The replica of `link` has failed `session_id`: the next calls go elsewhere, where there is a choice."""
        self._balance.shun(session_id, link.replica)

    def give_up(self, session_id: str, link: Link, since: float) -> None:
        """A call of `session_id` on `link`, which has heard nothing since `since` by the event loop's clock, was ended:
        as `shun`, and where nobody else has heard of that replica either, all calls go elsewhere until somebody has."""
        self.shun(session_id, link)
        if link.silence.given_up(since, asyncio.get_running_loop().time()):
            logger.warning("The %s replica %s takes calls and answers none.", self.role, link.replica)

    async def answers(self, within_s: float, method: str, *args: Any, links: Sequence[Link] | None = None) -> list[Any]:
        """What each replica (of `links`, if they are given) says to `method`, also one that is leaving, which Serve
        asks no more; in the place of one that does not in time, an exception."""

        async def one(link: Link) -> Any:
            async with asyncio.timeout(within_s), aclosing(link.items(method, *args)) as items:
                return await anext(items)

        return await asyncio.gather(*map(one, self.links if links is None else links), return_exceptions=True)

    async def aclose(self) -> None:
        """End all connections."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.gather(self._search, return_exceptions=True)
        await asyncio.gather(*(link.aclose() for link in self._links.values()))
        self._links.clear()

    def _needs(self, leaving: Link) -> bool:
        """Whether the replica of `leaving` has to stay for what goes on here. Where it is the last, another one is
        looked for."""
        self._on_change()
        now = asyncio.get_running_loop().time()
        others = (link for link in self.links if link is not leaving)
        is_last = all(link.is_leaving or link.silence.lasts(now) for link in others)
        if is_last:
            self._hurry.set()
        return is_last and self._is_used()

    async def _wait(self, wait_s: float) -> None:
        self._num_waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                while not self.links:
                    self._found.clear()
                    self._hurry.set()
                    await self._found.wait()
        except TimeoutError:
            raise RoleUnavailable(f"No {self.role} replica took the call within {wait_s:.2g} s.") from None
        finally:
            self._num_waiting -= 1

    async def _look(self) -> None:
        while True:
            try:
                await self._meet(await self._announce())
            except Exception as error:
                logger.debug("Replicas of %s cannot be looked for: %s", self.role, error)
            self._on_change()
            pause = HURRY_S if self._num_waiting else LOOK_S * max(1.0, len(self._links) / 10)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            self._hurry.clear()

    async def _meet(self, addresses: Sequence[Address]) -> None:
        for replica, link in tuple(self._links.items()):
            if not link.is_open:
                del self._links[replica]
                await link.aclose()
        new = [address for address in addresses if address.replica not in self._links]
        opening = (Link.open(address, self._silence_s, self._needs) for address in new)
        opened = await asyncio.gather(*opening, return_exceptions=True)
        for found in opened:
            if isinstance(found, Link):
                self._links[found.replica] = found
            else:
                logger.debug("%s", found)
        if self.links:
            self._found.set()
