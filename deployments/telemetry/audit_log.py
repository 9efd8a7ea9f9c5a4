"""Records into files, one JSON object a line, from a thread of its own.

Promises: `append` never waits for a disk and never raises; what waits to be written is bounded in bytes, and waits in
its order until the disk takes it; what finds no room there, or is still there when the log is closed, is counted as
lost, and as soon as the disk takes something again a `lost` record says how many records are missing and from when to
when. Files only grow, until they are put aside under the next number; the oldest goes when there are more than `keep`.
Each file begins with a `settings` record, and a change of them is another one. A line that was torn by a crash is ended
before the next.

What is not promised: a machine that loses its power loses what its file system had not written yet, and a process that
is killed the records of its last `BATCH_S` seconds.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors.errors import ConfigError

logger = logging.getLogger(__name__)

BATCH_S = 0.05
"""The writer waits so long after the first record for more."""
RETRY_S = 1.0
"""After the disk refused: what comes meanwhile waits too, while there is room."""
MAX_PENDING_BYTES = 8 * 1024 * 1024
SETTINGS = b'{"record":"settings"'
"""How the line begins that a file begins with."""


class AuditLog:
    """The files ``audit-NAME.jsonl`` and ``audit-NAME.1.jsonl`` (the newest of those put aside) in `folder`.

    `count(num_written, num_lost)` is told from the writer's thread. Raises ConfigError where the folder cannot be
    written to.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        head: Mapping[str, Any],
        *,
        max_bytes: int,
        keep: int,
        count: Callable[[int, int], None] = lambda written, lost: None,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        retry_s: float = RETRY_S,
        now: Callable[[], float] = time.time,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self._folder, self._name = Path(folder), name
        self._now, self._write = now, write
        self._head = _line({**head, "time": now()})
        self._max_bytes, self._keep, self._retry_s = max_bytes, keep, retry_s
        self._count, self._max_pending = count, max_pending_bytes
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._pending = 0
        self._num_lost = 0
        self._lost_since = self._lost_until = 0.0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._file: int | None = None
        self._size = 0
        self._is_torn = False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"telemetry.audit.path: {folder} cannot be made: {error.strerror}.") from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise ConfigError(f"telemetry.audit.path: nobody here may write to {folder}.")
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The file that grows."""
        return self._folder / f"audit-{self._name}.jsonl"

    def append(self, record: Mapping[str, Any]) -> None:
        """Hand over a record; it is lost, and counted, where too much is waiting."""
        try:
            line = _line(record)
        except (TypeError, ValueError):
            logger.exception("A record cannot be written as JSON")
            line = b""
        with self._lock:
            if line and self._pending + len(line) <= self._max_pending and not self._closing.is_set():
                self._lines.append(line)
                self._pending += len(line)
            else:
                self._lose(1)
        if not self._wake.is_set():
            self._wake.set()

    def renew(self, head: Mapping[str, Any]) -> None:
        """Another `settings` record: behind the records so far, and at the beginning of later files."""
        self.append({**head, "time": self._now()})

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits and end the thread, unless the disk takes longer than `timeout_s`."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        was_taken = True
        while True:
            self._wake.wait()
            self._closing.wait(BATCH_S)
            self._wake.clear()
            error = self._write_all()
            if error and was_taken:
                logger.warning("The audit log %s cannot be written: %s", self.path, error.strerror)
            was_taken = error is None
            if self._closing.is_set():
                with self._lock:
                    if error or not self._lines:
                        self._lose(len(self._lines))
                        self._lines.clear()
                        break
            elif error:
                self._closing.wait(self._retry_s)
                self._wake.set()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write_all(self) -> OSError | None:
        """Write what waits; the error with which the disk refused the rest, which waits on."""
        with self._lock:
            lines = list(self._lines)
        num_done, refused = 0, None
        try:
            self._tell_lost()
            for line in lines:
                self._put(line)
                num_done += 1
        except OSError as error:
            refused = error
        with self._lock:
            for _ in range(num_done):
                self._pending -= len(self._lines.popleft())
        self._count(num_done, 0)
        return refused

    def _tell_lost(self) -> None:
        with self._lock:
            num, since, until = self._num_lost, self._lost_since, self._lost_until
        if num:
            lost = {"record": "lost", "time": self._now(), "num_records": num, "since": since, "until": until}
            self._put(_line(lost))
            with self._lock:
                self._num_lost -= num
                self._lost_since = self._lost_until

    def _lose(self, num: int) -> None:
        """`num` records are gone; the lock is held."""
        if not num:
            return
        self._lost_until = self._now()
        if not self._num_lost:
            self._lost_since = self._lost_until
        self._num_lost += num
        self._count(0, num)

    def _put(self, line: bytes) -> None:
        if self._file is not None and self._size + len(line) > self._max_bytes:
            self._put_aside()
        if self._file is None:
            self._open()
        self._write_whole(line)
        if line.startswith(SETTINGS):
            self._head = line

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        self._is_torn = self._size > 0 and os.pread(self._file, 1, self._size - 1) != b"\n"
        try:
            self._write_whole(self._head)
        except OSError:
            os.close(self._file)
            self._file = None
            raise

    def _write_whole(self, line: bytes) -> None:
        if self._file is None:
            raise OSError("no file is open")
        rest = b"\n" + line if self._is_torn else line
        while rest:
            num = self._write(self._file, rest)
            self._size += num
            self._is_torn = num < len(rest)
            rest = rest[num:]

    def _put_aside(self) -> None:
        """Give every file the next number, and let go of the oldest."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        paths = [self.path, *(self._folder / f"audit-{self._name}.{n}.jsonl" for n in range(1, self._keep + 1))]
        paths[-1].unlink(missing_ok=True)
        for older, newer in zip(reversed(paths[1:]), reversed(paths[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False, default=_plain).encode("ascii") + b"\n"


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
