"""The trace of a request, from whichever coordinator has it, as a gateway asks for it.

Promises: all coordinators that Serve or a link knows are asked, over their links where those answer and else by Serve;
of several traces of an id the one that started last is told; reading or writing a long one holds up the event loops of
coordinator and gateway for a part of it at a time, where it comes over a link; no more than `AT_ONCE` are read at a
time, whoever asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from ray.serve.handle import DeploymentHandle

from actors.errors import RoleUnavailable
from deployments.link.client import Link
from deployments.link.frames import Address
from deployments.link.members import Members
from deployments.link.over_serve import LINK, answers_or_why
from deployments.telemetry.trace_json import json_parts

logger = logging.getLogger("lookahead.gateway")

AT_ONCE = 2
"""Traces that a gateway puts together at a time; others wait. The largest are tens of megabytes."""
UNKNOWN = "A coordinator did not say whether it has the trace; ask again."
STOPPED = "The coordinator that has the trace stopped telling it; ask again."


class TraceAsking:
    """Asks the coordinators behind `handle`, to which `coordinators` are the links. Each may be silent for
    `within_s`."""

    def __init__(self, handle: DeploymentHandle[Any], coordinators: Members, within_s: float) -> None:
        self._handle = handle
        self._coordinators = coordinators
        self._within_s = within_s
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def trace(self, request_id: str) -> bytes | None:
        """As `Backend.trace`."""
        links = self._coordinators.links
        known, told = await asyncio.gather(
            answers_or_why(self._handle, self._within_s, LINK),
            self._coordinators.answers(self._within_s, "trace_began", request_id, links=links),
        )
        heard = {link.replica for link, each in zip(links, told, strict=True) if not isinstance(each, BaseException)}
        began = {link: each for link, each in zip(links, told, strict=True) if isinstance(each, float)}
        is_linked = all(each.replica in heard for each in known if isinstance(each, Address))
        silent = [repr(each) for each in known if isinstance(each, BaseException)]
        if began or not is_linked:
            async with self._turns:
                # Serve's calls bring all of a trace at once, and of no long one: only where there is no other way.
                others = [] if is_linked else await answers_or_why(self._handle, self._within_s, "trace", request_id)
                if (found := await self._latest(request_id, began, others)) is not None:
                    return found
            silent += [repr(each) for each in others if isinstance(each, BaseException)]
        if silent:
            logger.warning("Not every coordinator could be asked for trace: %s.", ", ".join(silent))
            raise RoleUnavailable(UNKNOWN, "request_id")
        return None

    async def _latest(self, request_id: str, began: Mapping[Link, float], others: list[Any]) -> bytes | None:
        """Of what coordinators have (an id may have been used again) what began last; None if there is nothing."""
        whole = max(
            (each for each in others if isinstance(each, dict)), key=lambda each: each["started_at"], default=None
        )
        link = max(began, key=lambda each: began[each], default=None)
        if link is not None and (whole is None or began[link] >= whole["started_at"]):
            return await self._read(link, request_id)
        return None if whole is None else b"".join([part async for part in json_parts(whole)])

    async def _read(self, link: Link, request_id: str) -> bytes:
        parts: list[bytes] = []
        async with aclosing(link.items("trace_parts", request_id)) as items:
            while True:
                try:
                    async with asyncio.timeout(self._within_s):
                        parts.append(await anext(items))
                except StopAsyncIteration:
                    break
                except TimeoutError as error:
                    raise RoleUnavailable(STOPPED, "request_id") from error
        if not parts:  # it was forgotten meanwhile, and others may have an older one
            raise RoleUnavailable(UNKNOWN, "request_id")
        return b"".join(parts)
