"""The files for Kubernetes: the manifest keeps KubeRay's schema and rules, its pods hold the roles of the profile, and
the image has what its pods and our commands need.

Nothing is built or started here: schemas, the profile, and what the files say of each other.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _HEAD_GROUP_NAME,
    _derive_autoscaling_config_from_ray_cr,
)
from ray.serve.schema import ServeDeploySchema

from deployments.build_args import BuildArgs
from deployments.config import Config, load_profile
from deployments.server.launch import ON_EVERY_NODE
from tests.unit.launch_files import PINS, PROFILE, ROOT, fake_pip, packed, pinned, placements

FOLDER = ROOT / "deploy" / "kubernetes"
GPU = "nvidia.com/gpu"


def load(name: str) -> dict[str, Any]:
    """The one document of a file in deploy/kubernetes."""
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return document


@pytest.fixture
def service() -> dict[str, Any]:
    """rayservice.yaml."""
    return load("rayservice.yaml")


@pytest.fixture
def config() -> Config:
    return load_profile(PROFILE)


@pytest.fixture
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def groups(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All groups of pods by name, the head's among them."""
    cluster = service["spec"]["rayClusterConfig"]
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def container(group: dict[str, Any]) -> dict[str, Any]:
    """The container that Ray runs in."""
    [only] = group["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def nodes(service: dict[str, Any]) -> dict[str, Counter[str]]:
    """What Ray's own autoscaler expects a pod of each group to have, as it reads it from KubeRay's objects."""
    cluster = {
        "metadata": {"name": "lookahead-1", "namespace": "lookahead"},
        "spec": service["spec"]["rayClusterConfig"],
    }
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return {name.replace(_HEAD_GROUP_NAME, "head"): Counter(node["resources"]) for name, node in types.items()}


def validate(document: dict[str, Any]) -> None:
    """Raises ValidationError unless `document` keeps the schema of its kind."""
    schema = yaml.safe_load((ROOT / "tests" / "unit" / f"{document['kind'].lower()}.schema.yaml").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize("name", ["rayservice.yaml", "networkpolicy.yaml"])
def test_the_manifests_are_valid_by_their_schemas(name: str) -> None:
    validate(load(name))


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (["spec", "upgradeStrategy", "clusterUpgradeOptions", "gatewayClassName"], ""),
        (["spec", "upgradeStrategy", "clusterUpgradeOptions", "maxSurge"], 50),
        (["spec", "rayClusterConfig", "enableInTreeAutoscaling"], False),
        (["spec", "rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"], 0),
        (["spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "ports"], [8000]),
        (["spec", "rayClusterConfig", "workerGroupSpecs", 0, "minReplicas"], "0"),
    ],
)
def test_the_schema_refuses_what_kuberay_refuses(service: dict[str, Any], path: list[Any], wrong: Any) -> None:
    changed = copy.deepcopy(service)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    with pytest.raises(ValidationError):
        validate(changed)


def test_upgrades_are_incremental_and_the_old_cluster_outlives_its_replicas(
    service: dict[str, Any], config: Config
) -> None:
    spec = service["spec"]
    assert spec["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    options = spec["upgradeStrategy"]["clusterUpgradeOptions"]
    assert options["stepSizePercent"] <= options["maxSurgePercent"]
    assert spec["rayClusterDeletionDelaySeconds"] >= max(each.grace_s for each in placements(config).values())
    # A new cluster grows with its share of the requests only where no pod is there unasked.
    assert {group["minReplicas"] for group in spec["rayClusterConfig"]["workerGroupSpecs"]} == {0}


def test_the_application_is_that_of_serve_deploy(service: dict[str, Any], config: Config) -> None:
    mine = yaml.safe_load(service["spec"]["serveConfigV2"])
    other = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    ServeDeploySchema.model_validate(mine)
    assert mine == other | {"proxy_location": "EveryNode"}
    [application] = mine["applications"]
    assert BuildArgs(**application["args"]).resolve() == config


def test_every_role_is_pinned_to_its_pods_and_all_replicas_fit(service: dict[str, Any], config: Config) -> None:
    assert pinned(config, nodes(service)) == PINS
    pods = packed(config, nodes(service))
    assert pods.pop("head") == []
    assert nodes(service)["head"]["CPU"] == 0
    assert pods["front"] == [{"gateway": 1, "coordinator": 1}] * 2
    for name, held in pods.items():
        assert 0 < len(held) <= groups(service)[name]["maxReplicas"], name


def test_ray_start_reads_the_same_custom_resources(service: dict[str, Any]) -> None:
    """KubeRay puts the parameter into a command line as it stands, and the shell takes off a pair of quotes."""
    for name, group in groups(service).items():
        if name != "head":
            [handed_on] = shlex.split(group["rayStartParams"]["resources"])
            assert json.loads(handed_on).items() <= nodes(service)[name].items()


def test_pods_without_gpus_keep_off_gpu_nodes_and_the_front_is_on_two(service: dict[str, Any]) -> None:
    gpus = {name: container(group)["resources"]["limits"].get(GPU, "0") for name, group in groups(service).items()}
    assert gpus == {"head": "0", "front": "0", "draft": "1", "target": "8", "verifier": "0"}
    for name, group in groups(service).items():
        pod = group["template"]["spec"]
        if gpus[name] == "0":
            [term] = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
                "nodeSelectorTerms"
            ]
            assert term["matchExpressions"] == [{"key": f"{GPU}.present", "operator": "NotIn", "values": ["true"]}]
            assert "tolerations" not in pod
        else:
            assert pod["tolerations"] == [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    [spread] = groups(service)["front"]["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")
    assert (spread["minDomains"], spread["maxSkew"]) == (2, 1)
    assert spread["labelSelector"]["matchLabels"].items() <= labels(groups(service)["front"]).items()


def labels(group: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = group["template"]["metadata"]["labels"]
    return found


def test_rays_ports_are_for_the_cluster_and_its_operator(service: dict[str, Any]) -> None:
    assert service["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    head = groups(service)["head"]
    assert head["serviceType"] == "ClusterIP"
    policy = load("networkpolicy.yaml")["spec"]
    own = policy["podSelector"]["matchLabels"]
    for group in groups(service).values():
        assert own.items() <= labels(group).items()
        assert container(group)["securityContext"]["allowPrivilegeEscalation"] is False
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    among, operator, clients = policy["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": own}}]}
    assert [port["port"] for port in operator["ports"]] == [8265, 8000]
    assert [port["port"] for port in clients["ports"]] == [8000]
    assert {"name": "dashboard", "containerPort": 8265} in container(head)["ports"]


def test_the_values_reach_the_files_they_are_for(service: dict[str, Any]) -> None:
    values = load("kustomization.yaml")
    assert (values["apiVersion"], values["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")
    assert set(values) == {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
    assert sorted(values["resources"]) == ["networkpolicy.yaml", "rayservice.yaml"]
    [image] = values["images"]
    for group in groups(service).values():
        assert container(group)["image"] == f"{image['name']}:{image['newTag']}"
    [patch] = values["patches"]
    assert patch["target"] == {"kind": service["kind"], "name": service["metadata"]["name"]}
    changed = copy.deepcopy(service)
    for change in yaml.safe_load(patch["patch"]):
        assert change["op"] == "replace"
        *steps, last = change["path"].strip("/").split("/")
        place: Any = changed
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place[step]
        assert last in place, change["path"]
        place[last] = change["value"]
    assert changed == service  # as shipped, the values are those of the manifest
    order = [group["groupName"] for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]]
    assert f"of {', '.join(order[:-1])} and {order[-1]}." in patch["patch"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, lines that go on joined."""
    text = (ROOT / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in found]


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for name, rest in instructions() if name == "ENV" for word in shlex.split(rest))


def test_the_dockerfile_is_two_stages_of_known_instructions() -> None:
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ARG", "ENV", "USER", "EXPOSE", "CMD"}
    assert {name for name, _ in instructions()} == known
    stages = [rest for name, rest in instructions() if name == "FROM"]
    assert stages == ["python:3.11-slim-bookworm AS wheel", "python:3.11-slim-bookworm"]
    [command] = [json.loads(rest) for name, rest in instructions() if name == "CMD"]
    assert command[0] == "lookahead"
    for name, rest in instructions():
        if name == "RUN":
            assert subprocess.run(["sh", "-n"], input=rest, text=True, timeout=30).returncode == 0, rest


def test_the_image_is_of_this_version_and_holds_its_wheel(service: dict[str, Any], project: dict[str, Any]) -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert f"--tag {container(groups(service)['head'])['image']} ." in text
    assert container(groups(service)["head"])["image"] == f"{project['name']}:{project['version']}"
    kept = set((ROOT / ".dockerignore").read_text().split())
    copied = {
        word for name, rest in instructions() if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    }
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "actors", "deployments"}
    assert {f"!{name}" for name in copied} <= kept
    assert all((ROOT / name).exists() for name in copied)
    assert any(name == "RUN" and f'"{project["name"]}[$HARDWARE]' in rest for name, rest in instructions())
    assert ("ARG", "HARDWARE=gpu") in instructions()
    assert {"gpu", "cpu"} <= project["optional-dependencies"].keys()
    [torch] = [need for need in project["optional-dependencies"]["cpu"] if need.startswith("torch==")]
    assert ("ARG", f"TORCH={torch}+cpu") in instructions()


@pytest.mark.parametrize("hardware", ["cpu", "gpu"])
@pytest.mark.parametrize("found", ["at hand", "on the index", "nowhere"])
def test_the_image_for_cpus_asks_pytorchs_index_only_where_pip_finds_its_build_nowhere_else(
    tmp_path: Path, hardware: str, found: str
) -> None:
    [install] = [rest for name, rest in instructions() if name == "RUN" and "[$HARDWARE]" in rest]
    given = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    (tmp_path / "ls").write_text("#!/bin/sh\necho /dist/lookahead_serve-0.whl\n")
    (tmp_path / "pip").write_text(fake_pip(given["TORCH"], found))
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    environment = {**given, "HARDWARE": hardware, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    run = subprocess.run(["sh", "-c", install], env=environment, capture_output=True, text=True, timeout=30)
    plain, other = f"install --no-cache-dir {given['TORCH']}", f"trying {given['TORCH_INDEX']} as well."
    assert (run.returncode == 0) == (hardware == "gpu" or found != "nowhere")
    assert (plain in run.stdout.splitlines()) == (hardware == "cpu")
    assert (other in run.stdout) == (hardware == "cpu" and found != "at hand")
    assert (f"lookahead-serve[{hardware}] @ file:///dist/lookahead_serve-0.whl" in run.stdout) == (run.returncode == 0)


def test_the_image_has_what_kuberay_and_serve_ask_for(service: dict[str, Any], project: dict[str, Any]) -> None:
    assert ON_EVERY_NODE.items() <= environment().items()
    assert environment()["RAY_AUTH_MODE"] == "token"
    assert f"ray[serve]=={service['spec']['rayClusterConfig']['rayVersion']}" in project["dependencies"]
    packages = next(rest for name, rest in instructions() if name == "RUN" and "apt-get" in rest).split()
    assert {"wget", "gcc", "libnuma1"} <= set(packages)  # KubeRay's probes, Triton, vLLM for CPUs
    # A login shell keeps none of the image's PATH: nothing may be installed beside /usr/local.
    assert "PATH" not in environment()
    assert not any("venv" in rest for _, rest in instructions())


@pytest.mark.parametrize(("hardware", "fetched"), [("gpu", "cpu download-kernels\n"), ("cpu", "")])
def test_the_image_for_gpus_has_compiled_kernels_without_a_gpu_or_a_toolkit(
    tmp_path: Path, hardware: str, fetched: str
) -> None:
    steps = [rest for name, rest in instructions() if name == "RUN"]
    [position] = [n for n, step in enumerate(steps) if "download-kernels" in step]
    assert any("[$HARDWARE]" in step for step in steps[:position])
    vllm = tmp_path / "vllm"
    vllm.write_text('#!/bin/sh\necho "$VLLM_TARGET_DEVICE $*"\n')
    vllm.chmod(0o755)
    environment = {"HARDWARE": hardware, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    run = subprocess.run(["sh", "-c", steps[position]], env=environment, capture_output=True, text=True, timeout=30)
    assert (run.returncode, run.stdout) == (0, fetched)


def test_pods_that_load_weights_have_the_folder_of_the_image(service: dict[str, Any]) -> None:
    folders = {environment()[name].rsplit("/", 1)[0] for name in ("HF_HOME", "LOOKAHEAD_CACHE")}
    for name in ("draft", "target", "verifier"):
        group = groups(service)[name]
        [mount] = container(group)["volumeMounts"]
        assert {mount["mountPath"]} == folders
        assert [volume["name"] for volume in group["template"]["spec"]["volumes"]] == [mount["name"]]
    users = {group["template"]["spec"]["securityContext"]["runAsUser"] for group in groups(service).values()}
    assert [("USER", str(user)) for user in users] == [word for word in instructions() if word[0] == "USER"]
