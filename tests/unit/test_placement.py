"""Where roles run, how many of them and on which engine: what is left out, and what cannot be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from actors.errors import ConfigError
from deployments.app import compose
from deployments.config import Config, validate_config
from tests.unit.launch_files import bound

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


def test_how_long_a_replica_may_take_to_stop_and_who_comes_first_reach_serve() -> None:
    config = placed(target={"grace_s": 120, "max_surge_percent": 100})
    options = {name: deployment._deployment_config for name, deployment in bound(compose(config)).items()}
    found = {name: (each.graceful_shutdown_timeout_s, each.max_surge_percent) for name, each in options.items()}
    others = dict.fromkeys(("draft", "verifier", "coordinator", "gateway"), (3600.0, 0))
    assert found == others | {"target": (120.0, 100)}


GROWS = {"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 32}


@pytest.mark.parametrize("policy", [{}, {"policy": None}, {"policy": {"policy_kwargs": {}}}])
@pytest.mark.parametrize("role", ["target", "draft", "verifier", "coordinator"])
def test_serve_s_default_policy_is_refused_where_it_would_count_nothing(role: str, policy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{role}\.placement\.autoscaling: .* never grow\. Use autoscaling\.{role}"):
        placed(**{role: {"autoscaling": GROWS | policy}})


def test_serve_s_default_policy_sees_gateways_and_another_one_may_see_more() -> None:
    placed(gateway={"autoscaling": GROWS}, target={"autoscaling": GROWS | {"policy": {"policy_function": "a:b"}}})


@pytest.mark.parametrize(
    ("placement", "says"),
    [
        ({"placement_group_bundles": []}, "needs at least one bundle"),
        ({"placement_group_bundles": [{"CPU": 1}, {}]}, "something in each of them"),
        ({"placement_group_bundles": [{"CPU": 1}, {"GPU": 0}]}, "something in each of them"),
        ({"num_cpus": 2, "placement_group_bundles": [{"CPU": 1}, {"CPU": 2}]}, "has only CPU 1 of 2"),
        (
            {"num_gpus": 1, "placement_group_bundles": [{"CPU": 1, "GPU": 0.5}]},
            r"has only GPU 0\.5 of 1; where vLLM's workers take the GPUs of bundles, set num_gpus: 0",
        ),
        (
            {"resources": {"front": 1}, "placement_group_bundles": [{"GPU": 1}, {"CPU": 1, "front": 1}]},
            "has only CPU 0 of 1, front 0 of 1",
        ),
    ],
)
@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_replica_that_its_first_bundle_cannot_hold_is_refused(
    role: str, placement: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{role}\.placement: .*placement_group_bundles.*{says}"):
        placed(**{role: placement})


def test_a_first_bundle_may_hold_more_than_the_replica() -> None:
    bundles = [{"CPU": 5, "GPU": 1, "target": 1}, {"CPU": 1, "GPU": 1}]
    placement = {"num_cpus": 4, "resources": {"target": 1}, "placement_group_bundles": bundles}
    assert placed(target=placement).target.placement.gpus == [0, 1, 1]


BY_RAY = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}
WORKERS = [{"CPU": 2, "GPU": 1}, {"CPU": 1, "GPU": 1}]
ADVICE = r"num_gpus is \d\): set num_gpus: 0 and one bundle of one GPU a worker"


@pytest.mark.parametrize(
    ("options", "placement", "theirs"),
    [
        (BY_RAY, {"num_gpus": 1, "placement_group_bundles": WORKERS}, "the GPUs of placement_group_bundles"),
        # In bundles vLLM chooses Ray's workers by itself.
        (
            {"tensor_parallel_size": 2},
            {"num_gpus": 1, "placement_group_bundles": WORKERS},
            "the GPUs of placement_group",
        ),
        (BY_RAY | {"tensor_parallel_size": 8}, {"num_gpus": 8}, "GPUs of their own from Ray"),
    ],
)
def test_a_replica_with_gpus_that_its_workers_would_wait_for_is_refused(
    options: dict[str, Any], placement: dict[str, Any], theirs: str
) -> None:
    engine = {"options": options}
    for role in ("target", "draft"):
        data = {"served_model_name": "m", "target": SCRIPTED, "draft": SCRIPTED}
        with pytest.raises(ConfigError, match=rf"{role}: .*take {theirs}.*{ADVICE}"):
            validate_config(data | {role: {"model": "m", "engine": engine, "placement": placement}}, "test")
    judging = {"judge": {"model": "m", "engine": engine}, "placement": placement}
    with pytest.raises(ConfigError, match=rf"verifier: .*take {theirs}.*{ADVICE}"):
        validate_config({"served_model_name": "m", "target": SCRIPTED, "verifier": judging}, "test")


@pytest.mark.parametrize(
    ("options", "placement"),
    [
        (BY_RAY, {"placement_group_bundles": WORKERS}),
        (BY_RAY, {}),
        ({"tensor_parallel_size": 8}, {"num_gpus": 8}),
        ({}, {"num_gpus": 1}),
        ({}, {"num_gpus": 1, "placement_group_bundles": [{"CPU": 1, "GPU": 1}]}),
    ],
)
def test_a_replica_that_leaves_its_workers_their_gpus_is_taken(
    options: dict[str, Any], placement: dict[str, Any]
) -> None:
    target = {"model": "m", "engine": {"options": options}, "placement": placement}
    draft = {"model": "m", "placement": {"num_gpus": 1}}
    validate_config({"served_model_name": "m", "target": target, "draft": draft}, "test")


def test_an_option_that_the_scripted_engine_has_not_is_refused_before_anything_starts() -> None:
    writer = {"model": "scripted", "engine": {"kind": "scripted", "options": {"token_ss": 1, "agree": 0.5}}}
    with pytest.raises(ConfigError, match=r"draft\.engine: .* no option token_ss; it has: .*token_s,"):
        validate_config({"served_model_name": "m", "target": SCRIPTED, "draft": writer}, "test")
