"""The files of a chaos run: ``events.jsonl`` as things happen, ``report.json`` at its end.

Promises: a folder that cannot be used is an error before anything is started; a disk that refuses later stops no run,
and `finish` says so once its outcome was shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from actors.errors import RequestError


class Files:
    """Those in `folder`, or none. It is a context for as long as things happen."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._events: IO[bytes] | None = None
        self._refused: RequestError | None = None

    def __enter__(self) -> Self:
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                # Unbuffered, so that closing it writes nothing and cannot fail for want of space.
                self._events = (self._folder / "events.jsonl").open("wb", buffering=0)
            except OSError as error:
                raise _refusal(self._folder, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def add(self, event: Mapping[str, Any]) -> None:
        """Append `event`; nothing more after the disk has refused one."""
        if self._events is None or self._folder is None or self._refused is not None:
            return
        rest = json.dumps(event).encode() + b"\n"
        try:
            while rest:
                rest = rest[self._events.write(rest) :]
        except OSError as error:
            self._refused = _refusal(self._folder, error)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write `report`. RequestError if that cannot be done, or if events are missing."""
        if self._folder is None:
            return
        try:
            (self._folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise _refusal(self._folder, error) from error
        if self._refused is not None:
            raise self._refused


def _refusal(folder: Path, error: OSError) -> RequestError:
    return RequestError(f"The files of the run cannot be written to {folder}: {error.strerror}.", "out")
