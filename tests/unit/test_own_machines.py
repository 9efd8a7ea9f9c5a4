"""The files for machines of one's own: valid by Ray's word, every machine has a role, all replicas that there may ever
be fit, and their commands are those of the file for AWS.

The start command is run by a shell on which `hostname` and `ray` only say what they were asked.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler._private.util import validate_config as validate_cluster
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments.build_args import BuildArgs
from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import ON_EVERY_NODE
from tests.unit.launch_files import PINS, PROFILE, ROOT, packed, pinned, placements

HARDWARE = {"front": (16, 0), "draft": (16, 2), "target": (96, 8), "verifier": (8, 0)}
"""CPUs and GPUs of the machines that the file's comments describe."""


@pytest.fixture
def cluster() -> dict[str, Any]:
    """deploy/own-machines.yaml as it stands."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "own-machines.yaml").read_text())
    return document


def started(command: str, address: str, home: Path) -> subprocess.CompletedProcess[str]:
    """`command` on a machine with `address`, where `ray` prints its environment and arguments as JSON."""
    ray = home / "lookahead" / "bin" / "ray"
    ray.parent.mkdir(parents=True, exist_ok=True)
    ray.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\nprint(json.dumps([dict(os.environ), sys.argv[1:]]))\n"
    )
    ray.chmod(0o755)
    return subprocess.run(
        ["bash", "-c", f"hostname() {{ echo '{address} 172.17.0.1 '; }}; ulimit() {{ :; }}; {command}"],
        env={"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.10"},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_file_is_valid_by_rays_schema_and_uses_every_machine(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_cluster(prepared)
    [node] = prepared["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(cluster["provider"]["worker_ips"])
    assert cluster["provider"]["head_ip"] not in cluster["provider"]["worker_ips"]


def held(cluster: dict[str, Any], home: Path) -> tuple[dict[str, Counter[str]], dict[str, int]]:
    """What a machine of each type has, and how many there are."""
    machines: dict[str, int] = {}
    types: dict[str, Counter[str]] = {}
    for address in cluster["provider"]["worker_ips"]:
        run = started(cluster["worker_start_ray_commands"][-1], address, home)
        environment, words = json.loads(run.stdout)
        assert "--address=10.0.0.10:6379" in words
        assert ON_EVERY_NODE.items() | {"RAY_AUTH_MODE": "token"}.items() <= environment.items()
        [holds] = [json.loads(word.removeprefix("--resources=")) for word in words if word.startswith("--resources=")]
        kind = PINS[next(iter(holds))]
        cpus, gpus = HARDWARE[kind]
        types[kind] = Counter({"CPU": cpus, "GPU": gpus, **holds})
        machines[kind] = machines.get(kind, 0) + 1
    return types, machines


@pytest.fixture
def application() -> ServeApplicationSchema:
    """What the file for `serve deploy` asks for."""
    document = yaml.safe_load((ROOT / "deploy" / "own-machines-serve.yaml").read_text())
    [application] = ServeDeploySchema.model_validate(document).applications
    return application


def grown(config: Config) -> Config:
    """With as many replicas of each role as there may ever be."""
    data = config.model_dump()
    data["autoscaling"] = None
    for role in placements(config):
        scaling = config.autoscaling.role(role) if config.autoscaling is not None else None
        if scaling is not None:
            data[role]["placement"]["num_replicas"] = scaling.max_replicas
    return validate_config(data, "grown")


def test_no_role_may_have_more_replicas_than_its_machines_hold(
    cluster: dict[str, Any], application: ServeApplicationSchema, tmp_path: Path
) -> None:
    """One more would wait for a machine without end, and Serve would replace no replica of that role meanwhile."""
    types, machines = held(cluster, tmp_path)
    most = packed(grown(BuildArgs(**application.args).resolve()), types)
    assert {kind: len(used) for kind, used in most.items()} == machines
    on_aws = packed(grown(load_profile(PROFILE)), types)
    assert len(on_aws["target"]) > machines["target"], "which is why the file for AWS is not this one"


def test_the_application_is_otherwise_that_of_the_profile(application: ServeApplicationSchema) -> None:
    named = load_profile(PROFILE).model_dump()
    assert BuildArgs(**application.args).resolve().model_dump() == named | {"autoscaling": None}
    document, aws = (
        yaml.safe_load((ROOT / "deploy" / name).read_text()) for name in ("own-machines-serve.yaml", "serve.yaml")
    )
    document["applications"][0]["args"].pop("changes")
    assert document == aws


def test_every_machine_has_a_role_and_all_replicas_fit(cluster: dict[str, Any], tmp_path: Path) -> None:
    config = load_profile(PROFILE)
    types, machines = held(cluster, tmp_path)
    assert pinned(config, types) == PINS
    needed = packed(config, types)
    assert {kind: len(held) for kind, held in needed.items()} == machines
    assert needed["front"] == [{"gateway": 1, "coordinator": 1}] * 2


def test_a_machine_without_a_role_says_so_and_does_not_start(cluster: dict[str, Any], tmp_path: Path) -> None:
    run = started(cluster["worker_start_ray_commands"][-1], "10.0.0.1", tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert "No role is given to 10.0.0.1" in run.stderr


def test_the_head_holds_no_role_and_keeps_its_dashboard_to_itself(cluster: dict[str, Any], tmp_path: Path) -> None:
    run = started(cluster["head_start_ray_commands"][-1], cluster["provider"]["head_ip"], tmp_path)
    environment, words = json.loads(run.stdout)
    assert {"--head", "--dashboard-host=127.0.0.1", "--num-cpus=0", "--num-gpus=0"} <= set(words)
    assert any(word.startswith("--autoscaling-config=") for word in words)
    assert ON_EVERY_NODE.items() | {"RAY_AUTH_MODE": "token"}.items() <= environment.items()


def test_what_is_copied_and_installed_is_as_on_aws(cluster: dict[str, Any]) -> None:
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert cluster["file_mounts"].pop("~/serve.yaml") == "deploy/own-machines-serve.yaml"
    assert aws["file_mounts"].pop("~/serve.yaml") == "deploy/serve.yaml"
    for part in ("file_mounts", "setup_commands", "cluster_name"):
        assert cluster[part] == aws[part], part


def test_the_python_that_is_installed_has_headers(cluster: dict[str, Any], tmp_path: Path) -> None:
    """Triton compiles with them; those of a system are in a package of their own."""
    [make] = [command for command in cluster["setup_commands"] if "uv venv" in command]
    uv = tmp_path / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text('#!/bin/sh\necho "$*"\n')
    uv.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(["bash", "-c", make], env=environment, capture_output=True, text=True, timeout=30)
    assert run.stdout == f"venv --seed --managed-python --python 3.11 {tmp_path}/lookahead\n"


@pytest.mark.parametrize("status", [0, 1])
def test_set_up_gets_compiled_kernels_also_without_a_gpu_and_goes_on_where_it_cannot(
    cluster: dict[str, Any], tmp_path: Path, status: int
) -> None:
    [position] = [n for n, command in enumerate(cluster["setup_commands"]) if "download-kernels" in command]
    assert any("lookahead-serve[gpu]" in command for command in cluster["setup_commands"][:position])
    vllm = tmp_path / "lookahead" / "bin" / "vllm"
    vllm.parent.mkdir(parents=True)
    vllm.write_text(f'#!/bin/sh\necho "$VLLM_TARGET_DEVICE $*"\nexit {status}\n')
    vllm.chmod(0o755)
    run = subprocess.run(
        ["bash", "-c", cluster["setup_commands"][position]],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (run.returncode, run.stdout) == (0, "cpu download-kernels\n")
    assert ("vLLM will sample with its own" in run.stderr) == bool(status)
