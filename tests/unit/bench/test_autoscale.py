"""What a run of load over made-up nodes proves, and that it fails where it does not."""

from __future__ import annotations

import copy
from typing import Any
from xml.etree import ElementTree

import pytest

from deployments.bench.autoscale import ROLES, failures, findings
from deployments.bench.autoscale_load import Phase, arrivals, phases_of
from deployments.bench.autoscale_plot import plot

PHASES = "0.1:40,1:60,0.1:40"


def record() -> dict[str, Any]:
    """A run in which all went well: four targets from second 70 on, one in the end."""

    def sample(at_s: int) -> dict[str, Any]:
        target = 4 if 70 <= at_s < 160 else 1
        draft = 0 if at_s > 200 else min(target, 2)
        ready = dict.fromkeys(ROLES, 1) | {"target": target, "draft": draft}
        starting = dict.fromkeys(ROLES, 0) | {"target": int(45 <= at_s < 70)}
        return {"at_s": float(at_s), "ready": ready, "starting": starting, "nodes": {"target": target, "draft": draft}}

    def request(at_s: float) -> dict[str, Any]:
        slow = 50 <= at_s < 75
        return {"start_s": at_s, "first_s": at_s + 1, "end_s": at_s + (15 if slow else 5), "problem": None}

    requests = [request(at_s) for at_s in arrivals(phases_of(PHASES))]
    return {"phases": PHASES, "objective_s": 12.0, "samples": [sample(s) for s in range(240)], "requests": requests}


def test_requests_come_evenly_at_the_rate_of_each_phase() -> None:
    assert arrivals([Phase(0.5, 4), Phase(2, 1)]) == [0.0, 2.0, 4.0, 4.5]


def test_a_run_that_went_well_has_no_failures() -> None:
    found = findings(record())
    assert failures(found) == []
    assert (found["first_decision_s"], found["capacity_arrived_s"]) == (5.0, 30.0)
    assert found["recovered_after_capacity_s"] == pytest.approx(19.0)  # the last late one came at 74 and ended at 89
    assert (found["p50_s"]["before"], found["p95_s"]["recovering"]) == (5.0, 15.0)


def test_each_claim_can_fail() -> None:
    def broken(change: Any) -> list[str]:
        run = copy.deepcopy(record())
        change(run)
        return failures(findings(run))

    def last(run: dict[str, Any], kind: str, role: str, number: int) -> None:
        run["samples"][-1][kind][role] = number

    assert broken(lambda run: run["requests"][3].update(problem="503")) == ["every request was answered whole"]
    assert broken(lambda run: run["requests"].pop()) == ["every request was answered whole"]
    assert broken(lambda run: last(run, "ready", "target", 2)) == ["the load fell, and replicas went"]
    assert broken(lambda run: last(run, "ready", "draft", 1)) == ["without load there is no draft"]
    assert broken(lambda run: last(run, "nodes", "target", 3)) == ["nodes went"]
    late = broken(lambda run: run["requests"][60].update(end_s=150.0))
    assert late == ["the objective was met again in time"]


def test_the_plot_stands_alone() -> None:
    page = plot(record())
    root = ElementTree.fromstring(page)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len([e for e in root if e.tag.endswith("polyline")]) == 9
    assert "href" not in page
