"""A connection that speaks HTTP by hand, for what no client library does."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

PATIENCE_S = 20.0


class Wire:
    """One connection to the server at `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # the server was first

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """The head of a request with JSON to come."""
        first = (f"{method} {path} HTTP/1.1", f"host: {self._host}", "content-type: application/json")
        return "\r\n".join((*first, "connection: close", *lines, "", "")).encode()

    def post(self, body: bytes, path: str = "/v1/chat/completions") -> bytes:
        """A whole request."""
        return self.head("POST", path, f"content-length: {len(body)}") + body

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), PATIENCE_S)

    async def send_until_answered(self, part: bytes, times: int, pause_s: float = 0.0) -> int:
        """Send `part` again and again, until the server says something or closes; how many bytes it took."""
        seen = asyncio.create_task(self._reader.read(65536))
        sent = 0
        try:
            for _ in range(times):
                if seen.done():
                    break
                await self.send(part)
                sent += len(part)
                await asyncio.sleep(pause_s)
        except OSError:
            pass  # closed: what it said before is still to be read
        self._first = await asyncio.wait_for(seen, PATIENCE_S)
        return sent

    async def read_some(self) -> None:
        """Wait for the first of an answer."""
        self._first = await asyncio.wait_for(self._reader.read(100), PATIENCE_S)

    def finish(self) -> None:
        """Send no more, but read on."""
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def answer(self) -> bytes:
        """All that the server says until it closes."""
        try:
            rest = await asyncio.wait_for(self._reader.read(-1), PATIENCE_S)
        except ConnectionError:
            rest = b""
        return getattr(self, "_first", b"") + rest
