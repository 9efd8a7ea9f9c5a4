"""The folder of a run: it belongs to one plan and one model a mode, and keeps what each start ran on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from actors.errors import RequestError
from deployments.bench.folder import Starts, claim_folder, read_plan
from deployments.bench.record import Record, read_requests
from tests.unit.bench.test_plan_and_record import LINE, PLAN

START = {"started_at": 0.0, "command": "lookahead bench", "machine": {"cpu": "fast"}}


def started(folder, plan, start) -> Starts:
    """A start that has ended again."""
    with claim_folder(folder, plan, start) as starts:
        return starts


def test_folder_belongs_to_one_plan(tmp_path):
    folder = tmp_path / "run"
    assert len(started(folder, PLAN, START).runs) == 1
    with Record(folder) as record:
        record.add(LINE)
    assert len(started(folder, PLAN, START).runs) == 2
    with pytest.raises(RequestError, match="max_tokens was 10, now 11"):
        started(folder, replace(PLAN, max_tokens=11), START)


def test_a_folder_whose_blocks_were_cut_otherwise_is_refused(tmp_path):
    many = replace(PLAN, concurrency=(1, 2), rates=(0.5,))
    started(tmp_path, many, START)
    with Record(tmp_path) as record:
        record.add(LINE)
    assert len(started(tmp_path, many, START).runs) == 2
    path = tmp_path / "plan.json"
    held = json.loads(path.read_text())
    held["plan"]["num_blocks"] = {"2 at once": 1, "0.5 a second": 1}
    path.write_text(json.dumps(held))
    with pytest.raises(RequestError, match=r"was 2 at once: 1, 0\.5 a second: 1, now 2 at once: 2, 0\.5 a second: 1"):
        started(tmp_path, many, START)
    del held["plan"]["num_blocks"]
    path.write_text(json.dumps(held))
    with pytest.raises(RequestError, match="num_blocks was not noted, now"):
        started(tmp_path, many, START)


def test_a_folder_from_before_that_was_noted_is_gone_on_with_where_each_block_is_one_prompt(tmp_path):
    started(tmp_path, PLAN, START)
    with Record(tmp_path) as record:
        record.add(LINE)
    path = tmp_path / "plan.json"
    held = json.loads(path.read_text())
    del held["plan"]["num_blocks"]
    path.write_text(json.dumps(held))
    assert len(started(tmp_path, PLAN, START).runs) == 2


def test_folder_without_measurements_can_be_taken_over(tmp_path):
    started(tmp_path, PLAN, START)
    assert len(started(tmp_path, replace(PLAN, modes=("target",)), START).runs) == 1


def test_broken_plan_is_said_to_be_broken(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    (tmp_path / "requests.jsonl").write_text("x\n")
    with pytest.raises(RequestError, match="is broken"):
        started(tmp_path, PLAN, START)


def test_another_model_may_not_answer_a_mode_in_the_same_folder(tmp_path):
    models = {"target": "small", "lookahead": "small"}
    started(tmp_path, PLAN, START).answered_by({"target": "typo"}, {})
    started(tmp_path, PLAN, START).answered_by(models, {"version": "1"})
    with Record(tmp_path) as record:
        record.add(LINE)
    started(tmp_path, PLAN, START)
    again = started(tmp_path, PLAN, START)
    with pytest.raises(RequestError, match="answers of the model small in mode lookahead, and now big would answer"):
        again.answered_by(models | {"lookahead": "big"}, {})
    again.answered_by(models, {"version": "2"})
    runs = json.loads((tmp_path / "plan.json").read_text())["runs"]
    assert [run.get("server") for run in runs] == [{"version": "1"}, None, {"version": "2"}]


def test_parts_of_a_start_add_up(tmp_path):
    starts = started(tmp_path, PLAN, START)
    starts.answered_by({"target": "ours"}, {"version": "1", "others": {"a": 1}})
    starts.answered_by({"vllm": "theirs"}, {"others": {"b": 2}})
    assert starts.runs[-1]["models"] == {"target": "ours", "vllm": "theirs"}
    assert starts.runs[-1]["server"] == {"version": "1", "others": {"a": 1, "b": 2}}


def test_what_is_shown_is_of_the_starts_that_measured(tmp_path):
    for at, cpu in ((0.0, "slow"), (10.0, "fast"), (20.0, "fast"), (30.0, "other")):
        starts = started(tmp_path, PLAN, START | {"started_at": at, "machine": {"cpu": cpu}})
        if at < 20.0:
            starts.answered_by({"target": "m"}, {"version": cpu})
            with Record(tmp_path) as record:
                record.add(replace(LINE, started_at=at + 1))
    assert starts.ran_on(record.lines) == {
        "cpu": "fast", "server": {"version": "fast"}, "models": {"target": "m"}, "earlier_machines": [{"cpu": "slow"}],
    }  # fmt: skip
    assert starts.ran_on([]) == {"cpu": "other", "server": None, "models": {}}


def test_a_disk_that_refuses_leaves_the_plan_as_it_was(tmp_path, monkeypatch):
    started(tmp_path, PLAN, START)
    with Record(tmp_path) as record:
        record.add(LINE)

    def torn(self, text, **_):
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", torn)
        with pytest.raises(RequestError, match="No space left"):
            started(tmp_path, PLAN, START)
    assert len(started(tmp_path, PLAN, START).runs) == 2


def test_one_start_at_a_time_runs_in_a_folder_and_readers_ask_for_nothing(tmp_path):
    with claim_folder(tmp_path, PLAN, START):
        with pytest.raises(RequestError, match="Another bench runs in"):
            started(tmp_path, PLAN, START)
        assert read_plan(tmp_path)["max_tokens"] == 10
        assert read_requests(tmp_path) == []
    assert len(started(tmp_path, PLAN, START).runs) == 1


HOLDER = """
import subprocess, sys, time
from pathlib import Path
from deployments.bench.folder import claim_folder
from tests.unit.bench.test_folder import PLAN, START
with claim_folder(Path(sys.argv[1]), PLAN, START):
    server = subprocess.Popen(["sleep", "60"], close_fds=False)
    print(server.pid, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_free_when_its_start_was_killed_though_a_server_of_it_lives(tmp_path):
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            server = int(holder.stdout.readline())
            with pytest.raises(RequestError, match="Another bench runs in"):
                started(tmp_path, PLAN, START)
        finally:
            holder.kill()
            holder.wait()
    try:
        assert started(tmp_path, PLAN, START)
    finally:
        os.kill(server, signal.SIGKILL)
