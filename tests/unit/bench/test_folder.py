"""The folder of a run: it belongs to one plan and one model a mode, and keeps what each start ran on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from actors.errors import RequestError
from deployments.bench.folder import claim_folder
from deployments.bench.record import Record
from tests.unit.bench.test_plan_and_record import LINE, PLAN

START = {"started_at": 0.0, "command": "lookahead bench", "machine": {"cpu": "fast"}}


def test_folder_belongs_to_one_plan(tmp_path):
    folder = tmp_path / "run"
    assert len(claim_folder(folder, PLAN, START).runs) == 1
    with Record(folder) as record:
        record.add(LINE)
    assert len(claim_folder(folder, PLAN, START).runs) == 2
    with pytest.raises(RequestError, match="max_tokens was 10, now 11"):
        claim_folder(folder, replace(PLAN, max_tokens=11), START)


def test_a_folder_whose_blocks_were_cut_otherwise_is_refused(tmp_path):
    many = replace(PLAN, concurrency=(1, 2), rates=(0.5,))
    claim_folder(tmp_path, many, START)
    with Record(tmp_path) as record:
        record.add(LINE)
    assert len(claim_folder(tmp_path, many, START).runs) == 2
    path = tmp_path / "plan.json"
    held = json.loads(path.read_text())
    held["plan"]["num_blocks"] = {"2 at once": 1, "0.5 a second": 1}
    path.write_text(json.dumps(held))
    with pytest.raises(RequestError, match=r"was 2 at once: 1, 0\.5 a second: 1, now 2 at once: 2, 0\.5 a second: 1"):
        claim_folder(tmp_path, many, START)
    del held["plan"]["num_blocks"]
    path.write_text(json.dumps(held))
    with pytest.raises(RequestError, match="num_blocks was not noted, now"):
        claim_folder(tmp_path, many, START)


def test_a_folder_from_before_that_was_noted_is_gone_on_with_where_each_block_is_one_prompt(tmp_path):
    claim_folder(tmp_path, PLAN, START)
    with Record(tmp_path) as record:
        record.add(LINE)
    path = tmp_path / "plan.json"
    held = json.loads(path.read_text())
    del held["plan"]["num_blocks"]
    path.write_text(json.dumps(held))
    assert len(claim_folder(tmp_path, PLAN, START).runs) == 2


def test_folder_without_measurements_can_be_taken_over(tmp_path):
    claim_folder(tmp_path, PLAN, START)
    assert len(claim_folder(tmp_path, replace(PLAN, modes=("target",)), START).runs) == 1


def test_broken_plan_is_said_to_be_broken(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    (tmp_path / "requests.jsonl").write_text("x\n")
    with pytest.raises(RequestError, match="is broken"):
        claim_folder(tmp_path, PLAN, START)


def test_another_model_may_not_answer_a_mode_in_the_same_folder(tmp_path):
    models = {"target": "small", "lookahead": "small"}
    claim_folder(tmp_path, PLAN, START).answered_by({"target": "typo"}, {})
    claim_folder(tmp_path, PLAN, START).answered_by(models, {"version": "1"})
    with Record(tmp_path) as record:
        record.add(LINE)
    claim_folder(tmp_path, PLAN, START)
    again = claim_folder(tmp_path, PLAN, START)
    with pytest.raises(RequestError, match="answers of the model small in mode lookahead, and now big would answer"):
        again.answered_by(models | {"lookahead": "big"}, {})
    again.answered_by(models, {"version": "2"})
    runs = json.loads((tmp_path / "plan.json").read_text())["runs"]
    assert [run.get("server") for run in runs] == [{"version": "1"}, None, {"version": "2"}]


def test_parts_of_a_start_add_up(tmp_path):
    starts = claim_folder(tmp_path, PLAN, START)
    starts.answered_by({"target": "ours"}, {"version": "1", "others": {"a": 1}})
    starts.answered_by({"vllm": "theirs"}, {"others": {"b": 2}})
    assert starts.runs[-1]["models"] == {"target": "ours", "vllm": "theirs"}
    assert starts.runs[-1]["server"] == {"version": "1", "others": {"a": 1, "b": 2}}


def test_what_is_shown_is_of_the_starts_that_measured(tmp_path):
    for at, cpu in ((0.0, "slow"), (10.0, "fast"), (20.0, "fast"), (30.0, "other")):
        starts = claim_folder(tmp_path, PLAN, START | {"started_at": at, "machine": {"cpu": cpu}})
        if at < 20.0:
            starts.answered_by({"target": "m"}, {"version": cpu})
            with Record(tmp_path) as record:
                record.add(replace(LINE, started_at=at + 1))
    assert starts.ran_on(record.lines) == {
        "cpu": "fast", "server": {"version": "fast"}, "models": {"target": "m"}, "earlier_machines": [{"cpu": "slow"}],
    }  # fmt: skip
    assert starts.ran_on([]) == {"cpu": "other", "server": None, "models": {}}
