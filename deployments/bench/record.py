"""``requests.jsonl``: one line for each measured request, written as soon as it is over; ``reviews.jsonl``: what was
found out about it afterwards, when nothing was being measured.

Promises: a line is never changed or removed; a run that was stopped at any moment goes on where it was, and a line that
was cut by the stop is dropped; of several lines for one request the last one counts, and of several reviews of a line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from actors.errors import RequestError
from deployments.bench.plan import Load

Key = tuple[Load, str, int]
REQUESTS_FILE = "requests.jsonl"
_REVIEWS_FILE = "reviews.jsonl"
_Line = TypeVar("_Line", "Measurement", "Review")


@dataclass(frozen=True, slots=True)
class Review:
    """What was found out about one measured request. `started_at` and `request_id` say which; `correct` is None where
    the answer could not be judged, and `note` says why an answer is wrong or not judged. `time_use` are seconds by what
    they went to, `positions` (accepted, rejected) draft steps by how far ahead they were drafted: None where the server
    told nothing. `waits`: the answer is a program that was not run yet; another review follows when it was."""

    started_at: float
    request_id: str
    correct: bool | None
    note: str = ""
    time_use: dict[str, float] | None = None
    positions: list[list[int]] | None = None
    token_counts: dict[str, dict[str, float]] | None = None
    """What the engines' token-level speculation counted in the whole block (`bench.token_counts`): it stands at one
    request of each block, so that over a row it adds up to all of it."""
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """One request and its answer. Times in seconds, `started_at` and `ended_at` since 1970, `late_s` how long after its
    time an open loop sent it; `error` is a sentence, or None if the answer is whole; `block_started_at` says which
    block of the run it belongs to. `review` is not part of the line: it is made later."""

    mode: str
    concurrency: int | None
    index: int
    question: str
    answer: str | None
    text: str
    reasoning: str
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
    rate: float | None = None
    first_step_s: float | None = None
    longest_silence_s: float | None = None
    late_s: float = 0.0
    block_started_at: float | None = None
    review: Review | None = None

    @property
    def load(self) -> Load:
        """How it arrived."""
        return Load(self.concurrency, self.rate)

    @property
    def key(self) -> Key:
        """What is measured once: load, mode, prompt."""
        return (self.load, self.mode, self.index)

    @property
    def is_whole(self) -> bool:
        """Whether it was answered without an error."""
        return self.error is None

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None where that is not known (yet)."""
        return self.review.correct if self.review else None


def latest(lines: Iterable[Measurement]) -> dict[Key, Measurement]:
    """The last line of each request."""
    return {line.key: line for line in lines}


class Record:
    """The open files. Use it as a context; `lines` holds what was there when opened and all that was added."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / REQUESTS_FILE
        self.lines: list[Measurement] = []
        self._reviews_path = folder / _REVIEWS_FILE
        self._files: dict[Path, IO[str]] = {}

    def __enter__(self) -> Self:
        reviews = {(r.started_at, r.request_id): r for r in _read(self._reviews_path, Review)}
        lines = _read(self.path, Measurement)
        self.lines = [replace(line, review=reviews.get((line.started_at, line.request_id))) for line in lines]
        for path in (self.path, self._reviews_path):
            try:
                self._files[path] = path.open("a", encoding="utf-8")
            except OSError as error:
                self._close()
                raise _unusable(path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        refused = self._close()
        if refused is not None and error is None:  # else the error that is on its way says more
            raise refused

    def _close(self) -> RequestError | None:
        """Close all files, whatever one of them does; the first refusal: a line that could not be written is tried once
        more here."""
        refused: RequestError | None = None
        for path, file in self._files.items():
            try:
                file.close()
            except OSError as error:
                refused = refused or _unusable(path, error)
        self._files.clear()
        return refused

    def add(self, line: Measurement) -> None:
        """Append `line` and hand it to the operating system at once."""
        data = asdict(line)
        del data["review"]
        self._write(self.path, data)
        self.lines.append(line)

    def unreviewed(self) -> list[Measurement]:
        """The lines that count and were not looked at yet."""
        return [line for line in latest(self.lines).values() if line.review is None]

    def waiting(self) -> list[tuple[Measurement, Review]]:
        """The lines that count and whose program was not run yet."""
        return [(line, line.review) for line in latest(self.lines).values() if line.review and line.review.waits]

    def review(self, line: Measurement, review: Review) -> None:
        """Append what was found out about `line`."""
        self._write(self._reviews_path, asdict(review))
        self.lines[self.lines.index(line)] = replace(line, review=review)

    def _write(self, path: Path, data: dict[str, Any]) -> None:
        file = self._files.get(path)
        if file is None:
            raise ValueError("the record is not open")
        try:
            file.write(json.dumps(data, ensure_ascii=False) + "\n")
            file.flush()
        except OSError as error:
            raise _unusable(path, error) from error


def read_requests(run: Path) -> list[dict[str, Any]]:
    """What a run has measured: the last line of each request, in the order in which they were first asked, with the
    trace None where there is none, it could not be had or was cut. `run` is its folder, or the file itself. OSError or
    ValueError where it cannot be read."""
    file = run / REQUESTS_FILE if run.is_dir() else run
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    # Not `splitlines`: other ends of lines than a line feed may stand in a text.
    for number, text in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not text.strip():
            continue
        line = json.loads(text)
        if not isinstance(line, dict) or not {"mode", "index"} <= line.keys():
            raise ValueError(f"line {number} is no measured request, with `mode` and `index`")
        trace = line.get("trace")
        key = (line.get("concurrency"), line.get("rate"), line["mode"], line["index"])
        found[key] = line | {"trace": trace if trace and "spans" in trace and not trace.get("cut") else None}
    return list(found.values())


def _read(path: Path, kind: type[_Line]) -> list[_Line]:
    try:
        whole = _read_whole_lines(path)
    except OSError as error:
        raise _unusable(path, error) from error
    return [_parse(line, kind, f"{path}, line {number}") for number, line in enumerate(whole, start=1)]


def _read_whole_lines(path: Path) -> list[str]:
    """The lines of `path`; a last line without its end is cut off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.decode("utf-8", "replace").removesuffix("\n").split("\n") if whole else []


def _unusable(path: Path, error: OSError) -> RequestError:
    return RequestError(f"{path} cannot be used: {error.strerror}.", "out")


def _parse(line: str, kind: type[_Line], where: str) -> _Line:
    try:
        data = json.loads(line)
        return kind(**{f.name: data[f.name] for f in fields(kind) if f.name in data})
    except (ValueError, TypeError) as error:
        raise RequestError(f"{where} is broken ({error}); use another --out.", "out") from error
