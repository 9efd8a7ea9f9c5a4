"""Who may ask, and how much.

Promises: with no source of keys configured everybody may; else a request without a right key is a 401 that does not
repeat what was sent; how long the check takes tells nothing about the keys. What a key's holder asks for beyond its
limits is a 429, and so is counted whatever becomes of it. A key's own fidelity is noted for `fidelity_of`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from deployments.gateway.errors import HttpError
from deployments.gateway.keyring import KeyRing
from deployments.gateway.keys import Key
from deployments.gateway.limits import Account, Limits, Visit
from deployments.gateway_config import KeyLimits
from deployments.sections import Fidelity

BEARER = HTTPBearer(auto_error=False, description="A key of the deployment, if it has any.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
EVERYBODY = "everybody"
"""The name under which requests are counted where no keys are needed."""
Clock = Callable[[], float]


class Door:
    """A FastAPI dependency that raises HttpError (401) unless the request has a key, where keys are needed."""

    def __init__(self, keys: KeyRing, limits: KeyLimits, clock: Clock = time.monotonic) -> None:
        self._keys = keys
        self._everybody = Key(b"", EVERYBODY, None, limits, priority=None)
        self._clock = clock

    async def __call__(self, request: Request, credentials: Credentials) -> None:
        """Let the holder of a key in, and note which one."""
        if self._keys.is_open:
            request.state.key = self._everybody
            return
        if credentials is None:
            raise _refusal("This server needs an API key, sent as 'Authorization: Bearer KEY'.")
        given = credentials.credentials.encode("latin-1", errors="replace")  # how header bytes were made into text
        key = await self._keys.find(given, self._clock())
        if key is None:
            raise _refusal("The API key is not one of this server's.")
        request.state.key = key


class Turnstile:
    """A FastAPI dependency behind the `Door` that raises CapacityError (429) when a holder has had enough."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._limits = Limits()
        self._clock = clock

    async def __call__(self, request: Request) -> None:
        """Count the request; it is counted out when its response has ended (`Envelope`), or its `Stay`."""
        key, now = key_of(request), self._clock()
        account = self._limits.account(key.name, key.limits, now)
        try:
            visit = self._limits.enter(key.name, key.limits, now)
        finally:
            _tell(request, account, now)
        self._note(request, visit)

    async def ask(self, request: Request) -> None:
        """Count one that asks for what was let in before, a trace or to go on with a stream; `go_on` is for when the
        latter has been found."""
        key, now = key_of(request), self._clock()
        account = self._limits.account(key.name, key.limits, now)
        try:
            account.take_request(now)
        finally:
            _tell(request, account, now)

    def go_on(self, request: Request) -> None:
        """It goes on, and whoever read it before has left: CapacityError (429) if as many run as may all the same. It
        was let in before, so it is one of those that run from now on in any case."""
        key, now = key_of(request), self._clock()
        account = self._limits.account(key.name, key.limits, now)
        try:
            account.check_running()
        finally:
            self._note(request, Visit(account, now))

    def _note(self, request: Request, visit: Visit) -> None:
        leaving_of(request).callback(lambda: visit.leave(self._clock()))
        request.state.visit = visit


def visit_of(request: Request) -> Visit:
    """The visit that the turnstile noted."""
    visit: Visit = request.state.visit
    return visit


def key_of(request: Request) -> Key:
    """The key that the door noted."""
    key: Key = request.state.key
    return key


def fidelity_of(request: Request) -> Fidelity | None:
    """The fidelity that the request's key has by default; None if it has none."""
    return key_of(request).fidelity


def leaving_of(request: Request) -> ExitStack:
    """What is called when the request has ended, however it ended."""
    leaving: ExitStack = request.state.leaving
    return leaving


def answered_of(request: Request) -> ExitStack:
    """What is called when the response has ended, also where work goes on without it."""
    answered: ExitStack = request.state.answered
    return answered


def holder_of(request: Request) -> str:
    """What limits, messages and the audit log call the holder of the request's key."""
    key: Key = request.state.key
    return key.name


def _tell(request: Request, account: Account, now: float) -> None:
    headers: dict[str, str] = request.state.response_headers
    headers.update(account.headers(now))


def _refusal(message: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
