"""Recorded steps replayed: near the run that recorded them, and in other ways."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors.errors import RequestError
from actors.messages import Prompt
from deployments.generation import Finished
from deployments.simulation.recorded import RecordedScript
from deployments.simulation.replay import Row, Versions, Way, errors, read_rows, replay
from deployments.simulation.scripts import Agreement, StepPair
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import TARGET, Bench, config, request
from tests.unit.simulation.test_validation import seed_trace

ENGINE = replace(TARGET, num_steps=25, words=8, sequence_s=TARGET.token_s / 10)
ROW = "lookahead:verifier=numbers:depth=3:controller=off"


def ask(variant: str, problem: int, **wishes: object) -> dict[str, Any]:
    """A line of ``requests.jsonl``, from whole coordinators over scripted engines on a virtual clock."""
    draft = replace(ENGINE, role="draft", token_s=ENGINE.token_s / 5, agree=0.6, paraphrase=0.2)
    bench = Bench(ENGINE, draft, config())

    async def run() -> dict[str, Any]:
        coordinator = await bench.coordinator()
        one = replace(request(**wishes), request_id=f"{variant}-{problem}", prompt=Prompt(text=f"Question {problem}?"))
        outputs = [output async for output in coordinator.generate(one)]
        assert isinstance(outputs[-1], Finished)
        trace = coordinator.trace(one.request_id)
        tokens = outputs[-1].num_output_tokens
        return {"mode": variant, "index": problem, "concurrency": 1, "output_tokens": tokens, "trace": trace}

    async def timed() -> dict[str, Any]:
        start = asyncio.get_running_loop().time()
        line = await run()
        line["trace"] = dict(line["trace"]) | {"duration_s": asyncio.get_running_loop().time() - start}
        return line

    return run_virtually(timed())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    lines = [ask("target", problem, mode="target") for problem in range(3)]
    lines += [ask(ROW, problem, verifier="numbers", max_lookahead=3, controller=False) for problem in range(3)]
    (path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "plan.json").write_text('{"plan": {}}')
    return path


@pytest.fixture(scope="module")
def row(folder: Path) -> Row:
    (found,) = read_rows(folder)
    return found


def test_a_row_is_replayed_as_it_was(row: Row) -> None:
    assert (row.variant, row.depth, row.num_branches) == (ROW, 3, 1)
    assert row.machine.target.seconds(4) > 1.1 * row.machine.target.seconds(1)
    for off in errors(row, Way(3), None):
        assert off == pytest.approx(1.0, abs=0.12)


def test_what_the_run_asked_for_counts_where_a_row_has_no_wish(folder: Path, tmp_path: Path) -> None:
    requests = (folder / "requests.jsonl").read_text()
    (tmp_path / "requests.jsonl").write_text(requests.replace(ROW, "lookahead:controller=off"))
    (tmp_path / "plan.json").write_text('{"plan": {"max_lookahead": 3}}')
    assert [row.depth for row in read_rows(tmp_path)] == [3]
    (tmp_path / "requests.jsonl").write_text(requests.replace(ROW, "lookahead:depth=2"))
    assert [row.depth for row in read_rows(tmp_path)] == [2]


def test_other_ways_differ_as_they_should(row: Row) -> None:
    def token_s(way: Way, other_share: float = 0.1) -> float:
        return sum(replay(row, way, None, other_share).values())

    assert token_s(Way(3)) < token_s(Way(1)) < sum(row.alone_s.values())
    assert token_s(Way(3, only_equal=True)) > token_s(Way(3))
    assert token_s(Way(3, branches=2), 1.0) < token_s(Way(3, branches=2), 0.0)


def test_further_versions_of_a_missed_step_are_right_as_often_as_is_supposed() -> None:
    script = RecordedScript((StepPair(9, 7, Agreement.DIFFERENT), StepPair(9, 7, Agreement.SAME)) * 500)
    versions = Versions(script, 0, 0.25, only_equal=False)
    assert [versions.pair(i, 1).agreement for i in (1, 3)] == [Agreement.SAME] * 2
    right = [versions.pair(i, 1).agreement is Agreement.SAME for i in range(0, 1000, 2)]
    assert sum(right) / len(right) == pytest.approx(0.25, abs=0.06)
    wrong = {
        versions.pair(0, n).num_draft_tokens for n in range(9) if versions.pair(0, n).agreement is Agreement.DIFFERENT
    }
    assert len(wrong) > 3, "no two of them are the same"
    strict = Versions(script, 0, 0.0, only_equal=True)
    assert {strict.pair(i, 0).agreement for i in range(10)} == {Agreement.DIFFERENT}


def test_the_command_prints_the_rows_and_the_error(folder: Path, tmp_path: Path) -> None:
    import typer

    from deployments.simulation.replay import main

    app = typer.Typer()
    app.command()(main)
    answer = CliRunner().invoke(app, [str(folder), "--depths", "1", "--branches", "2"])
    assert answer.exit_code == 0, answer.output
    assert answer.output.count("| replayed |") == 5
    assert f"{ROW}: replayed as recorded" in answer.output
    (tmp_path / "plan.json").write_text('{"plan": {}}')
    (tmp_path / "requests.jsonl").write_text("")
    assert CliRunner().invoke(app, [str(tmp_path)]).exit_code == 1
    with pytest.raises(RequestError, match="nothing to replay"):
        read_rows(tmp_path)


def test_a_guided_request_of_a_row_is_not_replayed(folder: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]

    def problems(guided: set[int]) -> list[int]:
        words = {"trace": seed_trace("lookahead:exact")}
        some = [line | words if line["mode"] == ROW and line["index"] in guided else line for line in lines]
        (tmp_path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))
        (row,) = read_rows(tmp_path)
        return [one.problem for one in row.requests]

    (tmp_path / "plan.json").write_text('{"plan": {}}')
    assert problems({1}) == [0, 2]
    with pytest.raises(RequestError, match="nothing to replay"):
        problems({0, 1, 2})
