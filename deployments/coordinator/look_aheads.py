"""The draft's calls of one request: what comes of them, and whether the draft says anything at all.

Promises: an error of the draft never ends a request; a draft that hangs is found out however soon the session leaves
each look-ahead; one that is only slow, be it slower than the target, is not taken for it: what decides is one call that
had its whole limit.

That a look-ahead was left without a word says nothing: it may have had no time. So where nothing was heard for a while,
one that is left is listened to further, until something is heard or its limit has passed. What it says goes to nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from actors.errors import OtherVocabulary, RequestError, RoleSilent, RoleUnavailable
from actors.messages import Piece, Step
from actors.roles import Drafter
from deployments.coordinator.breaker import Circuit
from deployments.coordinator.events import DraftEnded, DraftFailed, DraftProgress, DraftStep, Event, StartDraft
from deployments.coordinator.latency import MAX_DOUBLINGS, TimeLimit
from deployments.coordinator.listening import HasRead, heard, report
from deployments.coordinator.vigilance import Vigilance

logger = logging.getLogger(__name__)

DOUBT = 0.5
"""Where nothing was heard for this share of what a first item may take, a look-ahead that is left is listened to."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A look-ahead of which nothing is heard yet, though it may be for `limit_s`."""

    limit_s: float
    is_probe: bool


@dataclass(frozen=True, slots=True)
class _Unheard:
    """What the draft was asked for and has not said a word of, from the first look-ahead on."""

    since: float
    num_unread: int
    """Tokens that it had to read then; those that the target writes meanwhile are few beside them."""


class LookAheads:
    """Those of one request, with `tell` for the events."""

    def __init__(self, drafter: Drafter | None, vigilance: Vigilance, tell: Callable[[Event], None]) -> None:
        self._drafter = drafter
        self._vigilance = vigilance
        self._breaker = vigilance.draft_breaker
        self._tell = tell
        self._clock = asyncio.get_running_loop().time
        self.num_failures = 0
        """How often in a row the draft failed this request."""
        self._has_read = HasRead(drafter)
        self._waiting: dict[int, _Waiting] = {}
        self._unheard: _Unheard | None = None
        """None where none waits for its first item, or where something was heard."""
        self._left: tuple[int, asyncio.Task[None]] | None = None
        """The look-ahead that is listened to though the session has left it."""

    async def run(self, command: StartDraft) -> None:
        """The look-ahead of `command`, to its end."""
        if not self._breaker.lets_through(self._clock()):
            self._tell(DraftFailed(command.call, "draft_unavailable"))
            return
        if (unheard := self._unheard) is None:
            unheard = self._unheard = _Unheard(self._clock(), self._has_read.num_unread(command.request))
        size = command.part_tokens or command.request.rule.max_tokens
        later = self._vigilance.draft(size)
        first = self._vigilance.first_draft(size, unheard.num_unread)
        is_probe = self._breaker.state is Circuit.HALF_OPEN
        attempt = MAX_DOUBLINGS if is_probe else self.num_failures  # a probe may take as long as any
        self._waiting[command.call] = _Waiting(first.limit_s(attempt), is_probe)
        try:
            await self._listen(command, first, later, attempt)
        except RequestError as error:
            logger.info("The draft cannot serve %s: %s", command.request.session_id, error)
            self._say(command.call, DraftFailed(command.call, "draft_refused", permanent=True))
        except Exception as error:
            self._failed(command, error)
            self._say(command.call, DraftFailed(command.call, "draft_unavailable"))
        finally:
            self._waiting.pop(command.call, None)
            if self._is_left(command.call):
                self._left = None
            elif is_probe:
                self._breaker.left()
            asyncio.get_running_loop().call_soon(self._rest)

    def listens_on(self, call: int, task: asyncio.Task[None]) -> bool:
        """The session leaves `call`, which `task` runs. Whether it goes on: it may tell whether the draft hangs."""
        waiting = self._waiting.get(call)
        if waiting is None or self._left is not None or self._unheard is None:
            return False
        if self._clock() - self._unheard.since < DOUBT * waiting.limit_s:
            return False
        self._left = call, task
        if waiting.is_probe:
            self._breaker.left()  # whoever asks next must not be refused for it
        return True

    async def _listen(self, command: StartDraft, first: TimeLimit, later: TimeLimit, attempt: int) -> None:
        if self._drafter is None:
            raise RequestError("This deployment has no draft model.")
        num_steps = num_written = 0
        async with (
            aclosing(_items(self._drafter, command)) as items,
            aclosing(heard("draft", items, first, later, attempt)) as timely,
        ):
            async for item in timely:
                num_written += len(item.token_ids) if isinstance(item, Step) else 0
                self._heard(command, num_written)
                if self._is_left(command.call):
                    return
                if isinstance(item, Step):
                    num_steps += 1
                    self._tell(DraftStep(command.call, item))
                else:
                    self._tell(DraftProgress(command.call, item))
        if not num_steps:
            raise RoleUnavailable("The draft ended its look-ahead without a step.")
        self._tell(DraftEnded(command.call))

    def _heard(self, command: StartDraft, num_written: int) -> None:
        """Something came of the call of `command`, whose steps have so many tokens by now: the draft works."""
        self.num_failures, self._unheard = 0, None
        self._has_read.heard(command.request, num_written)
        self._waiting.pop(command.call, None)
        self._breaker.succeeded()
        if self._left is not None and not self._is_left(command.call):
            self._left[1].cancel()

    def _rest(self) -> None:
        """A look-ahead has ended. Where no other one has begun with that, nobody waits for the draft any more."""
        if not self._waiting:
            self._unheard = None

    def _failed(self, command: StartDraft, error: Exception) -> None:
        report("draft", error)
        if isinstance(error, RoleSilent) and self._drafter is not None:
            self._drafter.shun(command.request.session_id, command.request.call_id)
        self.num_failures += 1
        self._has_read.lost()
        self._unheard = None
        if not isinstance(error, OtherVocabulary):  # that one works, and is asked again when it has rendered the prompt
            self._breaker.failed(self._clock())

    def _is_left(self, call: int) -> bool:
        return self._left is not None and self._left[0] == call

    def _say(self, call: int, event: Event) -> None:
        """Tell `event`, the last one of `call`, if the session still waits for it."""
        if not self._is_left(call):
            self._tell(event)


def _items(drafter: Drafter, command: StartDraft) -> AsyncGenerator[Piece | Step, None]:
    if command.part_tokens:
        return drafter.look_ahead_in_parts(command.request, command.depth, command.part_tokens)
    return cast("AsyncGenerator[Piece | Step, None]", drafter.look_ahead(command.request, command.depth))
