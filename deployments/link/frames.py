"""Messages on a TCP connection: a length, then a pickle. Both ends of a link build on `Connection`.

Promises: messages arrive whole and in order; all that is said in one turn of the event loop leaves in one write;
nothing is unpickled before the other end has shown the secret that it was given over Ray; a length beyond
`MAX_FRAME_BYTES` ends the connection.
"""

from __future__ import annotations

import asyncio
import hmac
import pickle  # nosec B403 # between our own processes only
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, cast

HEADER_BYTES = 4
MAX_FRAME_BYTES = 256 * 1024 * 1024
SECRET_BYTES = 32
MAX_UNSENT_BYTES = 1024 * 1024
"""With more than this on its way to a reader that does not read, streams wait."""

# What a caller says: (CALL, number, method, args), (END, number), (MORE, number, count), (ALIVE,), (KEEP, place, part);
# to a replica that is leaving, (NEEDS, whether the caller has more to ask and nobody else to ask it of).
CALL, END, MORE, ALIVE, KEEP, NEEDS = "call", "end", "more", "alive", "keep", "needs"
# What a replica says: (ITEM, number, value), (RESULT, number, value) where there is one item only, (DONE, number),
# (FAILED, number, error), (LOAD, load, calls of this caller in it), (LEAVING,), (KEEPS, number of places).
ITEM, RESULT, DONE, FAILED, LOAD, LEAVING, KEEPS = "item", "result", "done", "failed", "load", "leaving", "keeps"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica listens. Told over Ray's own, authenticated channel only."""

    replica: str
    host: str
    port: int
    secret: bytes = field(repr=False)
    capacity: int
    """Calls at once beyond which more of them wait."""


class Connection(asyncio.Protocol, ABC):
    """One end. A subclass says what a message means (`on_message`) and what the end of the connection (`on_lost`)."""

    def __init__(self, expected: bytes | None = None) -> None:
        """`expected`: the secret that has to come before any message; None: this end has called, and trusts."""
        self._expected = expected
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._unsent: list[bytes] = []
        self._room = asyncio.Event()
        self._room.set()
        self.heard_at = 0.0
        """When the other end was last heard of, by the event loop's clock."""

    @property
    def is_open(self) -> bool:
        """Whether anything said now has a chance to arrive."""
        return self._transport is not None and not self._transport.is_closing()

    @abstractmethod
    def on_message(self, message: tuple[Any, ...]) -> None:
        """A message has arrived."""

    @abstractmethod
    def on_lost(self) -> None:
        """The connection is gone; nothing comes any more."""

    def say(self, *message: Any) -> None:
        """Send `message` with whatever else is said in this turn; on a connection that is gone it is dropped."""
        if not self.is_open:
            return
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent += (len(data).to_bytes(HEADER_BYTES, "big"), data)

    def say_secret(self, secret: bytes) -> None:
        """The first thing that is said by the end that has called."""
        self._unsent.append(secret)
        self._flush()

    async def room(self) -> None:
        """Wait until the other end has read so much that more may be said."""
        await self._room.wait()

    def close(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio's
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        self.heard_at = asyncio.get_running_loop().time()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed, by whichever end."""
        self._room.set()
        self.on_lost()

    def pause_writing(self) -> None:
        """The other end does not read."""
        self._room.clear()

    def resume_writing(self) -> None:
        """The other end reads again."""
        self._room.set()

    def data_received(self, data: bytes) -> None:
        """Cut what has arrived into messages."""
        self.heard_at = asyncio.get_running_loop().time()
        self._buffer += data
        if self._expected is not None and not self._is_welcome():
            return
        start, size = 0, len(self._buffer)
        while size - start >= HEADER_BYTES:
            length = int.from_bytes(self._buffer[start : start + HEADER_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                self.close()
                return
            end = start + HEADER_BYTES + length
            if end > size:
                break
            with memoryview(self._buffer) as view:
                message = pickle.loads(view[start + HEADER_BYTES : end])  # nosec B301 # after the secret
            start = end
            self.on_message(message)
        del self._buffer[:start]

    def _is_welcome(self) -> bool:
        """Whether the secret has come. A wrong one ends the connection before anything is read of it."""
        if len(self._buffer) < SECRET_BYTES:
            return False
        if self._expected is not None and not hmac.compare_digest(bytes(self._buffer[:SECRET_BYTES]), self._expected):
            self.close()
            self._buffer.clear()
            return False
        del self._buffer[:SECRET_BYTES]
        self._expected = None
        return True
