"""vLLM's processes on a CPU wait for each other asleep. Knows vLLM 0.32's queues between them.

Promises: no message is lost (each is announced to every reader, and a reader that missed the announcement looks by
itself after `LONGEST_S`); a reader sleeps only after its writer has announced something; what vLLM does before
`YIELDING_S` and after its own time of yielding stays as it is; an error leaves vLLM's way. On other devices nothing is
changed.

Why: for a second after each message vLLM's readers look for the next one in a loop and give up the processor in
between. On a GPU machine that costs a core that is idle anyway. On a CPU it is a core that a model computes on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import select
import socket
import time
import weakref
from typing import Any

YIELDING_S = 0.0002
"""Answers that come at once are waited for as vLLM does."""
LONGEST_S = 0.05
"""Whatever announcement was missed: so long a reader sleeps at most."""
MOST_READERS = 64

logger = logging.getLogger(__name__)


class Doorbell:
    """Wakes the readers of one queue: a Unix datagram socket each, with a name made of the queue's address, which
    belongs to this machine and ends with its process."""

    def __init__(self, name: str, *, listens: bool) -> None:
        """One of the readers, or the writer; OSError if there are `MOST_READERS` already."""
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._has_rung = False
        self._num_known = 0
        if listens:
            self._listen()

    def wait(self, longest_s: float) -> bool:
        """Sleep until somebody rings, or so long. False, at once, as long as nobody ever has."""
        if self._has_rung:
            self._poll.poll(1000.0 * longest_s)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
                self._has_rung = True
        return self._has_rung

    def ring(self) -> None:
        """Wake all who listen."""
        for number in range(MOST_READERS):
            try:
                self._socket.sendto(b"", self._address(number))
            except BlockingIOError:
                pass  # that one has been rung for often enough
            except OSError:
                if number >= self._num_known:
                    return  # the readers before this number are all
                continue  # this one has ended
            self._num_known = max(self._num_known, number + 1)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _listen(self) -> None:
        for number in range(MOST_READERS):
            with contextlib.suppress(OSError):
                self._socket.bind(self._address(number))
                self._poll.register(self._socket, select.POLLIN)
                return
        self.close()
        raise OSError(f"{MOST_READERS} processes read one queue.")

    def _address(self, number: int) -> str:
        return f"\0lookahead-{self._name}-{number}"


def wait_asleep() -> None:
    """In a process of vLLM on a CPU: its queues wake their readers from now on. Where they are others than expected, it
    says so and changes nothing."""
    try:
        from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            change(SpinCondition)
    except (ImportError, AttributeError, TypeError) as error:
        logger.warning("vLLM's processes wait for each other awake: %s: %s.", type(error).__name__, error)


def change(condition: type[Any]) -> None:
    """Make `condition`, vLLM's ``SpinCondition`` or one like it, ring and sleep. AttributeError if it is another."""
    if hasattr(condition, "lookahead_bell"):
        return
    wait, notify = condition.wait, condition.notify

    @functools.wraps(wait)
    def wait_for_bell(self: Any, timeout_ms: int | None = None) -> None:
        longest_s = LONGEST_S if timeout_ms is None else min(LONGEST_S, timeout_ms / 1000.0)
        bell = _bell(self) if YIELDING_S < time.monotonic() - self.last_read < self.busy_loop_s else None
        if bell is None or not bell.wait(longest_s):
            wait(self, timeout_ms)

    @functools.wraps(notify)
    def notify_and_ring(self: Any) -> None:
        notify(self)
        if (bell := _bell(self)) is not None:
            bell.ring()

    condition.lookahead_bell = None
    condition.wait, condition.notify = wait_for_bell, notify_and_ring


def _bell(condition: Any) -> Doorbell | None:
    """The one of this queue, made at its first use; None where it cannot be."""
    if condition.lookahead_bell is None:
        try:
            import zmq

            address = condition.local_notify_socket.getsockopt(zmq.LAST_ENDPOINT)
            bell = Doorbell(address.decode().rstrip("\0").rsplit("/", 1)[-1], listens=condition.is_reader)
            weakref.finalize(condition, bell.close)
            condition.lookahead_bell = bell
        except (OSError, AttributeError) as error:
            logger.warning("A queue of vLLM's is waited for awake: %s.", error)
            condition.lookahead_bell = False
    return condition.lookahead_bell or None
