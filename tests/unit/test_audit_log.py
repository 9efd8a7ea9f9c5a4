"""The files of the audit log: whole lines, bounded files, bounded memory, and an honest count of what is missing."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.errors import ConfigError, RequestError
from deployments.telemetry.audit_log import AuditLog
from deployments.telemetry.audit_reading import explain, find

HEAD = {"record": "settings", "verifiers": {}}


def log(folder: Path, **options: Any) -> AuditLog:
    options = {"max_bytes": 1_000_000, "keep": 3, "retry_s": 0.02} | options
    return AuditLog(folder, "a", HEAD, **options)


def decision(number: int, request_id: str = "r") -> dict[str, Any]:
    return {"record": "decision", "time": time.time(), "request_id": request_id, "position": number, "step": number}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().split(b"\n") if line]


def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


class Disk:
    """`os.write` that can be full, slow, or tear a line."""

    def __init__(self) -> None:
        self.room = 10**9
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, file: int, data: bytes) -> int:
        self.go_on.wait(10)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[: self.room]
        self.room -= len(taken)
        return os.write(file, taken)


class Counts:
    def __init__(self) -> None:
        self.written = self.lost = 0

    def __call__(self, written: int, lost: int) -> None:
        self.written += written
        self.lost += lost


def test_lines_of_many_threads_are_whole_and_all_there(tmp_path: Path) -> None:
    counts = Counts()
    audit = log(tmp_path, count=counts)
    threads = [
        threading.Thread(target=lambda n=n: [audit.append(decision(i, f"r{n}")) for i in range(500)]) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    found = lines(audit.path)
    assert found[0]["record"] == "settings"
    for n in range(8):
        assert [r["position"] for r in found[1:] if r["request_id"] == f"r{n}"] == list(range(500))
    assert (counts.written, counts.lost) == (4000, 0)
    assert audit.path.stat().st_mode & 0o777 == 0o600


def test_files_are_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    audit = log(tmp_path, max_bytes=4096, keep=2)
    for number in range(200):
        audit.append(decision(number))
    audit.close()
    files = [audit.path, *(tmp_path / f"audit-a.{n}.jsonl" for n in (1, 2))]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 4096 for file in files)
    assert all(lines(file)[0]["record"] == "settings" for file in files)
    kept = [r["position"] for file in reversed(files) for r in lines(file)[1:]]
    assert kept == list(range(kept[0], 200))
    assert kept[0] > 0


def test_no_file_is_kept_beside_the_one_that_grows(tmp_path: Path) -> None:
    audit = log(tmp_path, max_bytes=4096, keep=0)
    for number in range(100):
        audit.append(decision(number))
    audit.close()
    assert list(tmp_path.iterdir()) == [audit.path]
    assert lines(audit.path)[-1]["position"] == 99


def test_nothing_is_passed_by_or_told_twice_where_a_file_is_put_aside_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current, first, second = (tmp_path / f"audit-a{number}.jsonl" for number in ("", ".1", ".2"))
    for position, file in ((0, first), (1, current)):
        file.write_text(json.dumps(decision(position), separators=(",", ":")) + "\n")
    opened: list[Path] = []
    open_file = Path.open

    def open_and_put_aside(file: Path, *arguments: Any, **options: Any) -> Any:
        found = open_file(file, *arguments, **options)
        if not opened:
            first.replace(second)
            current.replace(first)
            current.touch()
        opened.append(file)
        return found

    monkeypatch.setattr(Path, "open", open_and_put_aside)
    assert [d["position"] for d in find(tmp_path, "r").decisions] == [0, 1]
    assert len(opened) == 3


def test_a_line_torn_by_a_crash_is_ended_and_passed_over(tmp_path: Path) -> None:
    audit = log(tmp_path)
    audit.append(decision(0))
    audit.close()
    with audit.path.open("ab") as file:
        file.write(b'{"record":"decision","request_id":"r","posi')
    again = log(tmp_path)
    again.append(decision(1) | {"outcome": "target", "reason": "none"})
    again.close()
    found = find(tmp_path, "r")
    assert [d["position"] for d in found.decisions] == [0, 1]
    assert found.num_damaged == 1
    assert "1 lines of the log cannot be read." in explain(found, 1)
    with again.path.open("ab") as file:
        file.write(b'{"record":"end","request_id":"r"')  # a crash that nobody came after
    assert find(tmp_path, "r").num_damaged == 2


def test_a_full_disk_loses_records_honestly_and_never_holds_anybody_up(tmp_path: Path) -> None:
    disk, counts = Disk(), Counts()
    records = [decision(number) | {"time": 1.5, "outcome": "target", "reason": "x"} for number in range(32)]
    room = sum(len(json.dumps(record, separators=(",", ":"))) + 1 for record in records[2:20])
    audit = log(tmp_path, write=disk, count=counts, max_pending_bytes=room)
    audit.append(records[0])
    until(lambda: counts.written == 1)
    disk.room = 150  # a whole line, and a part of the next one
    for record in records[1:11]:
        audit.append(record)
    until(lambda: counts.written == 2)
    began = time.perf_counter()
    for record in records[11:31]:
        audit.append(record)
    assert time.perf_counter() - began < 0.5
    assert audit._pending == room
    assert counts.lost == 11
    disk.room = 10**9
    until(lambda: counts.written + counts.lost == 31)
    audit.append(records[31])
    audit.close()
    found = [json.loads(line) for line in audit.path.read_bytes().split(b"\n") if line.endswith(b"}")]
    kept = [r["position"] for r in found if r["record"] == "decision"]
    (told,) = [r for r in found if r["record"] == "lost"]
    assert kept == [*range(20), 31]
    assert told["num_records"] == counts.lost == 11
    assert 0 < told["since"] <= told["until"] <= told["time"]
    assert find(tmp_path, "r").num_lost == 11
    assert "11 records were lost while it ran, which may be its own." in explain(find(tmp_path, "r"), 31)


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk, counts = Disk(), Counts()
    disk.room = 0
    audit = log(tmp_path, write=disk, count=counts)
    for number in range(50):
        audit.append(decision(number))
    until(lambda: "cannot be written" in caplog.text)
    for number in range(50, 100):
        audit.append(decision(number))
    time.sleep(0.2)  # it is tried again, and refused, several times
    disk.room = 10**9
    until(lambda: counts.written == 100)
    audit.close()
    assert [r["position"] for r in lines(audit.path) if r["record"] == "decision"] == list(range(100))
    assert (counts.lost, caplog.text.count("cannot be written")) == (0, 1)


def test_what_still_waits_when_the_log_is_closed_is_counted(tmp_path: Path) -> None:
    disk, counts = Disk(), Counts()
    disk.room = 0
    audit = log(tmp_path, write=disk, count=counts)
    for number in range(10):
        audit.append(decision(number))
    audit.close()
    assert (counts.written, counts.lost) == (0, 10)


def test_a_slow_disk_costs_no_more_memory_than_the_bound(tmp_path: Path) -> None:
    disk, counts = Disk(), Counts()
    audit = log(tmp_path, write=disk, count=counts, max_pending_bytes=10_000)
    disk.go_on.clear()
    for number in range(1000):
        audit.append(decision(number))
    assert audit._pending <= 10_000
    assert counts.lost > 800
    disk.go_on.set()
    audit.close()
    kept = [r for r in lines(audit.path) if r["record"] == "decision"]
    assert len(kept) + counts.lost == 1000
    assert len(kept) == counts.written


def test_a_record_that_is_no_json_is_counted_as_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = Counts()
    audit = log(tmp_path, count=counts)
    audit.append({"record": "decision", "score": float("nan")})
    audit.append({"record": "decision", "score": object()})
    audit.close()
    assert counts.lost == 2
    assert "cannot be written as JSON" in caplog.text


def test_a_closed_log_takes_nothing_and_says_so(tmp_path: Path) -> None:
    counts = Counts()
    audit = log(tmp_path, count=counts)
    audit.close()
    audit.append(decision(0))
    assert counts.lost == 1


def test_a_folder_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"telemetry\.audit\.path"):
        log(tmp_path / "file" / "folder")


def test_what_is_not_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no audit log"):
        find(tmp_path, "r")
    audit = log(tmp_path)
    audit.append(decision(0, "other"))
    audit.close()
    with pytest.raises(RequestError, match="no request 'r'"):
        find(tmp_path, "r")


def test_changed_settings_stand_behind_what_was_recorded_before_and_begin_the_next_files(tmp_path: Path) -> None:
    written = log(tmp_path, max_bytes=300)
    written.append(decision(0))
    written.renew({**HEAD, "verifiers": {"v": {}}})
    for number in range(1, 4):
        written.append(decision(number))
    written.close()
    files = [lines(tmp_path / f"audit-a{number}.jsonl") for number in (".2", ".1", "")]
    assert [[line.get("position", line.get("verifiers")) for line in file] for file in files] == [
        [{}, 0, {"v": {}}],
        [{"v": {}}, 1, 2],
        [{"v": {}}, 3],
    ]
