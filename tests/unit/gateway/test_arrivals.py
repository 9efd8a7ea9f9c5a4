"""Bodies that are on their way: how long they are waited for, and how many of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request

from actors.errors import CapacityError, DeadlineExceeded
from deployments.gateway import bodies
from deployments.gateway.api import create_app
from deployments.gateway.arrivals import Arrivals
from deployments.gateway.bodies import SILENCE_S, SLOWEST, read_object
from deployments.gateway_config import ROOM
from tests.unit.clock import run_virtually
from tests.unit.gateway.script import ScriptedBackend, chat, client_of, config, finished, listening, opened, until
from tests.unit.gateway.wire import Wire

KIB = 1024
HEADERS = [(b"content-type", b"application/json")]
PAD = b"x" * KIB
PLENTY = 10**6


def sent(*parts: tuple[float, bytes]) -> Request:
    """A request whose body comes in parts, each so many seconds after the one before."""
    left = iter(parts)

    async def receive() -> dict[str, Any]:
        pause_s, data = next(left, (PLENTY, b""))
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": data, "more_body": not data.endswith(b"}")}

    return Request({"type": "http", "method": "POST", "headers": HEADERS}, receive)


def read(request: Request, timeout_s: float = 3600.0, at: Arrivals | None = None) -> tuple[dict[str, Any], float]:
    """The object of `request`, and after how many seconds it was there."""

    async def scene() -> tuple[dict[str, Any], float]:
        clock = asyncio.get_running_loop().time
        began = clock()
        arrival = (at or Arrivals(1000)).come("me")
        return await read_object(request, 4 * KIB * KIB, timeout_s, arrival), clock() - began

    return run_virtually(scene())


def test_a_body_of_four_megabytes_on_a_bad_line_is_read() -> None:
    """Of 8 KiB a second, with pauses of almost as long as there may be."""
    parts = [(0.125, PAD)] * 4000
    for place in range(500, 4000, 1000):
        parts[place] = (SILENCE_S - 1.0, PAD)
    found, took_s = read(sent((0.0, b'{"a":"'), *parts, (0.0, b'"}')))
    assert len(found["a"]) == 4000 * KIB
    assert took_s > 600


@pytest.mark.parametrize(("parts", "until_s"), [([], SILENCE_S), ([(20.0, PAD * 1000)], 20.0 + SILENCE_S)])
def test_a_body_of_which_nothing_comes_is_given_up(parts: list[tuple[float, bytes]], until_s: float) -> None:
    async def scene() -> float:
        clock = asyncio.get_running_loop().time
        began = clock()
        with pytest.raises(DeadlineExceeded, match="nothing of it came for 30 seconds"):
            await read_object(sent(*parts), 4 * KIB * KIB, 3600.0, Arrivals(1000).come("me"))
        return clock() - began

    assert run_virtually(scene()) == pytest.approx(until_s)


def test_a_body_that_drips_is_given_up_long_before_the_time_limit() -> None:
    with pytest.raises(DeadlineExceeded, match=f"less than {SLOWEST} bytes of it came a second"):
        read(sent(*[(1.0, b" ")] * 1000))


def test_the_time_limit_of_requests_counts_for_bodies() -> None:
    with pytest.raises(DeadlineExceeded, match=r"did not arrive within 10 seconds"):
        read(sent(*[(1.0, PAD * 10)] * 100), timeout_s=10.0)


def test_half_of_the_room_is_for_refusals_and_probes() -> None:
    refused: list[str] = []
    all_of_them = Arrivals(100, lambda: refused.append("room"))
    here = [all_of_them.come("me") for _ in range(100 - ROOM // 2)]
    for arrival in here:
        arrival.check()
    one_more = all_of_them.come("you")
    with pytest.raises(CapacityError, match="at its capacity"):
        one_more.check()
    assert refused == ["room"]
    for arrival in (one_more, one_more, here[0]):
        arrival.leave()
    all_of_them.come("you").check()


def test_whose_bodies_do_not_come_has_half_of_what_is_free() -> None:
    all_of_them = Arrivals(100 + ROOM // 2)
    others = [all_of_them.come("you") for _ in range(20)]
    mine = [all_of_them.come("me") for _ in range(80)]
    refusals = [arrival.be_late() for arrival in mine]
    assert refusals.count(None) == 40, "of the 80 places that the others do not have"
    assert all(arrival.be_late() is None for arrival in others)
    mine[0].be_read()
    late = [arrival for arrival, refusal in zip(mine, refusals, strict=True) if refusal is None]
    for arrival in (*others, *late, *late):
        arrival.leave()
    assert (all_of_them.room, dict(all_of_them.late)) == (100, {})


def test_one_late_body_is_waited_for_however_little_room_is_left() -> None:
    all_of_them = Arrivals(ROOM // 2 + 1)
    assert all_of_them.come("me").be_late() is None
    assert all_of_them.come("me").be_late() is not None
    assert all_of_them.come("you").be_late() is None


def test_a_late_body_without_room_is_refused_at_once_and_one_that_has_come_is_not() -> None:
    full = Arrivals(ROOM // 2 + 2)
    assert full.come("me").be_late() is None
    with pytest.raises(CapacityError, match="did not come at once"):
        read(sent((1.5, b"{}")), at=full)
    assert read(sent((0.5, b"{}")), at=full)[0] == {}


def test_many_bodies_at_once_are_all_read() -> None:
    """As a benchmark of one key sends them."""
    everything = Arrivals(1000)

    async def scene() -> list[dict[str, Any]]:
        requests = [sent((0.9, b"{}")) for _ in range(900)]
        return await asyncio.gather(*(read_object(r, KIB, 60.0, everything.come("me")) for r in requests))

    assert run_virtually(scene()) == [{}] * 900


# --- at a gateway ----------------------------------------------------------------------------------------------------

KEYS = [{"key": "a", "name": "alice"}, {"key": "b", "name": "bob"}]
MOST = 48


@asynccontextmanager
async def gateway(backend: ScriptedBackend) -> AsyncIterator[str]:
    placement = {"max_ongoing_requests": MOST + ROOM // 2}
    settings = config(placement=placement, admission={"max_concurrent": 4, "max_waiting": 4}, api_keys=KEYS)
    async with listening(create_app(settings, lambda: backend)) as url:
        yield url


async def half(url: str, number: int) -> list[Wire]:
    wires = [Wire(url) for _ in range(number)]
    for wire in wires:
        await wire.open()
        head = wire.head("POST", "/v1/chat/completions", "content-length: 1000", "authorization: Bearer a")
        await wire.send(head + b'{"model":')
    return wires


async def ask(url: str, method: str, path: str, body: bytes = b"") -> bytes:
    async with Wire(url) as wire:
        lines = (f"content-length: {len(body)}", "authorization: Bearer b")
        await wire.send(wire.head(method, path, *lines) + body)
        return await wire.answer()


async def test_half_sent_bodies_of_one_key_keep_nobody_out(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LATE_S", 0.3)
    body = json.dumps(chat()).encode()
    async with gateway(backend) as url:
        wires = await half(url, 60)
        answers = [asyncio.create_task(wire.answer()) for wire in wires]
        await until(lambda: sum(answer.done() for answer in answers) == 60 - MOST // 2, 20.0)
        for path in ("/health", "/metrics"):
            assert (await ask(url, "GET", path)).startswith(b"HTTP/1.1 200")
        assert b'reason="room"} 36.0' in await ask(url, "GET", "/metrics")
        assert (await ask(url, "POST", "/v1/chat/completions", body)).startswith(b"HTTP/1.1 200")
        refused = [answer.result() for answer in answers if answer.done()]
        assert {answer[:12] for answer in refused} == {b"HTTP/1.1 429"}
        assert all(b"retry-after: 1" in answer.lower() for answer in refused)
        assert all(b'"code":"rate_limit_exceeded"' in answer for answer in refused)
        assert len(refused) == 60 - MOST // 2, "the other half waits for the rest of its bodies"
        for wire in wires:
            await wire.close()
        await asyncio.gather(*answers, return_exceptions=True)
        assert (await ask(url, "POST", "/v1/chat/completions", body)).startswith(b"HTTP/1.1 200")


async def test_what_runs_and_waits_takes_of_the_room_and_gives_it_back() -> None:
    backend = ScriptedBackend(lambda request: [opened(request), 0.3, finished()])
    settings = config(
        placement={"max_ongoing_requests": ROOM + 5}, admission={"max_concurrent": 1, "max_waiting": 4}, max_n=1
    )
    app = create_app(settings, lambda: backend)
    async with client_of(app) as client:
        for _ in range(2):  # room for 37: one runs, two wait (the half that one key has), the others are refused there
            tasks = [asyncio.create_task(client.post("/v1/chat/completions", json=chat())) for _ in range(60)]
            answers = [(await task) for task in tasks]
            codes = [answer.status_code for answer in answers]
            assert codes.count(200) == 3
            assert codes.count(429) == 57
    await until(lambda: not backend.running)
