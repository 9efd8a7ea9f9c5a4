"""Where roles run: what a section of `placement` leaves out has the default of its role."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.config import Config, validate_config

SCRIPTED = {"model": "scripted", "engine": {"kind": "scripted"}}


def placed(**placements: dict[str, Any]) -> Config:
    """A configuration of all roles, with these sections of `placement`."""
    data: dict[str, Any] = {"served_model_name": "m", "target": dict(SCRIPTED), "draft": dict(SCRIPTED)}
    for role, placement in placements.items():
        data[role] = data.get(role, {}) | {"placement": placement}
    return validate_config(data, "test")


@pytest.mark.parametrize("role", ["target", "draft", "verifier", "coordinator", "gateway"])
def test_a_line_of_placement_leaves_the_defaults_of_the_others(role: str) -> None:
    before, after = getattr(placed(), role).placement, getattr(placed(**{role: {"num_replicas": 2}}), role).placement
    assert after.num_replicas == 2
    assert after == before.model_copy(update={"num_replicas": 2})
