"""Where roles run, and how many of them: what `placement` leaves out, and what it cannot ask for."""

from __future__ import annotations

from typing import Any

import pytest

from actors.errors import ConfigError
from deployments.config import Config, validate_config

SCRIPTED = {"model": "scripted", "engine": {"kind": "scripted"}}


def placed(**placements: dict[str, Any]) -> Config:
    """A configuration of all roles, with these sections of `placement`."""
    data: dict[str, Any] = {"served_model_name": "m", "target": SCRIPTED, "draft": SCRIPTED}
    for role, placement in placements.items():
        data[role] = data.get(role, {}) | {"placement": placement}
    return validate_config(data, "test")


@pytest.mark.parametrize("role", ["target", "draft", "verifier", "coordinator", "gateway"])
def test_a_line_of_placement_leaves_the_defaults_of_the_others(role: str) -> None:
    before, after = getattr(placed(), role).placement, getattr(placed(**{role: {"num_replicas": 2}}), role).placement
    assert after.num_replicas == 2
    assert after == before.model_copy(update={"num_replicas": 2})


GROWS = {"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 32}


@pytest.mark.parametrize("policy", [{}, {"policy": None}, {"policy": {"policy_kwargs": {}}}])
@pytest.mark.parametrize("role", ["target", "draft", "verifier", "coordinator"])
def test_serve_s_default_policy_is_refused_where_it_would_count_nothing(role: str, policy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{role}\.placement\.autoscaling: .* never grow\. Use autoscaling\.{role}"):
        placed(**{role: {"autoscaling": GROWS | policy}})


def test_serve_s_default_policy_sees_gateways_and_another_one_may_see_more() -> None:
    placed(gateway={"autoscaling": GROWS}, target={"autoscaling": GROWS | {"policy": {"policy_function": "a:b"}}})
