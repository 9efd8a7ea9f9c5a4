"""Replicas that come and go by the server's policy, over a simulated cluster."""

from __future__ import annotations

import pytest

from actors.errors import ConfigError
from deployments.simulation.outcome import Outcome
from deployments.simulation.run import run_scenario
from deployments.simulation.scenario import parse_scenario

LEAST = "name: s\ntarget: {token_s: 0.02, sequence_share: 0.1}\ndraft: {replicas: 0, token_s: 0.002}\n"
TIDE = """
verifier: {replicas: 0}
text: {num_steps: 8, mean_tokens: 20}
arrivals: {rates: [[0, 0.2], [60, 0.2], [61, 6], [260, 6], [261, 0.2]]}
autoscaling:
  target: {max_replicas: 6, load: 6}
  draft: {min_replicas: 0, max_replicas: 3, load: 12}
  verifier: {min_replicas: 0, max_replicas: 2, load: 8}
  down_delay_s: 60
  start_s: 20
duration_s: 500
"""


def outcome(mode: str, more: str = "") -> Outcome:
    return run_scenario(parse_scenario(LEAST + TIDE + f"speculation: {{modes: [{mode}]}}\n" + more, "test"))[0]


def numbers(found: Outcome, role: str, since: float, until: float) -> list[int]:
    """How many were wanted at times of that stretch."""
    before = [number[role] for at, number in found.replicas if at <= since]
    return before[-1:] + [number[role] for at, number in found.replicas if since < at < until]


def test_replicas_follow_the_load_and_no_call_is_lost() -> None:
    found = outcome("lookahead")
    assert max(numbers(found, "target", 0.0, 60.0)) <= 2
    assert max(numbers(found, "target", 61.0, 260.0)) >= 4
    assert numbers(found, "target", 400.0, 500.0)[-1] <= 2
    assert max(numbers(found, "draft", 0.0, 260.0)) >= 1
    assert (found.num_lost_calls, found.num_failed) == (0, 0)
    assert 2.0 < found.mean_gpus < 9.0
    assert found.num_requests > 1000
    assert found.accept_rate


def test_streams_end_on_replicas_that_are_taken_away_and_the_target_alone_needs_no_draft() -> None:
    found = outcome("target")
    assert max(numbers(found, "target", 61.0, 260.0)) >= 4
    assert numbers(found, "target", 400.0, 500.0)[-1] <= 2
    assert (found.num_lost_calls, found.num_failed) == (0, 0)
    assert {number["draft"] for _, number in found.replicas} == {0}
    assert {number["verifier"] for _, number in found.replicas} == {0}


def test_what_the_gateway_holds_back_makes_the_replicas_grow_and_no_longer_than_it_comes() -> None:
    """Time limits let far fewer in than a replica carries by its `load`: those in flight never ask for a second one."""
    far = LEAST + TIDE.replace("target: {max_replicas: 6, load: 6}", "target: {max_replicas: 6, load: 12}")
    text = far + "speculation: {modes: [target]}\nadmission: {timeout_s: 12}\n"
    found = run_scenario(parse_scenario(text, "test"))[0]
    assert max(numbers(found, "target", 61.0, 200.0)) >= 4
    assert numbers(found, "target", 400.0, 500.0)[-1] == 1
    wanted = [number["target"] for _, number in found.replicas]
    assert wanted == sorted(wanted[: wanted.index(max(wanted))]) + sorted(wanted[wanted.index(max(wanted)) :])[::-1]
    assert found.num_requests > 900


def test_a_replica_that_starts_slowly_serves_late() -> None:
    text = LEAST + TIDE + "speculation: {modes: [target]}\n"
    slow, quick = (
        run_scenario(parse_scenario(text.replace("start_s: 20", f"start_s: {start_s}"), "test"))[0].latency_p95_s
        for start_s in (20, 1)
    )
    assert slow is not None
    assert quick is not None
    assert slow > 1.2 * quick


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("duration_s", "failures: [{role: target, at_s: 1, back_s: 2}]\nduration_s", "failures name replicas"),
        ("duration_s", "speculation: {modes: [target_all_gpus]}\nduration_s", "gives away"),
        ("down_delay_s", "coordinator: {max_replicas: 2, load: 8}\n  down_delay_s", "do not scale here"),
    ],
)
def test_what_does_not_go_together_is_said(old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_scenario((LEAST + TIDE).replace(old, new), "test")
