"""``requests.jsonl``: one line for each measured request, written as soon as it is over.

Promises: a line is never changed or removed; a run that was stopped at any moment goes on where it was, and a line that
was cut by the stop is dropped; of several lines for one request the last one counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from actors.errors import RequestError
from deployments.bench.plan import REQUESTS_FILE

Key = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One request and its answer. Times in seconds, `started_at` and `ended_at` since 1970; `error` is a sentence, or
    None if the answer is whole; `correct` is None where the right answer is not known."""

    mode: str
    concurrency: int
    index: int
    question: str
    answer: str | None
    text: str
    reasoning: str
    correct: bool | None
    latency_s: float
    ttft_s: float | None
    output_tokens: int
    tokens_per_s: float
    started_at: float
    ended_at: float
    finish_reason: str | None = None
    request_id: str = ""
    speculation: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: str | None = None
    trace: dict[str, Any] | None = None
    token_counts: dict[str, dict[str, float]] | None = None
    """What the engines' token-level speculation counted since the answer before (`bench.token_counts`): over a
    row they add up to all of it."""

    @property
    def key(self) -> Key:
        """What is measured once: concurrency, mode, prompt."""
        return (self.concurrency, self.mode, self.index)


def latest(lines: Iterable[Measurement]) -> dict[Key, Measurement]:
    """The last line of each request."""
    return {line.key: line for line in lines}


class Record:
    """The open file. Use it as a context; `lines` holds what it held when opened and all that was added."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / REQUESTS_FILE
        self.lines: list[Measurement] = []
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            whole = _read_whole_lines(self.path)
            self.lines = [_parse(line, f"{self.path}, line {n}") for n, line in enumerate(whole, start=1)]
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise RequestError(f"{self.path} cannot be used: {error.strerror}.", "out") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, line: Measurement) -> None:
        """Append `line` and hand it to the operating system at once."""
        if self._file is None:
            raise ValueError("the record is not open")
        self._file.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")
        self._file.flush()
        self.lines.append(line)

    def settled(self, retry_failed: bool) -> set[Key]:
        """Requests that need no asking: answered, or failed where failures are not tried again."""
        return {key for key, line in latest(self.lines).items() if line.error is None or not retry_failed}


def _read_whole_lines(path: Path) -> list[str]:
    """The lines of `path`; a last line without its end is cut off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return whole.decode("utf-8", "replace").removesuffix("\n").split("\n") if whole else []


def _parse(line: str, where: str) -> Measurement:
    try:
        data = json.loads(line)
        return Measurement(**{f.name: data[f.name] for f in fields(Measurement) if f.name in data})
    except (ValueError, TypeError) as error:
        raise RequestError(f"{where} is broken ({error}); use another --out.", "out") from error
