"""Readers that sleep: they wake when something is written, and stay vLLM's own where nothing rings."""

from __future__ import annotations

import multiprocessing
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from vllm.distributed.device_communicators import shm_broadcast

from actors.engines.waiting import MOST_READERS, Doorbell, change

SPAWN = multiprocessing.get_context("spawn")
PAUSE_S = 0.03


@pytest.fixture
def bell() -> Iterator[Callable[[bool], Doorbell]]:
    """Makes bells of one queue: of the readers, and of the writer."""
    name = uuid.uuid4().hex
    with ExitStack() as made:

        def make(listens: bool) -> Doorbell:
            one = Doorbell(name, listens=listens)
            made.callback(one.close)
            return one

        yield make


Bell = Callable[[bool], Doorbell]


def test_who_has_never_been_rung_for_does_not_sleep(bell: Bell) -> None:
    reader, writer = bell(True), bell(False)
    begun = time.monotonic()
    assert not reader.wait(5.0)
    assert time.monotonic() - begun < 1.0
    writer.ring()
    assert reader.wait(5.0)


def test_a_ring_wakes_every_reader_at_once(bell: Bell) -> None:
    writer, readers = bell(False), [bell(True) for _ in range(3)]
    writer.ring()
    assert all(reader.wait(5.0) for reader in readers)
    timer = threading.Timer(PAUSE_S, writer.ring)
    begun = time.monotonic()
    timer.start()
    assert all(reader.wait(5.0) for reader in readers)
    assert PAUSE_S / 2 < time.monotonic() - begun < 2.0
    timer.join()


def test_a_ring_before_the_sleep_is_not_missed_and_counts_once(bell: Bell) -> None:
    reader, writer = bell(True), bell(False)
    for _ in range(1000):  # far more than a socket keeps
        writer.ring()
    begun = time.monotonic()
    assert reader.wait(5.0)
    assert time.monotonic() - begun < 1.0
    begun = time.monotonic()
    assert reader.wait(PAUSE_S)
    assert time.monotonic() - begun > PAUSE_S / 2


def test_a_ring_without_readers_or_after_they_are_gone_is_nothing(bell: Bell) -> None:
    writer = bell(False)
    writer.ring()
    bell(True).close()
    writer.ring()


def test_a_reader_that_has_ended_does_not_hide_the_others(bell: Bell) -> None:
    writer, first, second = bell(False), bell(True), bell(True)
    writer.ring()
    assert first.wait(5.0)
    assert second.wait(5.0)
    first.close()
    timer = threading.Timer(PAUSE_S, writer.ring)
    begun = time.monotonic()
    timer.start()
    assert second.wait(5.0)
    assert time.monotonic() - begun < 2.0
    timer.join()


def test_too_many_readers_are_refused(bell: Bell) -> None:
    for _ in range(MOST_READERS):
        bell(True)
    with pytest.raises(OSError, match="read one queue"):
        bell(True)


def reads(handle: Any, num_messages: int, found: Any) -> None:
    """In a process of its own, with a changed condition: the messages, and the processor's time they took."""
    change(shm_broadcast.SpinCondition)
    queue = shm_broadcast.MessageQueue.create_from_handle(handle, 0)
    queue.wait_until_ready()
    messages, begun = [queue.dequeue()], time.process_time()
    messages += [queue.dequeue() for _ in range(num_messages - 1)]
    found.put((messages, time.process_time() - begun))


@pytest.fixture
def condition(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """vLLM's own, whatever another test has imported; it is as before when the test ends."""
    one = shm_broadcast.SpinCondition
    for name in ("wait", "notify"):
        method = getattr(one, name)
        monkeypatch.setattr(one, name, getattr(method, "__wrapped__", method))
    monkeypatch.setattr(one, "lookahead_bell", None, raising=False)
    monkeypatch.delattr(one, "lookahead_bell")
    return one


def taken_s(writer_rings: bool, condition: type[Any], num_messages: int = 20) -> float:
    """Processor time of a changed reader of messages that come every `PAUSE_S`; all of them must come, in order."""
    if writer_rings:
        change(condition)
    queue = shm_broadcast.MessageQueue(1, 1, max_chunk_bytes=1024)
    found = SPAWN.Queue()
    reader = SPAWN.Process(target=reads, args=(queue.export_handle(), num_messages, found))
    reader.start()
    try:
        queue.wait_until_ready()
        for number in range(num_messages):
            queue.enqueue(number)
            time.sleep(PAUSE_S)
        messages, seconds = found.get(timeout=30.0)
        reader.join(30.0)
    finally:
        reader.kill()
    assert messages == list(range(num_messages))
    return float(seconds)


def test_a_reader_of_vllms_queue_sleeps_where_the_writer_rings(condition: type[Any]) -> None:
    assert taken_s(True, condition) < 0.25 * 20 * PAUSE_S


def test_a_reader_of_vllms_queue_stays_awake_where_the_writer_does_not_ring(condition: type[Any]) -> None:
    begun = time.monotonic()
    taken_s(False, condition)
    assert time.monotonic() - begun < 25.0


def test_what_is_changed_already_stays(condition: type[Any]) -> None:
    change(condition)
    once = condition.wait
    change(condition)
    assert condition.wait is once


def test_what_is_not_vllms_condition_is_refused() -> None:
    with pytest.raises(AttributeError):
        change(type("Other", (), {}))
