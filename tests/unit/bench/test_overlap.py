"""Wall time against the formula, from a run whose rows have any name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deployments.bench.overlap import main

ROW = "lookahead:exact:controller=off"


def trace(duration_s: float, draft_s: float = 0.5) -> dict[str, Any]:
    """Ten steps, each accepted; one of the target's takes a second."""
    spans = [{"kind": kind, "detail": {"engine_s": s}} for kind, s in (("draft", draft_s), ("target", 1.0))]
    return {"spans": spans, "duration_s": duration_s, "summary": {"num_steps": 10, "accept_rate": 1.0}}


def overlap(folder: Path, *lines: dict[str, Any], plan: dict[str, Any] | None = None) -> Any:
    (folder / "plan.json").write_text(json.dumps({"plan": plan or {}}))
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(folder)])


def test_each_row_of_look_aheads_has_a_median_of_its_last_answers(tmp_path: Path) -> None:
    gone = {"error": "No trace of the request is kept any more."}
    answer = overlap(
        tmp_path,
        {"mode": ROW, "index": 0, "trace": trace(99.0)},
        {"mode": ROW, "index": 0, "trace": trace(5.5)},
        {"mode": ROW, "index": 1, "trace": gone},
        {"mode": "lookahead", "index": 0, "trace": trace(11.0)},
        {"mode": "lookahead", "index": 1, "trace": trace(11.0) | {"summary": None}},
        {"mode": "target", "index": 0, "trace": trace(11.0)},
    )
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.output)
    assert found["median_ratio"] == pytest.approx({ROW: 1.0, "lookahead": 2.0})
    assert [len(asked) for asked in found["requests"].values()] == [1, 1]


def test_a_row_that_asked_for_a_depth_is_compared_with_that(tmp_path: Path) -> None:
    lines = [{"mode": mode, "index": 0, "trace": trace(5.0, 0.25)} for mode in ("lookahead:depth=1", "lookahead")]
    for plan, speed_ups in ((None, [2.0, 4.0]), ({"max_lookahead": 2}, [2.0, 3.0])):
        found = json.loads(overlap(tmp_path, *lines, plan=plan).output)["requests"]
        assert [asked[0]["formula_speed_up"] for asked in found.values()] == pytest.approx(speed_ups)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"mode": "target", "index": 0, "trace": trace(1.0)}, "holds no request in which"),
        ({}, "cannot be read: line 1"),
    ],
)
def test_a_run_without_look_aheads_says_so(tmp_path: Path, line: dict[str, Any], words: str) -> None:
    answer = overlap(tmp_path, line)
    assert answer.exit_code == 1
    assert words in answer.output
