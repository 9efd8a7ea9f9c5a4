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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.messages import Delta, Ending

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


@dataclass(slots=True)
class Account:
    """What one generation did, for the log: of at most `max_tokens` tokens and `max_steps` steps."""

    max_tokens: int
    max_steps: int | None
    num_steps: int = 0
    began_at: float = field(default_factory=time.time)
    text: str = ""
    token_times: list[float] = field(default_factory=list)
    """When each token was handed out."""
    is_whole: bool = False
    """Whether it said all that it was asked for; else it was closed before, or broke."""

    def wrote(self, delta: Delta) -> None:
        """`delta` is handed out now."""
        self.text += delta.text
        self.token_times += [time.time()] * len(delta.token_ids)
        if delta.ending is not None:
            self.num_steps += 1
            is_full = len(self.token_times) >= self.max_tokens or self.num_steps == self.max_steps
            is_last = delta.ending is Ending.END or (delta.ending.is_last and self.max_steps is not None)
            self.is_whole = is_full or is_last

    def closed(self, prompt: str) -> dict[str, Any]:
        """The generation is over."""
        return asdict(self) | {"ended_at": time.time(), "prompt": prompt}


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
