"""What vLLM's own server gets of the GPUs that a deployment had: all of them, and not more."""

from __future__ import annotations

from typing import Any

import pytest

from actors.errors import RequestError
from deployments.bench.equal_hardware import equal, needs_gpus
from deployments.config import Config, load_profile, validate_config

WORKERS = {"num_gpus": 0, "placement_group_bundles": [{"CPU": 2, "GPU": 1}, {"CPU": 1, "GPU": 1}]}
TWO = {"engine": {"options": {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}}}


def pair(target: dict[str, Any], draft: dict[str, Any] | None = None, **sections: Any) -> Config:
    data = {
        "served_model_name": "m",
        "target": {"model": "ORG/T", **target},
        "speculation": {"mode": "target" if draft is None else "lookahead", "fidelity": "exact"},
    }
    return validate_config(data | ({} if draft is None else {"draft": {"model": "ORG/D", **draft}}) | sections, "test")


def test_which_deployments_are_on_gpus() -> None:
    assert not needs_gpus(load_profile("local"))
    assert needs_gpus(load_profile("gpu-one"))
    assert needs_gpus(pair({"placement": WORKERS}))
    assert needs_gpus(pair({}, {"placement": {"num_gpus": 0.3}}))
    assert needs_gpus(pair({}, verifier={"placement": {"num_gpus": 0.1}}))


def test_one_card_of_two_engines_is_one_engine_with_the_memory_of_both() -> None:
    server = equal(load_profile("gpu-one"), "none")
    assert server.options["gpu_memory_utilization"] == 0.85
    assert server.options["load_format"] == "dummy", "its weights are made up as the deployment's are"
    assert "data_parallel_size" not in server.options
    assert "speculative_config" not in server.options
    assert server.options["max_num_seqs"] == 256


def test_memory_that_is_not_told_is_vllms_and_never_all_of_a_card() -> None:
    shared = pair({"placement": {"num_gpus": 0.6}}, {"placement": {"num_gpus": 0.4}})
    assert equal(shared).options["gpu_memory_utilization"] == 0.95
    alone = pair({"placement": {"num_gpus": 1}}, {"placement": {"num_gpus": 1}})
    assert "gpu_memory_utilization" not in equal(alone).options


def part(num_gpus: float, memory: float, num_replicas: int = 1) -> dict[str, Any]:
    placement = {"num_gpus": num_gpus, "num_replicas": num_replicas}
    return {"engine": {"options": {"gpu_memory_utilization": memory}}, "placement": placement}


@pytest.mark.parametrize(
    ("target", "draft", "verifier", "memory"),
    [
        (part(0.3, 0.33, 2), part(0.2, 0.1, 2), {}, 0.86),
        (part(0.7, 0.6, 2), part(0.3, 0.25, 2), {}, 0.85),  # two cards
        (part(0.6, 0.5), part(1, 0.9), {}, 0.7),  # a card and a part of another
        (part(0.6, 0.5), part(0.2, 0.2), {"placement": {"num_gpus": 0.2}}, 0.7),
        (part(0.6, 0.5), part(0.4, 0.4), {"placement": {"num_gpus": 1}}, 0.9),
    ],
)
def test_memory_is_that_of_all_replicas_over_their_cards(
    target: dict[str, Any], draft: dict[str, Any], verifier: dict[str, Any], memory: float
) -> None:
    assert equal(pair(target, draft, verifier=verifier)).options["gpu_memory_utilization"] == memory


@pytest.mark.parametrize(
    ("target", "draft", "engines"),
    [
        ({"placement": {"num_gpus": 1}}, {"placement": {"num_gpus": 1}}, 2),
        ({"placement": {"num_gpus": 1}}, None, None),
        ({**TWO, "placement": WORKERS}, {"placement": {"num_gpus": 1}}, None),  # three cards, two engines need four
        ({**TWO, "placement": WORKERS}, {"placement": {"num_gpus": 1, "num_replicas": 2}}, 2),
        ({**TWO, "placement": WORKERS | {"num_replicas": 3}}, {"placement": {"num_gpus": 1}}, 3),
        ({"placement": {"num_gpus": 0.7, "num_replicas": 2}}, {"placement": {"num_gpus": 0.3, "num_replicas": 2}}, 2),
        ({"placement": {"num_gpus": 0.7}}, {"placement": {"num_gpus": 0.1, "num_replicas": 3}}, None),
    ],
)
def test_as_many_engines_as_fit(target: dict[str, Any], draft: dict[str, Any] | None, engines: int | None) -> None:
    options = equal(pair(target, draft)).options
    assert options.get("data_parallel_size") == engines
    assert "distributed_executor_backend" not in options


def test_cards_of_the_verifier_count() -> None:
    one = {"placement": {"num_gpus": 1}}
    assert equal(pair(one, verifier=one)).options["data_parallel_size"] == 2


@pytest.mark.parametrize(
    "grows",
    [
        {"autoscaling": {"target": {"max_replicas": 3, "load": 8}}},
        {"verifier": {"placement": {"autoscaling": {"max_replicas": 2, "policy": {"policy_function": "a:b"}}}}},
    ],
)
def test_replicas_that_come_and_go_are_not_compared(grows: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="replicas come and go"):
        equal(pair({"placement": {"num_gpus": 1}}, **grows))
    equal(pair({}, **grows))  # on CPUs the cores are told
