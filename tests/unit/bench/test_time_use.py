"""Each instant of a request counts once; positions are steps ahead of what was committed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.bench.time_use import PARTS, acceptance_by_position, time_use
from deployments.telemetry.timeline import read_trace


def trace(*spans, commits=()):
    """A span is kind, start, end and, if the engine told it, its seconds; or with step and outcome by name."""
    found = []
    for kind, start, end, *engine in spans:
        detail = {"engine_s": engine[0]} if engine else {}
        found.append({"kind": kind, "position": 0, "start_s": start, "end_s": end, "detail": detail})
    return read_trace({"spans": found, "commits": [{"step": s, "at_s": t, "origin": "target"} for s, t in commits]})


def test_by_hand():
    found = time_use(
        trace(("draft", 1.0, 4.0), ("target", 2.0, 6.0, 3.0), ("verdict", 6.0, 6.5), ("answer", 8.0, 9.0)), 10.0
    )
    assert found == pytest.approx(
        {"draft": 2.0, "both": 1.0, "target": 2.0 + 1.0, "verdict": 0.5, "waiting": 0.0, "overhead": 3.5}
    )


def test_waiting_is_what_the_engine_did_not_take():
    found = time_use(trace(("target", 0.0, 5.0, 2.0), ("target", 1.0, 6.0, 6.5)), 7.0)
    assert found["target"] == pytest.approx(5.0)
    assert found["waiting"] == pytest.approx(1.0)
    assert found["overhead"] == pytest.approx(1.0)


def test_nothing_traced_is_overhead():
    assert time_use(trace(), 2.0)["overhead"] == 2.0


@given(
    st.lists(
        st.tuples(st.sampled_from(["draft", "target", "answer", "verdict"]), st.floats(0, 9), st.floats(0, 5),
                  st.floats(0, 5)),
        max_size=9,
    )
)  # fmt: skip
def test_parts_add_up_to_the_latency(spans):
    found = time_use(trace(*((kind, start, start + long, engine) for kind, start, long, engine in spans)), 20.0)
    assert set(found) == set(PARTS)
    assert sum(found.values()) == pytest.approx(20.0)
    assert min(found.values()) >= 0.0


def test_position_is_counted_from_the_last_committed_step():
    def draft(step, start, outcome):
        return {
            "kind": "draft",
            "position": step,
            "step": step,
            "start_s": start,
            "end_s": start + 1,
            "outcome": outcome,
        }

    found = read_trace(
        {
            "spans": [
                draft(0, 0.0, "accepted"), draft(1, 1.0, "accepted"), draft(2, 2.0, "rejected"),
                draft(3, 6.0, "accepted"), draft(4, 7.0, "cancelled"),
                {"kind": "target", "position": 0, "step": 0, "start_s": 0.0, "end_s": 3.0, "outcome": "accepted"},
            ],
            "commits": [{"step": step, "at_s": at, "origin": "target"} for step, at in enumerate((3.0, 4.0, 5.0, 9.0))],
        }
    )  # fmt: skip
    assert acceptance_by_position(found) == [[2, 0], [1, 0], [0, 1]]
