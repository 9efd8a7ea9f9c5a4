"""Hosts joined by a wire: what is sent arrives later by the delay, and in spite of losses. Needs root."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time

import pytest

from deployments.bench.wires import Host, hosts, inside, missing

WHY = missing()


def echo(host: Host) -> socket.socket:
    """A server in `host` that answers one connection with what it sends."""
    with inside(host):
        server = socket.create_server((host.address, 7000))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    return server


def round_trip_s(connection: socket.socket, data: bytes) -> float:
    began = time.perf_counter()
    connection.sendall(data)
    left = len(data)
    while left:
        left -= len(connection.recv(65536))
    return time.perf_counter() - began


def test_what_is_missing_is_said() -> None:
    """On a machine without root or ``ip`` there is a reason, and with them there is none."""
    assert (WHY is None) or (os.geteuid() != 0) or ("is not there" in WHY) or ("there is no" in WHY)


@pytest.mark.skipif(WHY is not None, reason=f"hosts cannot be made here: {WHY}")
def test_hosts_reach_one_another_through_the_wire_only_and_it_takes_its_time() -> None:
    with hosts(["a", "b"]) as ((a, b), wire):
        with echo(b), inside(a):
            connection = socket.create_connection((b.address, 7000), timeout=20)
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert round_trip_s(connection, b"x") < 0.05
            wire.delay_s = 0.05
            assert 0.1 <= round_trip_s(connection, b"x") < 0.2
            wire.delay_s, wire.loss = 0.0, 0.2
            assert round_trip_s(connection, b"x" * 50_000) > 0
            assert wire.num_lost > 0
        with inside(a), pytest.raises(OSError, match="unreachable"):
            socket.create_connection(("192.0.2.1", 7000), timeout=1)
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert a.namespace not in left
