"""The order of a run, the folder that belongs to one run alone, and the file that survives being stopped."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import RequestError
from deployments.bench.plan import Plan, blocks, claim_folder
from deployments.bench.record import Measurement, Record
from deployments.bench.runner import remaining

PLAN = Plan(
    server="http://x",
    data="synthetic #1",
    num_problems=6,
    modes=("target", "lookahead"),
    concurrency=(1,),
    max_tokens=10,
    temperature=0.0,
    seed=0,
)
LINE = Measurement(
    mode="target",
    concurrency=1,
    index=0,
    question="q",
    answer="4",
    text="t\nü",
    reasoning="",
    correct=True,
    latency_s=1.0,
    ttft_s=0.1,
    output_tokens=3,
    tokens_per_s=3.0,
    started_at=0.0,
    ended_at=1.0,
)


@given(
    st.integers(1, 40),
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
)
def test_every_request_comes_exactly_once(num_problems, modes, levels):
    plan = replace(PLAN, num_problems=num_problems, modes=tuple(modes), concurrency=tuple(levels))
    keys = Counter((b.concurrency, b.mode, index) for b in blocks(plan) for index in b.indices)
    assert set(keys.values()) == {1}
    assert len(keys) == plan.num_requests


def test_modes_take_turns_prompt_by_prompt():
    order = [(block.mode, block.indices) for block in blocks(replace(PLAN, num_problems=2))]
    assert order == [("target", (0,)), ("lookahead", (0,)), ("lookahead", (1,)), ("target", (1,))]


def test_with_many_at_once_a_block_fills_the_loop_and_one_mode_runs_at_a_time():
    plan = replace(PLAN, num_problems=33, concurrency=(4,))
    groups = [block.indices for block in blocks(plan)]
    assert {len(indices) for indices in groups} == {16, 17}
    assert groups[0] == groups[1]


def test_folder_belongs_to_one_plan(tmp_path):
    folder = tmp_path / "run"
    assert len(claim_folder(folder, PLAN, "lookahead bench")) == 1
    with Record(folder) as record:
        record.add(LINE)
    assert len(claim_folder(folder, PLAN, "lookahead bench")) == 2
    with pytest.raises(RequestError, match="max_tokens was 10, now 11"):
        claim_folder(folder, replace(PLAN, max_tokens=11), "lookahead bench")


def test_folder_without_measurements_can_be_taken_over(tmp_path):
    claim_folder(tmp_path, PLAN, "a typo")
    assert len(claim_folder(tmp_path, replace(PLAN, modes=("target",)), "right")) == 1


def test_broken_plan_is_said_to_be_broken(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    (tmp_path / "requests.jsonl").write_text("x\n")
    with pytest.raises(RequestError, match="is broken"):
        claim_folder(tmp_path, PLAN, "c")


def test_record_survives_any_cut(tmp_path):
    with Record(tmp_path) as record:
        record.add(LINE)
        record.add(replace(LINE, index=1))
    whole = record.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (first, first + 1, (first + len(whole)) // 2, len(whole) - 2, len(whole) - 1):
        record.path.write_bytes(whole[:cut])
        with Record(tmp_path) as again:
            assert again.lines == [LINE]
        assert record.path.read_bytes() == whole[:first]


def test_broken_line_names_its_number(tmp_path):
    (tmp_path / "requests.jsonl").write_text("{}\n")
    with pytest.raises(RequestError, match="line 1 is broken"), Record(tmp_path):
        pass


def test_what_is_settled_is_not_asked_again(tmp_path):
    with Record(tmp_path) as record:
        record.add(LINE)
        record.add(replace(LINE, index=1, error="It broke."))
        left = {(b.mode, i) for b, indices in remaining(PLAN, record, retry_failed=False) for i in indices}
        assert ("target", 0) not in left
        assert ("target", 1) not in left
        assert len(left) == 10
        left = {(b.mode, i) for b, indices in remaining(PLAN, record, retry_failed=True) for i in indices}
        assert ("target", 1) in left
        record.add(replace(LINE, index=1))
        assert len(remaining(PLAN, record, retry_failed=True)) == 10


def test_lines_are_json_that_others_can_read(tmp_path):
    with Record(tmp_path) as record:
        record.add(LINE)
        found = json.loads(record.path.read_text())
    assert found["text"] == "t\nü"
    assert found["speculation"] is None
