"""The gateway's admission over a simulated cluster."""

from __future__ import annotations

import pytest

from actors.errors import ConfigError
from deployments.gateway import front_queue
from deployments.simulation.outcome import Outcome
from deployments.simulation.run import run_scenario
from deployments.simulation.scenario import parse_scenario
from deployments.simulation.scenario_sections import AdmissionScenario

LEAST = "name: s\ntarget: {token_s: 0.02, sequence_share: 0.2}\ndraft: {token_s: 0.002}\n"
TEXT = "text: {num_steps: 4, mean_tokens: 20, sigma: 0}\nspeculation: {modes: [target]}\n"


def outcome(more: str) -> Outcome:
    return run_scenario(parse_scenario(LEAST + TEXT + more, "test"))[0]


def test_who_finds_room_does_not_wait() -> None:
    found = outcome("admission: {}\narrivals: {rate: 0.5}\nduration_s: 100")
    assert found.num_requests > 30
    assert (found.num_refused, found.refused, found.wait_p95_s) == (0, {}, 0.0)


def test_what_cannot_be_done_is_refused_and_who_begins_is_served_in_time() -> None:
    """Eight at once take 80 passes of 0.048 s: about 2 a second are done, 10 a second come."""
    more = "arrivals: {rate: 10}\nduration_s: 120\nlatency_goal_s: 12\n"
    found = outcome(more + "admission: {max_concurrent: 8, max_wait_s: 5, keys: 4}")
    assert found.num_refused == sum(found.refused.values())
    assert found.num_refused + found.num_requests == pytest.approx(1200, rel=0.1)
    assert found.wait_p95_s is not None
    assert found.wait_p95_s < 8.0
    assert found.goodput_rps == pytest.approx(2.0, rel=0.15)
    everybody = outcome(more)
    assert everybody.num_refused == 0
    assert everybody.goodput_rps is not None
    assert everybody.goodput_rps < 0.3 * found.goodput_rps


def test_who_waits_longer_than_his_time_limit_is_gone() -> None:
    found = outcome(
        "arrivals: {rate: 4}\nduration_s: 60\nadmission: {max_concurrent: 1, max_wait_s: 100, timeout_s: 6, keys: 4}"
    )
    assert found.refused.get("deadline", 0) > 50
    assert found.latency_p95_s is not None
    assert found.latency_p95_s <= 6.0 + 2.0


def test_a_user_who_is_refused_asks_again_when_he_was_told_to() -> None:
    found = outcome("arrivals: {users: 30}\nduration_s: 60\nadmission: {max_concurrent: 2, max_waiting: 4, keys: 4}")
    assert found.num_requests > 40
    assert 0 < found.num_refused < 30 * 60 + 30


def test_its_defaults_are_the_gateway_s() -> None:
    settings = AdmissionScenario()
    assert settings.first_concurrent == front_queue.FIRST_CONCURRENT
    assert settings.least_concurrent == front_queue.LEAST_CONCURRENT
    with pytest.raises(ConfigError, match="one of the two"):
        outcome("admission: {}\narrivals: {rate: 1, max_in_flight: 2}")


def test_a_rate_goes_along_its_line() -> None:
    found = outcome("arrivals: {rates: [[0, 0], [100, 2], [200, 0]]}\nduration_s: 300")
    assert found.num_requests == pytest.approx(200, rel=0.15)
    with pytest.raises(ConfigError, match="rise in time"):
        outcome("arrivals: {rates: [[5, 1], [1, 2]]}")
