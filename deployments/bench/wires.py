"""Network namespaces as hosts, joined by wires that delay packets and lose some.

Promises: a process started in a host reaches the other hosts through the wire only, and nothing else; every packet is
delayed by `delay_s`, and lost with the probability `loss`, each way, from the moment these are set; namespaces and
devices are removed with the block, however it ends. Needs root, ``ip`` and ``/dev/net/tun``: `missing` says what is not
there.

Why packets are carried by a thread here: `netem`, which delays in the kernel, is a module that small kernels lack.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
MTU = 1400
DEVICE = "wire"
TUN = "/dev/net/tun"


@dataclass(frozen=True)
class Host:
    """A namespace and its address on the wire."""

    namespace: str
    address: str

    def command(self, *words: str) -> list[str]:
        """`words` as a command that runs in this host."""
        return ["ip", "netns", "exec", self.namespace, *words]


def missing() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "namespaces are made by root only"
    if shutil.which("ip") is None:
        return "the command 'ip' is not there (Debian: apt-get install iproute2)"
    if not Path(TUN).exists():
        return f"there is no {TUN}"
    return None


class Wire:
    """Carries packets between `devices`, by address. `delay_s` and `loss` may be changed while it runs."""

    def __init__(self, devices: dict[bytes, int]) -> None:
        self.delay_s = 0.0
        self.loss = 0.0
        self.num_carried = 0
        self.num_lost = 0
        self._devices = devices
        self._dice = random.Random(0)  # which packets are lost
        self._on_the_way: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="wire", daemon=True)

    def start(self) -> None:
        """Carry from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Carry no more."""
        self._stop.set()
        self._thread.join()

    def _carry(self) -> None:
        poll = select.poll()
        for device in self._devices.values():
            poll.register(device, select.POLLIN)
        while not self._stop.is_set():
            due_s = self._on_the_way[0][0] - time.monotonic() if self._on_the_way else 0.05
            for device, _ in poll.poll(max(0.0, min(0.05, due_s)) * 1000):
                self._take(device)
            self._deliver(time.monotonic())

    def _take(self, device: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                packet = os.read(device, MTU + 200)
                to = self._devices.get(packet[16:20]) if packet[0] >> 4 == 4 else None
                if to is None:
                    continue
                if self._dice.random() < self.loss:
                    self.num_lost += 1
                    continue
                heapq.heappush(self._on_the_way, (time.monotonic() + self.delay_s, next(self._numbers), to, packet))

    def _deliver(self, now: float) -> None:
        while self._on_the_way and self._on_the_way[0][0] <= now:
            _, _, to, packet = heapq.heappop(self._on_the_way)
            with contextlib.suppress(BlockingIOError):  # a full device loses packets, as a real one does
                os.write(to, packet)
                self.num_carried += 1


@contextlib.contextmanager
def hosts(names: Sequence[str], prefix: str = "lk") -> Iterator[tuple[list[Host], Wire]]:
    """A host for each of `names`, joined by one wire, as long as the block lasts."""
    made = [Host(f"{prefix}{os.getpid()}-{name}", f"10.213.0.{number}") for number, name in enumerate(names, 1)]
    devices: dict[bytes, int] = {}
    with contextlib.ExitStack() as stack:
        for host in made:
            _ip("netns", "add", host.namespace)
            stack.callback(_ip, "netns", "del", host.namespace)
            with inside(host):
                device = _tun(DEVICE)
            stack.callback(os.close, device)
            devices[socket.inet_aton(host.address)] = device
            inner = ("-n", host.namespace)
            _ip(*inner, "addr", "add", f"{host.address}/24", "dev", DEVICE)
            _ip(*inner, "link", "set", DEVICE, "mtu", str(MTU), "up")
            _ip(*inner, "link", "set", "lo", "up")
        wire = Wire(devices)
        wire.start()
        stack.callback(wire.stop)
        yield made, wire


@contextlib.contextmanager
def inside(host: Host) -> Iterator[None]:
    """Sockets that this thread opens in the block are the host's."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/var/run/netns/{host.namespace}") as there:
        _enter(libc, there.fileno())
        try:
            yield
        finally:
            _enter(libc, home.fileno())


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _tun(name: str) -> int:
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN_NO_PI))
    return device


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)  # nosec B603 B607  # our own words
