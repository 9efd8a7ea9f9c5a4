"""``lookahead calibrate`` from the command line: a cluster of its own, deployed roles, a report; engine times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.config import load_profile
from deployments.simulation.cost_file import read_costs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

TOKEN_S = 0.008
"""What the target takes for a token: enough for a clock to tell on a busy machine."""


def calibrate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli.main", "calibrate", *arguments]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def quick(tmp_path: Path, settings: dict[str, Any]) -> list[str]:
    """`settings` as options of the command, with a target that is faster than the profile's: nothing here computes."""
    settings["target"]["engine"]["options"]["token_s"] = TOKEN_S
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    return ["--config", str(config)]


def test_records_labels_and_measures_on_the_deployed_roles(tmp_path: Path) -> None:
    settings = load_profile("scripted").model_dump(mode="json")
    settings["verifier"]["verifiers"]["judged"] = [
        {"kind": "exact"},
        {"kind": "same_numbers"},
        {"kind": "judge", "engine": "target"},
        {"kind": "likelihood", "engine": "target"},
    ]
    out = tmp_path / "out"
    options = [*quick(tmp_path, settings), "--verifier", "judged", "--out", str(out), "--json", "--precision", "0.5"]
    recorded = calibrate("--record", "--limit", "4", "--check", "likelihood", "--label-by", "numbers", *options)
    assert recorded.returncode == 0, recorded.stderr
    report = json.loads(recorded.stdout)
    assert report["labelled_by"] == ["numbers"]
    assert (report["check"], report["num_unscored"]) == ("likelihood", 0)
    assert report["decided_before"]["same_numbers rejected"]["num"] > 0
    assert report["num_pairs"] == report["num_scored"] + sum(c["num"] for c in report["decided_before"].values())
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == report["num_pairs"]
    assert all(pair["prefix_ids"] and pair["draft_ids"] for pair in pairs)
    # The scripted judge is sure of one label; a hash decides which means "same".
    judged = calibrate("--pairs", str(out / "labelled.jsonl"), "--check", "judge", *options)
    assert judged.returncode == 0, judged.stderr
    report = json.loads(judged.stdout)
    assert report["check"] == "judge"
    assert {score for score, _ in report["scores"]} <= {0.0, 1.0}
    assert report["num_scored"] > 0


def test_engines_are_timed_alone_and_as_served(tmp_path: Path) -> None:
    options = quick(tmp_path, load_profile("scripted").model_dump(mode="json"))
    timed = calibrate("--engine", *options, "--out", str(tmp_path / "costs"), "--json")
    assert timed.returncode == 0, timed.stderr
    costs = read_costs(tmp_path / "costs" / "costs.yaml")
    assert json.loads(timed.stdout)["wrote"] == str(tmp_path / "costs" / "costs.yaml")
    assert dict(costs.target.passes[0].pass_s)[1] == pytest.approx(TOKEN_S, rel=0.3)
    for role in (costs.target, costs.draft):
        assert 0.0 <= role.disturbance < 2.0
