"""The files that launch a cluster of GPUs: each valid by Ray's own word, all three in agreement, and the page on
operations true to the code where that can be looked up.

Nothing is started: Ray's schemas, the profile, and arithmetic over the nodes that cluster.yaml describes.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from deployments.app import BuildArgs, build, compose
from deployments.config import Config, GatewayConfig, PlacementConfig, SpeculationConfig, load_profile
from deployments.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "gpu-cluster"


@pytest.fixture
def cluster() -> dict[str, Any]:
    """cluster.yaml with Ray's defaults filled in, as `ray up` does it."""
    prepared: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    return prepared


@pytest.fixture
def deploy() -> ServeDeploySchema:
    """deploy/serve.yaml as `serve deploy` reads it."""
    return ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text()))


@pytest.fixture
def config() -> Config:
    return load_profile(PROFILE)


def placements(config: Config) -> dict[str, PlacementConfig]:
    assert config.draft is not None
    return {
        "target": config.target.placement,
        "draft": config.draft.placement,
        "verifier": config.verifier.placement,
        "coordinator": config.coordinator.placement,
        "gateway": config.gateway.placement,
    }


def wanted(placement: PlacementConfig) -> Counter[str]:
    """What one replica takes on its node, with all its bundles."""
    if placement.placement_group_bundles is not None:
        return sum((Counter(bundle) for bundle in placement.placement_group_bundles), Counter())
    return Counter({"CPU": placement.num_cpus, "GPU": placement.num_gpus, **placement.resources})


def pinned_type(placement: PlacementConfig, cluster: dict[str, Any]) -> str:
    """The only node type that has the custom resource of `placement`."""
    [resource] = placement.resources
    [node_type] = [name for name, node in cluster["available_node_types"].items() if node["resources"].get(resource, 0)]
    assert isinstance(node_type, str)
    return node_type


def names(node: Application) -> set[str]:
    """The deployments under `node`, by the arguments that they are bound to."""
    deployment = node._bound_deployment
    found = {deployment.name}
    for argument in deployment.init_args:
        if isinstance(argument, Application):
            found |= names(argument)
    return found


def test_cluster_is_valid_by_rays_schema(cluster: dict[str, Any]) -> None:
    validate_config(cluster)
    cluster["available_node_types"]["draft"]["gpus"] = 1
    with pytest.raises(ValidationError):
        validate_config(cluster)


def test_every_role_is_pinned_to_its_node_type(cluster: dict[str, Any], config: Config) -> None:
    pinned = {role: pinned_type(placement, cluster) for role, placement in placements(config).items()}
    assert pinned == {
        "target": "target",
        "draft": "draft",
        "verifier": "verifier",
        "coordinator": "head",
        "gateway": "head",
    }


def test_replicas_fit_together_on_the_nodes_that_may_be_started(cluster: dict[str, Any], config: Config) -> None:
    """First fit: every replica gets a node of its type, at most as many as the type may have."""
    nodes: dict[str, list[Counter[str]]] = {}
    for role, placement in placements(config).items():
        node_type = pinned_type(placement, cluster)
        capacity = Counter(cluster["available_node_types"][node_type]["resources"])
        assert wanted(placement) <= capacity, role
        used = nodes.setdefault(node_type, [])
        for _ in range(placement.num_replicas):
            place = next((i for i, node in enumerate(used) if node + wanted(placement) <= capacity), None)
            if place is None:
                used.append(wanted(placement))
            else:
                used[place] += wanted(placement)
    head = cluster["head_node_type"]
    assert len(nodes.pop(head)) == 1
    for node_type, used in nodes.items():
        assert len(used) <= cluster["available_node_types"][node_type]["max_workers"], node_type
    assert sum(len(used) for used in nodes.values()) <= cluster["max_workers"]


def test_only_draft_and_target_nodes_have_gpus(cluster: dict[str, Any], config: Config) -> None:
    gpus = {name: node["resources"]["GPU"] for name, node in cluster["available_node_types"].items()}
    assert gpus == {"head": 0, "draft": 1, "target": 8, "verifier": 0}
    assert gpus["target"] == config.target.engine.options["tensor_parallel_size"]


