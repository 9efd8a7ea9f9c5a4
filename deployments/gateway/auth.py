"""Who may ask: the bearer keys of the configuration.

Promises: with no keys configured everybody may; with keys, a request without a right one is a 401 that does not repeat
what was sent; how long the check takes tells nothing about the keys.
"""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from deployments.config import GatewayConfig
from deployments.gateway.errors import HttpError

BEARER = HTTPBearer(auto_error=False, description="A key of the deployment, if it has any.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]


class Door:
    """A FastAPI dependency that raises HttpError (401) unless the request may pass."""

    def __init__(self, config: GatewayConfig) -> None:
        self._keys = [key.encode("utf-8") for key in config.api_keys]

    async def __call__(self, credentials: Credentials) -> None:
        """Compare with every key, so that it cannot be timed which one came near."""
        if not self._keys:
            return
        if credentials is None:
            raise _refusal("This server needs an API key, sent as 'Authorization: Bearer KEY'.")
        given = credentials.credentials.encode("latin-1", errors="replace")  # how header bytes were made into text
        if not any([hmac.compare_digest(given, key) for key in self._keys]):
            raise _refusal("The API key is not one of this server's.")


def _refusal(message: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
