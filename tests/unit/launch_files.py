"""What the tests of launch files share: what a configuration asks of nodes, and whether nodes have it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ray.serve import Application, Deployment

from deployments.config import Config
from deployments.sections import PlacementConfig

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "gpu-cluster"
PINS = {
    "target": "target",
    "draft": "draft",
    "verifier": "verifier",
    "coordinator": "front",
    "gateway": "front",
}
"""The type of node that holds each role of the profile."""


def placements(config: Config) -> dict[str, PlacementConfig]:
    """Where each role runs."""
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


def pinned(config: Config, types: dict[str, Counter[str]]) -> dict[str, str]:
    """Role -> the only one of `types` (resources of a node, by name) that has the role's custom resource."""
    found = {}
    for role, placement in placements(config).items():
        [resource] = placement.resources
        [found[role]] = [name for name, resources in types.items() if resources[resource]]
    return found


def packed(config: Config, types: dict[str, Counter[str]]) -> dict[str, list[dict[str, int]]]:
    """First fit: for each of `types` the nodes that all replicas need, as number of replicas by role."""
    free: dict[str, list[Counter[str]]] = {name: [] for name in types}
    held: dict[str, list[dict[str, int]]] = {name: [] for name in types}
    where = pinned(config, types)
    for role, placement in placements(config).items():
        need, name = wanted(placement), where[role]
        assert need <= types[name], role
        for _ in range(placement.num_replicas):
            place = next((i for i, left in enumerate(free[name]) if need <= left), len(free[name]))
            if place == len(free[name]):
                free[name].append(Counter(types[name]))
                held[name].append({})
            free[name][place].subtract(need)
            held[name][place][role] = held[name][place].get(role, 0) + 1
    return held


def fake_pip(torch: str, found: str) -> str:
    """A program in the place of pip that prints its arguments; it finds `torch` at hand, on the index, nowhere."""
    other = 0 if found == "on the index" else 1
    return f"""#!/bin/sh
echo "$*"
case "$*" in
*--extra-index-url*) exit {other};;
*"{torch}") exit {0 if found == "at hand" else 1};;
esac
"""


def bound(node: Application) -> dict[str, Deployment]:
    """The deployments under `node` by name, found by the arguments that they are bound to."""
    deployment = node._bound_deployment
    found = {deployment.name: deployment}
    for argument in deployment.init_args:
        if isinstance(argument, Application):
            found |= bound(argument)
    return found


def names(node: Application) -> set[str]:
    """The names of the deployments under `node`."""
    return set(bound(node))
