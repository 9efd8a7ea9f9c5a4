"""A folder through which somebody outside tells a scripted engine to misbehave, and in which it writes what it did.

Promises: without a folder nothing is read or written, so that no engine of a model ever listens; an order counts for
the one process whose number its file has, from at most `READ_EVERY_S` after the file is there until it is gone; a file
that cannot be read is no order. Times in the log are seconds of the wall clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

READ_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Orders:
    """How to misbehave."""

    slow: float = 1.0
    """Everything takes so many times as long."""
    garbage: str = ""
    """Which nonsense to say; the names are those of whoever says it."""


OBEDIENT = Orders()


class ControlFolder:
    """This process' side of a folder; `folder` None: nobody is there."""

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._orders = OBEDIENT
        self._read_at = float("-inf")

    @property
    def is_there(self) -> bool:
        """Whether there is a folder at all."""
        return self._folder is not None

    def orders(self) -> Orders:
        """What is ordered now."""
        if self._folder is None:
            return OBEDIENT
        now = time.monotonic()
        if now - self._read_at >= READ_EVERY_S:
            self._read_at = now
            try:
                self._orders = Orders(**json.loads(_orders_file(self._folder, os.getpid()).read_bytes()))
            except (OSError, ValueError, TypeError):
                self._orders = OBEDIENT
        return self._orders

    def log(self, entry: dict[str, Any]) -> None:
        """Add a line to this process' log."""
        if self._folder is not None:
            with (self._folder / f"{os.getpid()}.log").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(entry) + "\n")


def give_orders(folder: Path, pid: int, orders: Orders) -> None:
    """From now on process `pid` follows `orders`, if it looks into `folder`."""
    draft = folder / f"{pid}.new"
    draft.write_text(json.dumps(asdict(orders)), encoding="utf-8")
    draft.replace(_orders_file(folder, pid))


def withdraw_orders(folder: Path, pid: int) -> None:
    """Process `pid` may do as it should again."""
    _orders_file(folder, pid).unlink(missing_ok=True)


def read_logs(folder: Path) -> Iterator[dict[str, Any]]:
    """All lines of all processes, each with its `pid`. The last line of a process that was killed may be half."""
    for file in sorted(folder.glob("*.log")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line) | {"pid": int(file.stem)}
            except ValueError:
                continue


def _orders_file(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.json"
