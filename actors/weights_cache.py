"""Where finished model folders are kept, on a disk that several processes share.

Promises: a folder that `is_complete` calls complete was finished, and its files have the sizes they were finished with;
only one process at a time makes a folder, the others wait and then find it; a folder appears whole under its name or
not at all; what an interrupted attempt left is used again where that is safe and removed in the end.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from actors.errors import WeightsError

FORMAT_VERSION = 1
"""Raised when folders are made differently, so that older ones are made again."""

MARKER = ".lookahead-complete.json"

Phase = Literal["wait", "download", "join", "convert"]
Progress = Callable[[Phase, int, int], None]
"""Called with the phase, how much of it is done, and how much there is: bytes, or steps when converting. A total of 0
means that nobody knows."""


def silent(phase: Phase, done: int, total: int) -> None:
    """The progress of those who do not watch."""


def default_cache() -> Path:
    """``$LOOKAHEAD_CACHE``, or ``~/.cache/lookahead-serve``."""
    return Path(os.environ.get("LOOKAHEAD_CACHE") or "~/.cache/lookahead-serve").expanduser()


def is_complete(folder: Path, identity: str) -> bool:
    """Whether `folder` was finished from `identity`, in today's format, and no file is missing or cut."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if (marker["format_version"], marker["identity"]) != (FORMAT_VERSION, identity):
            return False
        return all((folder / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def keep(folder: Path, identity: str, make: Callable[[Path], Path], progress: Progress = silent) -> Path:
    """`folder`, complete. If it is not, ``make(staging)`` makes it in a staging folder beside it and returns where.

    After a failure the staging folder stays, so that the next attempt may go on from there. Raises what `make` raises,
    and WeightsError if the disk refuses.
    """
    if is_complete(folder, identity):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_name(f".{folder.name}.lock"), progress):
            if is_complete(folder, identity):
                return folder
            staging = folder.with_name(f".{folder.name}.staging")
            staging.mkdir(exist_ok=True)
            made = make(staging)
            _seal(made, identity)
            shutil.rmtree(folder, ignore_errors=True)
            made.replace(folder)
            shutil.rmtree(staging)
    except OSError as error:
        raise disk_error(error, folder.parent) from error
    return folder


def require_space(folder: Path, num_bytes: int) -> None:
    """WeightsError if the disk below `folder` has less than `num_bytes` left."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise WeightsError(
            f"Too little space in {folder}: {num_bytes / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free. "
            "Free some, or set LOOKAHEAD_CACHE to a folder on a larger disk."
        )


def disk_error(error: OSError, folder: Path) -> WeightsError:
    """What the disk said, and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "is full; free some space, or"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = "cannot be written; allow it, or"
    else:
        reason = f"cannot be used ({error}); repair it, or"
    return WeightsError(f"The model cache {folder} {reason} set LOOKAHEAD_CACHE to another folder.")


@contextmanager
def _alone(lock_file: Path, progress: Progress) -> Iterator[None]:
    """Holds the lock; says so if another process has it. The system releases it when a process dies."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("wait", 0, 0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _seal(folder: Path, identity: str) -> None:
    """Writes the marker, last, with the size of every file; lets other users of the machine read."""
    sizes: dict[str, int] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        path.chmod(path.stat().st_mode | 0o444)
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    marker = {"format_version": FORMAT_VERSION, "identity": identity, "files": sizes}
    (folder / MARKER).write_text(json.dumps(marker, indent=2), encoding="utf-8")
