"""What may change while replicas run, and who reads it."""

from __future__ import annotations

from typing import Any

import pytest

from actors.errors import ConfigError
from actors.messages import GenerationRequest, Prompt
from deployments.config import load_profile
from deployments.coordinator.coordinator import settle
from deployments.live_settings import changed

STARTED = load_profile("scripted")


def test_depth_fidelity_and_thresholds_change_and_an_empty_change_is_the_way_back() -> None:
    wanted = {
        "speculation": {"max_lookahead": 7, "fidelity": "strict", "controller": {"enabled": False}},
        "verifiers": {"numbers": [{"kind": "exact"}, {"kind": "embedding", "accept": 0.9, "reject": 0.9}]},
    }
    now = changed(STARTED, wanted)
    assert (now.speculation.max_lookahead, now.speculation.fidelity) == (7, "strict")
    assert not now.speculation.controller.enabled
    assert now.speculation.controller.probe_share == STARTED.speculation.controller.probe_share
    assert [check.kind for check in now.verifier.verifiers["numbers"]] == ["exact", "embedding"]
    assert now.verifier.verifiers["always"] == STARTED.verifier.verifiers["always"]
    plan = settle(now, GenerationRequest("one", Prompt(text="?")))
    assert (plan.max_lookahead, plan.is_controlled) == (7, False)
    assert changed(STARTED, {}) == changed(STARTED, None) == STARTED


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"target": {"model": "other"}}, "target"),
        ({"speculation": {"max_lookahed": 3}}, "max_lookahed"),
        ({"speculation": {"max_lookahead": 0}}, "max_lookahead"),
        ({"speculation": {"fidelity": "exact", "fidelities": {"exact": "nobody"}}}, "nobody"),
        ({"speculation": {"replica_timeout_s": 3}}, "replica_timeout_s"),
        ({"speculation": 4}, "mappings"),
        ({"verifiers": {"new": [{"kind": "exact"}]}}, "new"),
        ({"verifiers": {"numbers": [{"kind": "exat"}]}}, "exat"),
    ],
)
def test_what_cannot_change_is_refused_by_its_name(wanted: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        changed(STARTED, wanted)
