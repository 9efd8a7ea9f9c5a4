"""``lookahead chaos`` and its files, without the run."""

from __future__ import annotations

import json

import pytest

from deployments.chaos.report import build_report
from tests.unit.chaos.test_report import CLEAN, EVENTS, GOOD


@pytest.fixture
def ran(monkeypatch):
    """A run that is over at once; whether there was one."""
    runs = []

    def run_chaos(settings, files, on_progress):
        with files:
            for event in EVENTS:
                files.add(event)
            runs.append(settings)
        return build_report({}, [GOOD], EVENTS, CLEAN, 1)

    monkeypatch.setattr("deployments.chaos.run.run_chaos", run_chaos)
    return runs


def test_events_and_report_are_written(ran, lookahead, tmp_path):
    end = lookahead("chaos", "--out", str(tmp_path / "a" / "b"), "--json")
    assert end.code == 0, end.err
    assert json.loads((tmp_path / "a" / "b" / "report.json").read_text()) == end.json
    assert [json.loads(line) for line in (tmp_path / "a" / "b" / "events.jsonl").read_text().splitlines()] == EVENTS


def test_a_folder_that_cannot_be_is_a_sentence_before_anything_runs(ran, lookahead, tmp_path):
    (tmp_path / "out").write_text("a file")
    end = lookahead("chaos", "--out", str(tmp_path / "out"))
    assert (end.code, ran) == (1, [])
    sentence = f"The files of the run cannot be written to {tmp_path / 'out'}: File exists."
    assert end.err.splitlines()[-1] == f"lookahead: {sentence}"


def test_the_outcome_is_shown_though_the_report_cannot_be_written(ran, lookahead, tmp_path):
    (tmp_path / "report.json").mkdir()
    end = lookahead("chaos", "--out", str(tmp_path))
    assert (end.code, len(ran)) == (1, 1)
    assert "kept   streams" in end.out
    assert "cannot be written to" in end.err


def test_a_disk_that_is_full_stops_no_run(ran, lookahead, tmp_path):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    end = lookahead("chaos", "--out", str(tmp_path))
    assert (end.code, len(ran)) == (1, 1)
    assert "kept   streams" in end.out
    assert "No space left" in end.err
    assert json.loads((tmp_path / "report.json").read_text())["kept"]


def test_a_role_that_is_none_leaves_an_earlier_run_as_it_was(lookahead, tmp_path):
    (tmp_path / "events.jsonl").write_text("{}\n")
    end = lookahead("chaos", "--roles", "nobody", "--out", str(tmp_path))
    assert (end.code, (tmp_path / "events.jsonl").read_text()) == (1, "{}\n")
