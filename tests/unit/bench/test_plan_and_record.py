"""The order of a run, and the file that survives being stopped."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import RequestError
from deployments.bench.plan import Load, Plan, arrivals, blocks, count_groups
from deployments.bench.record import Measurement, Record, Review, read_requests
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
    st.lists(st.floats(0.1, 9), max_size=2, unique=True),
)
def test_every_request_comes_exactly_once(num_problems, modes, levels, rates):
    plan = replace(PLAN, num_problems=num_problems, modes=tuple(modes), concurrency=tuple(levels), rates=tuple(rates))
    keys = Counter((b.load, b.mode, index) for b in blocks(plan) for index in b.indices)
    assert set(keys.values()) == {1}
    assert len(keys) == plan.num_requests


def test_modes_take_turns_prompt_by_prompt():
    order = [(block.mode, block.indices) for block in blocks(replace(PLAN, num_problems=2))]
    assert order == [("target", (0,)), ("lookahead", (0,)), ("lookahead", (1,)), ("target", (1,))]


def test_with_many_at_once_a_block_fills_the_loop_and_one_mode_runs_at_a_time():
    plan = replace(PLAN, num_problems=66, concurrency=(4,))
    groups = [block.indices for block in blocks(plan)]
    assert {len(indices) for indices in groups} == {16, 17}
    assert groups[0] == groups[1]


@pytest.mark.parametrize(
    ("num_problems", "num_modes", "concurrency", "num_groups"),
    [(20, 2, 4, 4), (48, 2, 16, 2), (32, 3, 8, 3), (100, 2, 16, 4), (20, 7, 4, 5), (3, 2, 4, 1), (300, 7, 4, 21)],
)
def test_with_few_prompts_the_order_of_modes_still_turns(num_problems, num_modes, concurrency, num_groups):
    modes = tuple("abcdefg"[:num_modes])
    plan = replace(PLAN, num_problems=num_problems, modes=modes, concurrency=(concurrency,))
    order = list(blocks(plan))
    first = Counter(block.mode for block in order[::num_modes])
    assert len(order) == num_groups * num_modes
    assert min(len(block.indices) for block in order) >= min(concurrency, num_problems)
    if num_problems >= num_modes * concurrency:
        assert {first[mode] for mode in modes} == {num_groups // num_modes}


@given(st.integers(1, 300), st.integers(2, 8), st.integers(2, 33), st.sampled_from([None, 0.5]))
def test_there_is_a_whole_turn_wherever_every_block_can_be_full(num_problems, num_modes, concurrency, rate):
    plan = replace(PLAN, num_problems=num_problems, modes=tuple("abcdefgh"[:num_modes]))
    num_groups = count_groups(plan, Load(concurrency) if rate is None else Load(rate=rate))
    least = concurrency if rate is None else 8
    assert 1 <= num_groups <= max(1, num_problems // least)
    if num_problems >= num_modes * least:
        assert num_groups % num_modes == 0


def test_one_mode_alone_is_not_cut_up():
    assert len(list(blocks(replace(PLAN, num_problems=20, modes=("target",), concurrency=(4,))))) == 1


def test_arrivals_come_at_their_rate_and_depend_on_the_prompt_alone():
    found = arrivals(3, 0.5, range(4000))
    assert found[0] == 0.0
    assert found[-1] == pytest.approx(3999 / 0.5, rel=0.06)
    gaps = [after - before for before, after in pairwise(found)]
    assert sum(gap > 2.0 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.03)
    assert arrivals(3, 0.5, [7, 8, 9])[1:] == pytest.approx([gaps[7], gaps[7] + gaps[8]])
    assert arrivals(4, 0.5, range(9)) != found[:9]


def test_open_loops_follow_closed_ones_in_blocks_of_their_own():
    plan = replace(PLAN, num_problems=140, concurrency=(1,), rates=(0.5, 2.0))
    loads = list(dict.fromkeys(block.load for block in blocks(plan)))
    assert loads == [Load(concurrency=1), Load(rate=0.5), Load(rate=2.0)]
    assert {len(block.indices) for block in blocks(plan) if block.load.rate} == {35}


def test_reviews_are_kept_beside_the_line_they_are_about(tmp_path):
    again = replace(LINE, started_at=9.0)
    with Record(tmp_path) as record:
        record.add(LINE)
        record.add(replace(LINE, index=1))
        assert len(record.unreviewed()) == 2
        record.review(LINE, Review(0.0, "", True, "", {"target": 1.0}, [[1, 2]]))
        assert [line.index for line in record.unreviewed()] == [1]
        record.add(again)
        assert record.unreviewed()[0].started_at == 9.0
    with Record(tmp_path) as record:
        assert record.lines[0].correct is True
        assert record.lines[0].review.positions == [[1, 2]]
        assert record.lines[2].correct is None


def test_record_survives_any_cut(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("what is whole is written anew")

    with Record(tmp_path) as record:
        record.add(LINE)
        record.add(replace(LINE, index=1))
    whole = record.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (first, first + 1, (first + len(whole)) // 2, len(whole) - 2, len(whole) - 1):
        record.path.write_bytes(whole[:cut])
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", refused)
            with Record(tmp_path) as again:
                assert again.lines == [LINE]
        assert record.path.read_bytes() == whole[:first]


@pytest.fixture
def full_disk(monkeypatch):
    """What is opened for a record is on a full disk; the files."""
    opened = []

    def full(*_, **__):
        opened.append(open("/dev/full", "a"))  # noqa: SIM115
        return opened[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        yield opened


def test_a_full_disk_is_said_and_every_file_is_closed(tmp_path, full_disk):
    with (
        pytest.raises(RequestError, match=r"requests\.jsonl cannot be used: No space left"),
        Record(tmp_path) as record,
    ):
        record.add(LINE)
    assert [file.closed for file in full_disk] == [True, True]


def test_what_cannot_be_written_at_the_end_is_said_where_nothing_else_is(tmp_path, full_disk):
    def run(error=None):
        with Record(tmp_path) as record:
            with pytest.raises(RequestError, match="cannot be used: No space left"):
                record.add(LINE)
            if error is not None:
                raise error

    with pytest.raises(RequestError, match="cannot be used: No space left"):
        run()
    with pytest.raises(RequestError, match="The report"):
        run(RequestError("The report cannot be written."))
    assert all(file.closed for file in full_disk)


def test_broken_line_names_its_number(tmp_path):
    (tmp_path / "requests.jsonl").write_text("{}\n")
    with pytest.raises(RequestError, match="line 1 is broken"), Record(tmp_path):
        pass


def test_what_is_settled_is_not_asked_again(tmp_path):
    with Record(tmp_path) as record:
        record.add(LINE)
        record.add(replace(LINE, index=1, error="It broke."))
        left = {(b.mode, i) for b, indices in remaining(PLAN, record.lines, retry_failed=False) for i in indices}
        assert ("target", 0) not in left
        assert ("target", 1) not in left
        assert len(left) == 10
        left = {(b.mode, i) for b, indices in remaining(PLAN, record.lines, retry_failed=True) for i in indices}
        assert ("target", 1) in left
        record.add(replace(LINE, index=1))
        assert len(remaining(PLAN, record.lines, retry_failed=True)) == 10


def test_a_block_of_several_users_that_was_not_asked_in_one_go_is_asked_as_a_whole(tmp_path):
    plan = replace(PLAN, num_problems=4, modes=("target",), concurrency=(2,))

    def left(retry_failed=False):
        return [list(indices) for _, indices in remaining(plan, record.lines, retry_failed)]

    with Record(tmp_path) as record:
        for index in (2, 0, 1):
            record.add(replace(LINE, concurrency=2, index=index, block_started_at=1.0))
        assert left() == [[0, 1, 2, 3]], "it was stopped"
        for index in (1, 3, 2):
            record.add(replace(LINE, concurrency=2, index=index, block_started_at=2.0))
        assert left() == [[0, 1, 2, 3]], "it was stopped again, and each prompt has one of two answers"
        record.add(replace(LINE, concurrency=2, index=0, block_started_at=2.0, error="It broke."))
        assert left() == []
        assert left(retry_failed=True) == [[0, 1, 2, 3]]


def test_lines_are_json_that_others_can_read(tmp_path):
    with Record(tmp_path) as record:
        record.add(LINE)
        found = json.loads(record.path.read_text())
    assert found["text"] == "t\nü"
    assert found["speculation"] is None


def test_others_read_the_last_line_of_each_request_and_no_trace_that_could_not_be_had(tmp_path):
    whole = {"spans": [], "error": "The answer broke off."}
    with Record(tmp_path) as record:
        for index, trace in enumerate((whole, {"error": "It is gone."}, None)):
            record.add(replace(LINE, index=index, text="first", trace=trace))
        record.add(replace(LINE, index=1, rate=0.5, concurrency=None))
        record.add(replace(LINE, text="again", trace=whole))
    found = [(line["rate"], line["index"], line["text"], line["trace"]) for line in read_requests(tmp_path)]
    assert found == [
        (None, 0, "again", whole),
        (None, 1, "first", None),
        (None, 2, "first", None),
        (0.5, 1, LINE.text, None),
    ]
