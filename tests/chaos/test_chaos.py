"""A short chaos run with all its processes: the promises hold, and the report would say so if they did not.

In a folder of its own: a process has one Ray cluster at a time, and that of `tests/cluster` stays up between its tests.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deployments.chaos.files import Files
from deployments.chaos.run import Settings, run_chaos

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # no token file in the home of whoever runs the tests

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_streams_survive_a_few_seconds_of_faults(tmp_path: Path) -> None:
    settings = Settings(
        num_streams=12, concurrency=8, duration_s=16.0, roles=("draft", "target", "verifier"), seed=2, num_steps=4
    )
    files = Files(tmp_path)
    report = run_chaos(settings, files, lambda progress: None)
    files.finish(report)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["failures"] == []
    assert report["kept"], report["promises"]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "stream" for event in events) == report["num_streams"] >= 12
    assert report["num_faults"] + report["num_nobody_to_strike"] == 8
    assert {kind.split(":")[0] for kinds in report["faults"].values() for kind in kinds} == {
        "kill",
        "freeze",
        "slow",
        "garbage",
    }
