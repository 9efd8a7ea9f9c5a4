"""``lookahead audit``: answers in words and as JSON, from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.telemetry.auditing import deployed
from tests.unit.coordinator.bench import Bench
from tests.unit.test_audit import MIXED, ask, audited


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    bench = Bench(draft=MIXED, settings=audited(folder, "full", spans=False))
    return ask(bench, mode="lookahead", verifier="numbers")[1]


def test_why_was_this_step_accepted(lookahead: Any, folder: Path, found: list[dict[str, Any]]) -> None:
    one = next(r for r in found if r["record"] == "decision" and r["check"] == "numbers/always" and r["step"])
    end = lookahead("audit", "chatcmpl-r", "--step", str(one["step"]), "--log", str(folder))
    assert end.code == 0, end.err
    assert f"Step {one['step']}: the draft's step was accepted, because this control accepts everything." in end.out
    assert "Decided by the check 'numbers/always'" in end.out
    assert "exact; same_numbers; always" in end.out
    assert one["draft"]["text"][:20] in end.out
    assert one["target"]["text"][:20] in end.out


def test_all_steps_and_json(lookahead: Any, folder: Path, found: list[dict[str, Any]]) -> None:
    end = lookahead("audit", "r", "--log", str(folder), "--json")
    assert end.code == 0, end.err
    assert end.json["decisions"] == [r for r in found if r["record"] == "decision"]
    assert (end.json["begin"]["mode"], end.json["end"]["reason"]) == ("lookahead", "stop")
    assert end.json["words"][0].startswith("Request r of nobody named")
    assert "judged by 'numbers'" in end.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("unknown", "--log", "{}"), "has no request 'unknown'"),
        (("r", "--log", "{}/none.jsonl"), "There is no audit log at"),
        (("r", "--log", "{}", "--step", "99"), "Request r has 10 steps, counted from 0"),
    ],
)
def test_what_is_not_there(
    lookahead: Any, folder: Path, found: list[dict[str, Any]], arguments: tuple[str, ...], words: str
) -> None:
    end = lookahead("audit", *(argument.format(folder) for argument in arguments))
    assert (end.code, words in end.err) == (1, True), end.err


def test_every_verifier_has_a_digest(tmp_path: Path) -> None:
    head = deployed(audited(tmp_path)).head()
    assert len({entry["rules"] for entry in head["verifiers"].values()}) == len(head["verifiers"]) == 4
