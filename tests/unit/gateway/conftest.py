"""Every test of the gateway ends with no generation running."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.unit.gateway.script import ScriptedBackend, client_of, shared_app


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    backend = ScriptedBackend()
    yield backend
    assert backend.running == set()


@pytest.fixture
async def client(backend: ScriptedBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(shared_app(backend)) as client:
        yield client
