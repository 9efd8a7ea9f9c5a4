"""Reads audit logs, and says in words why a step of a request stands.

Promises: a line that is no record (torn by a crash, or damaged) is counted and passed over, never an error; records
come in the order of their time, whichever file they are in, and each once, also while files are put aside; what was
lost while the request ran is told with it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from actors.errors import RequestError

_FILE = re.compile(r"(audit-.+?)(?:\.(\d+))?\.jsonl")
"""A log's name, and the number of a file of it that was put aside."""
Record = dict[str, Any]
ALWAYS = (b'{"record":"settings"', b'{"record":"lost"')
"""Lines of these are about all requests of a file."""


@dataclass
class Audited:
    """What the log has of one run of a request: an id may be used more than once, and a request may go on elsewhere in
    another run."""

    request_id: str
    begin: Record | None = None
    decisions: list[Record] = field(default_factory=list)
    end: Record | None = None
    checks: dict[str, list[Record]] = field(default_factory=dict)
    """The checks of verifiers, by the digest of their rules."""
    run: int = 1
    """Which run this is, counted from 1 in the order of time."""
    num_runs: int = 1
    num_resumed: int = 0
    """Runs that went on behind an earlier one."""
    num_damaged: int = 0
    """Lines of the whole log that are no records."""
    num_lost: int = 0
    """Records that were lost while the request ran; they may have been its own."""

    @property
    def first_step(self) -> int:
        """The number of the first step that this run decided."""
        return int((self.begin or {}).get("resumed_at") or 0)

    def at(self, step: int) -> list[Record]:
        """The decision about step number `step` of the output; empty where nothing was decided there."""
        return [d for d in self.decisions if _covers(d, step)]


def _names(path: Path) -> list[list[Path]]:
    """What the files of each log are called, the one that grows first: of the log at `path`, or of all in that folder.
    RequestError where there is none."""
    if path.is_file():
        return [[path]]
    highest: dict[str, int] = {}
    for file in path.glob("audit-*.jsonl") if path.is_dir() else ():
        if named := _FILE.fullmatch(file.name):
            highest[named[1]] = max(highest.get(named[1], 0), int(named[2] or 0))
    if not highest:
        raise RequestError(f"There is no audit log at {path}.", "log")
    return [
        [path / f"{log}.jsonl", *(path / f"{log}.{number}.jsonl" for number in range(1, last + 2))]
        for log, last in sorted(highest.items())
    ]


