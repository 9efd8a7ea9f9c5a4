"""Who may ask: the bearer keys of the configuration.

Promises: with no keys configured everybody may; with keys, a request without a right one is a 401 that does not repeat
what was sent; how long the check takes tells nothing about the keys. A key's own fidelity is noted in the request's
state for `fidelity_of`.
"""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from deployments.config import ApiKeyConfig, Fidelity, GatewayConfig
from deployments.gateway.errors import HttpError

BEARER = HTTPBearer(auto_error=False, description="A key of the deployment, if it has any.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]


class Door:
    """A FastAPI dependency that raises HttpError (401) unless the request may pass."""

    def __init__(self, config: GatewayConfig) -> None:
        entries = [ApiKeyConfig(key=entry) if isinstance(entry, str) else entry for entry in config.api_keys]
        self._keys = [(entry.key.encode("utf-8"), entry.fidelity) for entry in entries]

    async def __call__(self, request: Request, credentials: Credentials) -> None:
        """Compare with every key, so that it cannot be timed which one came near."""
        if not self._keys:
            return
        if credentials is None:
            raise _refusal("This server needs an API key, sent as 'Authorization: Bearer KEY'.")
        given = credentials.credentials.encode("latin-1", errors="replace")  # how header bytes were made into text
        found = [fidelity for key, fidelity in self._keys if hmac.compare_digest(given, key)]
        if not found:
            raise _refusal("The API key is not one of this server's.")
        request.state.fidelity = found[0]


def fidelity_of(request: Request) -> Fidelity | None:
    """The fidelity that the request's key has by default; None if it has none."""
    fidelity: Fidelity | None = getattr(request.state, "fidelity", None)
    return fidelity


def _refusal(message: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
