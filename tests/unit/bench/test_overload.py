"""What counts as a good answer and as a proper refusal under overload."""

from __future__ import annotations

import pytest

from actors.errors import ConfigError, RequestError
from deployments.bench.overload import CAPACITY, OBJECTIVE_S, row, settings, summary
from deployments.bench.overload_clients import departures, is_openai_error


def fate(status: int = 200, latency_s: float = 1.0, **rest):
    line = {"status": status, "latency_s": latency_s, "retry_after": None, "is_openai": None, "problem": None}
    return line | {"at_s": 0.0, "late_s": 0.0} | rest


def test_only_answers_within_the_objective_are_good() -> None:
    fates = [
        *[fate()] * 4,
        fate(latency_s=OBJECTIVE_S + 1),
        fate(429, 0.01, is_openai=True, retry_after="1"),
        fate(503, 0.02, is_openai=False),
        fate(0, 15.0, problem="left"),
        fate(0, 0.1, problem="ReadError"),
    ]
    found = row(2.0, 2.0, fates)
    assert found["goodput_per_s"] == 2.0
    assert (found["num_answered_late"], found["num_left"], found["num_broken"]) == (1, 1, 1)
    refusals = found["refusals"]
    assert refusals["by_status"] == {"429": 1, "503": 1}
    assert (refusals["num_in_openais_form"], refusals["num_with_retry_after"]) == (1, 1)


def test_the_share_kept_is_that_of_the_highest_load() -> None:
    rows = [row(load, 1.0, [fate()] * num) for load, num in ((1.0, 8), (2.0, 10), (20.0, 9))]
    found = summary(rows)
    assert (found["peak_at_load"], found["kept_at_highest_load"], found["is_kept"]) == (2.0, 0.9, False)
    assert summary(rows[:2])["is_kept"]
    assert summary([row(1.0, 1.0, [fate(503)])])["is_kept"] is False


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"error": {"message": "full", "type": "t", "param": null, "code": "c"}}', True),
        (b'{"error": {"message": "full"}}', False),
        (b"Too many requests", False),
        (b'{"detail": "x"}', False),
        (b"[]", False),
    ],
)
def test_openais_form(body, wanted) -> None:
    assert is_openai_error(body) is wanted


def test_departures_are_a_poisson_process_of_the_rate() -> None:
    times = departures(3, 5 * CAPACITY, 400.0)
    assert times == departures(3, 5 * CAPACITY, 400.0)
    assert len(times) == pytest.approx(5 * CAPACITY * 400, rel=0.05)
    assert times == sorted(times)


def test_any_setting_can_be_changed_and_no_other() -> None:
    config = settings(["target.placement.max_ongoing_requests=8", "gateway.max_body_bytes=1000"])
    assert config.target.placement.max_ongoing_requests == 8
    assert config.gateway.max_body_bytes == 1000
    with pytest.raises(ConfigError, match="wings"):
        settings(["gateway.wings=2"])
    with pytest.raises(RequestError, match="--set"):
        settings(["gateway.max_body_bytes"])
