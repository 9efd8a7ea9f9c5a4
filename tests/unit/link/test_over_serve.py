"""Replicas are asked where they listen; the others are found whatever one of them does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deployments.link import over_serve
from deployments.link.frames import Address
from deployments.link.over_serve import answers

GOOD = Address("a", "127.0.0.1", 1, b"s" * 32, 4)


async def hangs() -> Address:
    await asyncio.Event().wait()
    raise AssertionError


async def fails() -> Address:
    raise RuntimeError("gone")


async def answers_well() -> Address:
    return GOOD


class Reply:
    def __init__(self, say: Callable[[], Awaitable[Address]]) -> None:
        self.get_async = say


class Handle:
    """As much of a Serve handle as is used; Serve's own way of collecting would lose all answers."""

    def __init__(self, *replicas: Callable[[], Awaitable[Address]]) -> None:
        self._replies = [Reply(replica) for replica in replicas]
        self.asked: list[tuple[Any, ...]] = []

    def broadcast(self, method: str, *args: Any) -> Handle:
        self.asked.append((method, *args))
        return self

    async def _fetch_replica_results_async(self) -> list[Reply]:
        return self._replies


async def test_a_replica_that_hangs_hides_no_other() -> None:
    handle = Handle(hangs, answers_well, fails)
    found = await answers(handle, 0.05, "trace", "id")  # type: ignore[arg-type]
    assert handle.asked == [("trace", "id")]
    assert isinstance(found[0], TimeoutError)
    assert found[1] == GOOD
    assert isinstance(found[2], RuntimeError)


async def test_members_are_found_beside_a_frozen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_serve, "ANSWER_S", 0.05)
    role = over_serve.members("draft", Handle(hangs, answers_well))  # type: ignore[arg-type]
    assert await role._announce() == [GOOD]
