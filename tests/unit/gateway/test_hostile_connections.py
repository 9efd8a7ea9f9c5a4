"""What only a socket can do: bodies of 100 MB, bodies that drip, headers without end, connections closed by half."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deployments.gateway.api import create_app
from tests.unit.gateway.script import ScriptedBackend, chat, config, listening, opened, said, until
from tests.unit.gateway.wire import Wire

CHUNK = b"x" * 65536
BODY = json.dumps(chat()).encode()


@asynccontextmanager
async def serving(backend: ScriptedBackend, **gateway: object) -> AsyncIterator[str]:
    """A server whose limits are small; afterwards it must still serve."""
    settings = config(**{"max_body_bytes": 1_000_000, "request_timeout_s": 0.5} | gateway)
    async with listening(create_app(settings, lambda: backend)) as url:
        yield url
        async with Wire(url) as wire:
            await wire.send(wire.post(BODY))
            assert (await wire.answer()).startswith(b"HTTP/1.1 200")


async def test_a_body_that_says_it_is_too_large_is_not_waited_for(backend: ScriptedBackend) -> None:
    async with serving(backend, request_timeout_s=30) as url, Wire(url) as wire:
        await wire.send(wire.head("POST", "/v1/chat/completions", f"content-length: {100 * 2**20}"))
        answer = await wire.answer()
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"request_too_large" in answer
    assert len(backend.requests) == 1


@pytest.mark.parametrize("length", ["99999999999999999999", "9" * 5000, "-5", "1e9", "\u00b2"])
async def test_a_length_that_is_none(backend: ScriptedBackend, length: str) -> None:
    async with serving(backend) as url, Wire(url) as wire:
        await wire.send(wire.head("POST", "/v1/chat/completions", f"content-length: {length}") + BODY)
        assert (await wire.answer())[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 408")


async def test_a_body_of_100_mb_in_parts_is_refused_early(backend: ScriptedBackend) -> None:
    async with serving(backend, request_timeout_s=30) as url, Wire(url) as wire:
        size = 100 * 2**20
        await wire.send(wire.head("POST", "/v1/chat/completions", "transfer-encoding: chunked"))
        sent = await wire.send_until_answered(b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK), size // len(CHUNK))
        answer = await wire.answer()
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"request_too_large" in answer
        assert sent < size / 2
    assert len(backend.requests) == 1


async def test_a_body_that_drips_is_given_up(backend: ScriptedBackend) -> None:
    async with serving(backend) as url:
        wires = [Wire(url) for _ in range(20)]
        for wire in wires:
            await wire.open()
            await wire.send(wire.head("POST", "/v1/chat/completions", "content-length: 1000"))
        began = time.perf_counter()
        drips = [asyncio.create_task(wire.send_until_answered(b" ", 1000, pause_s=0.05)) for wire in wires]
        async with Wire(url) as other:  # who speaks at once is served meanwhile
            await other.send(other.post(BODY))
            assert (await other.answer()).startswith(b"HTTP/1.1 200")
        await asyncio.gather(*drips)
        assert time.perf_counter() - began < 5
        for wire in wires:
            assert (await wire.answer()).startswith(b"HTTP/1.1 408")
            await wire.close()


@pytest.mark.parametrize("lines", [[f"x-{n}: {'y' * 300}" for n in range(150)], [f"x-long: {'y' * 40_000}"]])
async def test_headers_without_end(backend: ScriptedBackend, lines: list[str]) -> None:
    """uvicorn's parser has an end of its own; below it the gateway's bound counts."""
    async with serving(backend) as url, Wire(url) as wire:
        await wire.send(wire.head("POST", "/v1/chat/completions", f"content-length: {len(BODY)}", *lines) + BODY)
        answer = await wire.answer()
        assert answer[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400")
    assert len(backend.requests) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a port without it
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http(backend: ScriptedBackend, raw: bytes) -> None:
    async with serving(backend) as url, Wire(url) as wire:
        await wire.send(raw)
        wire.finish()
        answer = await wire.answer()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert len(backend.requests) == 1


async def test_a_connection_that_is_closed_by_half(backend: ScriptedBackend) -> None:
    """Whoever says that he sends no more has gone, as far as the server can see: nothing runs on for him."""
    backend.script = lambda request: [opened(request), said("It", 0), 30.0]
    async with serving_only(backend) as url, Wire(url) as wire:
        await wire.send(wire.post(json.dumps(chat(stream=True)).encode()))
        await until(lambda: len(backend.running) == 1)
        wire.finish()
        await until(lambda: not backend.running)
        assert list(backend.ends.values()) == ["closed"]


async def test_half_a_body_and_then_nothing(backend: ScriptedBackend) -> None:
    async with serving(backend) as url:
        async with Wire(url) as wire:
            await wire.send(wire.head("POST", "/v1/chat/completions", f"content-length: {len(BODY)}") + BODY[:20])
            wire.finish()
            await wire.answer()
        assert backend.requests == []


@asynccontextmanager
async def serving_only(backend: ScriptedBackend) -> AsyncIterator[str]:
    async with listening(create_app(config(), lambda: backend)) as url:
        yield url
