"""A short chaos run with all its processes: the promises hold, and the report would say so if they did not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.chaos.run import Settings, run_chaos

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_twenty_streams_survive_half_a_minute_of_faults(tmp_path: Path) -> None:
    settings = Settings(
        num_streams=20, concurrency=10, duration_s=20.0, roles=("draft", "target", "verifier"), seed=2, num_steps=6
    )
    report = run_chaos(settings, tmp_path, lambda progress: None)
    assert report["failures"] == []
    assert report["kept"], report["promises"]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "stream" for event in events) == report["num_streams"] >= 20
    assert report["num_faults"] + report["num_nobody_to_strike"] == 10
    assert {kind.split(":")[0] for kinds in report["faults"].values() for kind in kinds} == {
        "kill",
        "freeze",
        "slow",
        "garbage",
    }