@contextmanager
def _opened(names: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """The files of one log, the oldest first. They are opened in the order of `names`: one that is put aside meanwhile
    is met again under its next number, where the other way round it would be passed by."""
    with ExitStack() as stack:
        found: dict[tuple[int, int], IO[bytes]] = {}
        for name in names:
            try:
                file = stack.enter_context(name.open("rb"))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise RequestError(f"{name} cannot be read: {error.strerror}.", "log") from error
            status = os.fstat(file.fileno())
            found.setdefault((status.st_dev, status.st_ino), file)
        yield [*reversed(found.values())]


def find(path: Path, request_id: str, run: int | None = None) -> Audited:
    """What the log at `path`, a file or a folder of them, has of `request_id`; RequestError if it has nothing.

    `run` counts the runs with this id from 1; without it the last one is meant.
    """
    records: list[Record] = []
    damaged = 0
    for names in _names(path):
        with _opened(names) as files:
            found = [record for file in files for record in _read(file, request_id)]
        records += [record for record in found if record is not None]
        damaged += found.count(None)
    records.sort(key=lambda record: float(record["time"]))
    own = [record for record in records if record.get("request_id") == request_id]
    if not own:
        also = f" {damaged} lines of it cannot be read." if damaged else ""
        raise RequestError(f"The audit log at {path} has no request {request_id!r}.{also}", "request_id")
    return _gather(request_id, own, records, damaged, run)


def _gather(request_id: str, own: list[Record], records: list[Record], damaged: int, run: int | None) -> Audited:
    runs = list(dict.fromkeys(record.get("run") for record in own))
    number = len(runs) if run is None else run
    if not 1 <= number <= len(runs):
        raise RequestError(f"The log has {len(runs)} runs of the id {request_id!r}, counted from 1.", "run")
    num_resumed = sum(record.get("resumed_at") is not None for record in own if record["record"] == "begin")
    own = [record for record in own if record.get("run") == runs[number - 1]]
    found = Audited(request_id, run=number, num_runs=len(runs), num_resumed=num_resumed, num_damaged=damaged)
    for record in own:
        if record["record"] == "begin":
            found.begin = record
        elif record["record"] == "end":
            found.end = record
        elif record["record"] == "decision":
            found.decisions.append(record)
    for record in records:
        if record["record"] == "settings":
            for verifier in record.get("verifiers", {}).values():
                found.checks[verifier.get("rules", "")] = verifier.get("checks", [])
        elif record["record"] == "lost" and _overlap(record, own):
            found.num_lost += int(record.get("num_records", 0))
    return found


def _overlap(lost: Record, own: list[Record]) -> bool:
    began = float(own[0]["time"])
    ended = float(own[-1]["time"]) if own[-1]["record"] == "end" else float("inf")
    return float(lost.get("since", 0)) <= ended and float(lost.get("until", 0)) >= began


def _read(file: IO[bytes], request_id: str) -> Iterator[Record | None]:
    """The records about `request_id` or about all requests; None for a line that is none."""
    named = json.dumps(request_id).encode()
    try:
        for line in file:
            if not line.endswith(b"}\n"):
                yield None
            elif named in line or line.startswith(ALWAYS):
                yield _record(line)
    except OSError as error:
        raise RequestError(f"{file.name} cannot be read: {error.strerror}.", "log") from error


def _record(line: bytes) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    is_one = isinstance(value, dict) and isinstance(value.get("record"), str)
    return value if is_one and isinstance(value.get("time"), int | float) else None


def _covers(decision: Record, step: int) -> bool:
    first = decision.get("step")
    return isinstance(first, int) and first <= step < first + int(decision.get("num_steps", 1))


# --- words -----------------------------------------------------------------------------------------------------------

OUTCOMES = {
    "accepted": "the draft's step was accepted",
    "recovered": "the draft's step was rejected, and the target's own stands in its place",
    "target": "the target's own step stands",
    "cancelled": "a draft step was thrown away undecided",
    "merged": "a draft step was thrown away",
}


def explain(found: Audited, step: int | None) -> list[str]:
    """Sentences about `step`, or about every decision; RequestError where the request has no such step."""
    lines = [_about(found)]
    if step is None:
        lines += [line for decision in found.decisions for line in _about_decision(found, decision)]
    else:
        decisions = found.at(step)
        if not decisions:
            lines.append(_nothing_decided(found, step))
        lines += [line for decision in decisions for line in _about_decision(found, decision)]
    return lines + _caveats(found)


def _about(found: Audited) -> str:
    first = found.begin or found.end or found.decisions[0]
    words = f"Request {found.request_id} of {first.get('key') or 'nobody named'}, {_when(first['time'])}"
    if found.begin is not None:
        begin = found.begin
        judged = f"judged by {begin['verifier']!r}" if begin["verifier"] != "equal" else "only equal steps count"
        words += f", in mode {begin['mode']}, {judged}"
        if begin.get("is_guided"):
            words += "; the target wrote every token itself, with the draft's words as hints"
        if found.first_step:
            words += f"; it went on at step {found.first_step}, behind an earlier run"
    versions = first.get("versions", {})
    words += f". Version {versions.get('package')}, target {versions.get('target')}, draft {versions.get('draft')}."
    if found.end is not None:
        words += f" It ended after {found.end['duration_s']:.2f} s: {found.end['outcome']} ({found.end['reason']})."
    return words


def _about_decision(found: Audited, decision: Record) -> list[str]:
    step, num = decision.get("step"), int(decision.get("num_steps", 1))
    place = f"position {decision['position']}" if step is None else f"step {step}"
    if num > 1:
        place = f"{num} chunks from {place} on"
    line = f"{place[0].upper()}{place[1:]}: {OUTCOMES.get(decision['outcome'], decision['outcome'])}, because "
    line += f"{decision['reason']}."
    if decision.get("check") is not None:
        line += f" Decided by the check {decision['check']!r}"
        line += f" (score {decision['score']:.3f}" if decision.get("score") is not None else " (no score"
        line += f", probability {decision['probability']:.3f})." if decision.get("probability") is not None else ")."
    lines = [line]
    rules, begin = decision.get("rules", ""), found.begin or {}
    checks = found.checks.get(rules) or (begin.get("checks") if rules == begin.get("rules") else None)
    if decision.get("check") is not None and checks:
        lines.append(f"    rules {rules}: {'; '.join(_settings(check) for check in checks)}")
    for role in ("draft", "target"):
        known = decision.get(role)
        if known:
            text, digest = known.get("text"), known.get("sha256")
            what = json.dumps(text, ensure_ascii=False) if text is not None else f"sha256 {digest or 'not kept'}"
            lines.append(f"    {role}: {known['num_tokens']} tokens, {what}")
    return lines


def _settings(check: Record) -> str:
    options = [f"{name} {value}" for name, value in check.items() if name not in ("kind", "calibration")]
    return f"{check.get('kind')}" + (f" ({', '.join(options)})" if options else "")


def _nothing_decided(found: Audited, step: int) -> str:
    counts = (found.end or {}).get("counts") or {}
    num_steps = counts.get("num_steps")
    if isinstance(num_steps, int) and not 0 <= step < num_steps:
        raise RequestError(f"Request {found.request_id} has {num_steps} steps, counted from 0.", "step")
    if step < found.first_step:
        return f"Step {step}: it was decided by an earlier run of this id; --run chooses which one is told of."
    return f"Step {step}: nothing was decided there; the target wrote it with no draft step to judge."


def _caveats(found: Audited) -> list[str]:
    lines = []
    if found.num_runs > 1:
        num = max(found.num_runs - found.num_resumed, 1)
        used = f"{num} requests" if num > 1 else "one request"
        used += f", in {found.num_runs} runs" if num < found.num_runs else ""
        lines.append(f"The id was used for {used}; this is number {found.run} (--run chooses).")
    if found.num_lost:
        lines.append(f"{found.num_lost} records were lost while it ran, which may be its own.")
    if found.begin is None:
        lines.append("How it began is not in the log any more.")
    if found.end is None:
        lines.append("How it ended is not in the log: it runs, or its replica was lost.")
    if found.num_damaged:
        lines.append(f"{found.num_damaged} lines of the log cannot be read.")
    return lines


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="milliseconds")
