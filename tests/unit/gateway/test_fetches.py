"""Clients that come back for a stream and are gone again before they have any of it: it is written on all the same."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from deployments.gateway.api import create_app
from deployments.gateway.bookmarks import Mark
from deployments.gateway.rejoining import Rest
from deployments.generation import GenerationRequest, Opened
from tests.unit.coordinator import bench
from tests.unit.gateway.script import ScriptedBackend, client_of, until
from tests.unit.gateway.test_rejoining import TARGET, all_finished, ask, come_back, house

TARGET_ALONE = {"mode": "target"}


async def test_one_that_goes_while_its_stream_is_handed_over_may_come_again() -> None:
    """Who wrote it has ended; another one that is asked as well is frozen."""
    async with house() as at:
        whole = await ask(at, None, speculation=TARGET_ALONE)
        at.roles.target_engine._options = replace(TARGET, token_s=0.03)  # type: ignore[attr-defined]
        first = await ask(at, 2, {"x-request-id": "r"}, speculation=TARGET_ALONE)
        handed_over = asyncio.Event()

        async def hand_over(*asked: Any) -> list[GenerationRequest]:
            found = await at.backend.hand_over(*asked)
            handed_over.set()
            await asyncio.sleep(0.1)
            return found

        at.gates[1].lingering._hand_over = hand_over
        async with client_of(create_app(bench.config(), at.gates[1].get)) as client:
            fetching = asyncio.create_task(client.get("/v1/streams/r"))
            await handed_over.wait()
            assert at.num_running() == 0
            fetching.cancel()  # as Serve does where the connection is lost
            await asyncio.gather(fetching, return_exceptions=True)
        await until(lambda: at.num_running() == 1)
        rest = await come_back(at, first.ids[-1])
        assert first.text() + rest.text() == whole.text()


async def test_a_stream_has_a_reader_before_its_client_is_sent_what_was_written() -> None:
    backend = ScriptedBackend(lambda request: [60.0])
    (fetched,) = all_finished(1)
    assert fetched.resume is not None
    fetched = replace(fetched, resume=replace(fetched.resume, finished=None))
    async with aclosing(Rest(backend, [fetched], [Mark()]).generate(fetched)) as rest:  # type: ignore[type-var]
        assert isinstance(await anext(rest), Opened)
        await asyncio.sleep(0)
        assert backend.running == {"r-0"}
    assert backend.ends == {"r-0": "closed"}
