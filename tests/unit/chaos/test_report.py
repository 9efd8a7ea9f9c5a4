"""A promise that was not seen to be kept is broken."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.chaos.report import build_report
from deployments.chaos.streams import StreamEnd

GOOD = StreamEnd("chaos-1", "window", 0.0, 10.0, 100, 2.0)
CLEAN: dict[str, Any] = {
    "ready_after_s": 1.0,
    "work": {"left": 0},
    "ray": {"actors": [], "placement_groups": []},
    "processes": [],
}
EVENTS = [
    {"event": "fault", "at": 4.0, "role": "target", "kind": "kill", "pid": 1},
    {"event": "fault", "at": 90.0, "role": "draft", "kind": "garbage:wrong", "pid": 2},
    {"event": "nobody to strike", "at": 91.0},
]


def report(ends=(GOOD,), aftermath=CLEAN, num_wanted=1):
    return build_report({"seed": 0}, list(ends), EVENTS, aftermath, num_wanted)


def broken(found) -> set[str]:
    return {name for name, promise in found["promises"].items() if not promise["kept"]}


def test_all_promises_kept() -> None:
    found = report()
    assert found["kept"]
    assert broken(found) == set()
    assert found["faults"] == {"draft": {"garbage:wrong": 1}, "target": {"kill": 1}}
    assert found["num_nobody_to_strike"] == 1


def test_a_failed_stream_is_listed_with_the_faults_before_it() -> None:
    lost = StreamEnd("chaos-2", "target", 0.0, 10.0, 5, 2.0, problem="503")
    found = report((GOOD, lost))
    assert broken(found) == {"streams"}
    assert found["failures"][0]["request_id"] == "chaos-2"
    assert found["failures"][0]["faults_before"] == ["target kill 6.0 s before"]
    wrong = StreamEnd("chaos-3", "target", 0.0, 10.0, 5, 2.0, problem="duplicated", is_wrong_text=True)
    assert broken(report((GOOD, wrong))) == {"streams", "texts"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"ready_after_s": None}, "ready"),
        ({"work": {"left": 1}}, "engines"),
        ({"work": {"left": None}}, "engines"),
        ({"work": None}, "engines"),
        ({"ray": {"actors": ["one"]}}, "ray"),
        ({"ray": None}, "ray"),
        ({"processes": [7]}, "processes"),
        ({"processes": None}, "processes"),
    ],
)
def test_what_is_left_or_unknown_breaks_its_promise(change, name) -> None:
    assert broken(report(aftermath=CLEAN | change)) == {name}


def test_too_few_streams_prove_nothing() -> None:
    assert broken(report(num_wanted=2)) == {"streams"}
    assert broken(report(ends=())) == {"streams", "texts"}
