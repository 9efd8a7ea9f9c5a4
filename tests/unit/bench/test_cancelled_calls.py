"""How long an engine went on is read from its log; whether a series is flat, from its slope."""

from __future__ import annotations

import random

import pytest

from deployments.bench.cancelled_calls import (
    Generation,
    overrun_s,
    overrun_tokens,
    percentiles_ms,
    rejected_overruns_s,
    written_at,
)
from deployments.bench.trend import trend


def generation(began: float, ended: float, role: str = "target", whole: bool = False) -> Generation:
    times = tuple(began + i * 0.1 for i in range(1, int((ended - began) * 10) + 1))
    return Generation(role, "p", began, ended, whole, "x" * len(times), times)


def test_the_last_engine_to_stop_counts() -> None:
    runs = [generation(0.0, 1.0, whole=True), generation(0.5, 2.05), generation(0.5, 2.5, "draft")]
    assert overrun_s(runs, 2.0) == pytest.approx(0.5)
    assert overrun_s(runs, 3.0) is None
    assert overrun_s([*runs, generation(2.6, 3.0, whole=True)], 2.0) == pytest.approx(1.0), "begun too late"
    assert overrun_tokens(runs, 2.25) == 3


def test_a_stop_string_is_there_with_its_last_token() -> None:
    one = generation(0.0, 0.5)
    assert written_at(one, "b c", ["a", " b", " c", " d", "e"]) == pytest.approx(0.3)
    assert written_at(one, "z", ["a", " b", " c", " d", "e"]) is None


def test_rejected_calls_are_held_against_the_coordinators_word() -> None:
    def span(kind: str, end: float, reason: str | None = "rejected") -> dict[str, object]:
        return {"kind": kind, "end_s": end, "detail": {} if reason is None else {"reason": reason}}

    spans = [span("target", 1.0), span("target", 2.0), span("draft", 1.5), span("target", 1.1, None)]
    trace = {"started_at": 100.0, "duration_s": 5.0, "spans": spans}
    runs = [
        generation(100.2, 101.02),  # given up at 1.0
        generation(100.2, 101.8, "draft"),  # given up at 1.5
        generation(100.2, 102.5, whole=True),  # ended by itself
        generation(103.0, 104.0),  # nobody gave it up
        generation(104.9, 105.1),  # ended with the request
    ]
    assert rejected_overruns_s(runs, trace) == pytest.approx([0.02, 0.3])


def test_percentiles() -> None:
    assert percentiles_ms([]) == {}
    assert percentiles_ms([i / 1000 for i in range(101)]) == {"p50_ms": 50.0, "p99_ms": 99.0, "max_ms": 100.0}


def test_a_leak_is_seen_through_noise_and_noise_is_no_leak() -> None:
    chance = random.Random(1)
    xs = [i / 10 for i in range(40)]
    noise = [chance.gauss(500.0, 3.0) for _ in xs]
    assert trend(xs, noise).low <= 0.0 <= trend(xs, noise).high
    leak = trend(xs, [y + 10.0 * x for x, y in zip(xs, noise, strict=True)])
    assert not leak.is_flat
    assert leak.low < 10.0 < leak.high
    with pytest.raises(ValueError, match="three points"):
        trend([1.0, 2.0], [1.0, 2.0])


def test_a_trend_is_that_of_the_textbook() -> None:
    found = trend([1.0, 2.0, 3.0, 4.0], [2.1, 3.9, 6.2, 7.8])
    assert found.slope == pytest.approx(1.94)
    assert found.high - found.slope == pytest.approx(4.30 * (0.082 / 2 / 5.0) ** 0.5, rel=0.01)