def test_target_has_one_bundle_a_worker_on_one_node(config: Config) -> None:
    placement, options = config.target.placement, config.target.engine.options
    bundles = placement.placement_group_bundles
    assert bundles is not None
    assert [bundle["GPU"] for bundle in bundles] == [1] * options["tensor_parallel_size"]
    assert options["distributed_executor_backend"] == "ray"
    assert placement.num_gpus == 0
    assert placement.placement_group_strategy == "STRICT_PACK"


def test_profile_builds_and_serve_refuses_a_first_bundle_without_the_replicas_resources(config: Config) -> None:
    assert names(compose(config)) == {"gateway", "coordinator", "target", "draft", "verifier"}
    bundles = copy.deepcopy(config.target.placement.placement_group_bundles)
    assert bundles is not None
    del bundles[0]["target"]
    placement = config.target.placement.model_copy(update={"placement_group_bundles": bundles})
    wrong = config.model_copy(update={"target": config.target.model_copy(update={"placement": placement})})
    with pytest.raises(ValueError, match="first bundle"):
        compose(wrong)


def test_profile_is_a_reasoning_deployment(config: Config) -> None:
    assert (config.reasoning.open, config.reasoning.close) == ("<think>", "</think>")
    assert config.speculation.scope == "think"
    kinds = {name: [check.kind for check in checks] for name, checks in config.verifier.verifiers.items()}
    fidelities = config.speculation.fidelities
    conditions = ["exact", "same_numbers", "same_polarity"]
    assert kinds[fidelities["balanced"]] == kinds[fidelities["strict"]] == [*conditions, "judge"]
    assert kinds[fidelities["fast"]] == ["exact", "same_numbers", "embedding"]


def test_serve_file_builds_the_profile(deploy: ServeDeploySchema, config: Config) -> None:
    [application] = deploy.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    resolved = BuildArgs(**application.args).resolve()
    assert resolved == config
    assert {deployment.name for deployment in application.deployments} <= names(compose(resolved))
    assert (deploy.http_options.host, deploy.http_options.port) == (config.gateway.host, config.gateway.port)
    assert deploy.proxy_location.value == "HeadOnly"


def test_every_start_command_turns_token_authentication_on(cluster: dict[str, Any]) -> None:
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in cluster[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    for command in starts:
        assert command.index("RAY_AUTH_MODE=token") < command.index("ray start")
    words = shlex.split(starts[0])
    assert "--dashboard-host=127.0.0.1" in words
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in words
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert cluster["provider"]["use_internal_ips"] is True


def test_mounted_files_of_the_repository_exist_and_the_wheel_is_installed(cluster: dict[str, Any]) -> None:
    mounts = cluster["file_mounts"]
    assert (ROOT / mounts["~/serve.yaml"]).is_file()
    assert mounts["~/wheels"] == "dist"  # where the wheel is built
    install = [command for command in cluster["setup_commands"] if "lookahead-serve[gpu] @ file://" in command]
    assert len(install) == 1
    assert "$HOME/wheels/lookahead_serve-*.whl" in install[0]


def test_operations_page_names_every_metric_and_no_other() -> None:
    rows = re.findall(r"^\| `(lookahead_\w+)(?:\{([\w,]+)\})?` \|", operations(), re.MULTILINE)
    documented = {name: set(labels.split(",")) - {""} for name, labels in rows}
    metrics = Metrics()
    assert documented == {
        family.name + ("_total" if family.type == "counter" else ""): labels_of(metrics, family.name)
        for family in metrics.registry.collect()
    }


def labels_of(metrics: Metrics, name: str) -> set[str]:
    """The label names that the metric was made with; a family without samples does not show them."""
    [metric] = [m for m in vars(metrics).values() if getattr(m, "_name", None) == name]
    return set(metric._labelnames)


def test_operations_page_gives_the_timeouts_of_the_config() -> None:
    rows = re.findall(r"^\| `(gateway|speculation)\.(\w+)` \| (\d+)(?: s)? \|", operations(), re.MULTILINE)
    assert len(rows) == 5
    sections = {"gateway": GatewayConfig(), "speculation": SpeculationConfig()}
    for section, setting, default in rows:
        assert getattr(sections[section], setting) == float(default), setting


def operations() -> str:
    return (ROOT / "docs" / "operations.md").read_text()


def test_serve_run_hands_over_a_plain_mapping() -> None:
    """`serve run deployments.app:build profile=scripted` calls the builder like this."""
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

    from deployments.app import build

    application = call_user_app_builder_with_args_if_necessary(build, {"profile": "scripted"})
    assert type(application).__name__ == "Application"
