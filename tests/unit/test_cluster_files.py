"""The files that launch a cluster of GPUs: each valid by Ray's own word, all three in agreement, and the page on
operations true to the code where that can be looked up.

Nothing is started: Ray's schemas, the profile, and arithmetic over the nodes that cluster.yaml describes.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from actors.errors import ConfigError
from actors.messages import SpeculationStats
from deployments.app import build, compose
from deployments.build_args import BuildArgs
from deployments.config import Config, load_profile, profile_text
from deployments.gateway.front_queue import FrontQueue
from deployments.gateway_config import GatewayConfig
from deployments.server.launch import ON_EVERY_NODE
from deployments.speculation_config import SpeculationConfig
from deployments.telemetry.metrics import Metrics, token_metrics
from tests.unit.launch_files import PINS, PROFILE, ROOT, fake_pip, names, packed, pinned


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


def types(cluster: dict[str, Any]) -> dict[str, Counter[str]]:
    """The resources of a node of each type."""
    return {name: Counter(node["resources"]) for name, node in cluster["available_node_types"].items()}


def test_cluster_is_valid_by_rays_schema(cluster: dict[str, Any]) -> None:
    validate_config(cluster)
    cluster["available_node_types"]["draft"]["gpus"] = 1
    with pytest.raises(ValidationError):
        validate_config(cluster)


def test_every_role_is_pinned_to_its_node_type(cluster: dict[str, Any], config: Config) -> None:
    assert pinned(config, types(cluster)) == PINS


def test_replicas_fit_together_on_the_nodes_that_may_be_started(cluster: dict[str, Any], config: Config) -> None:
    nodes = packed(config, types(cluster))
    assert nodes.pop(cluster["head_node_type"]) == []
    for node_type, used in nodes.items():
        assert 0 < len(used) <= cluster["available_node_types"][node_type]["max_workers"], node_type
    assert sum(node["max_workers"] for node in cluster["available_node_types"].values()) <= cluster["max_workers"]


def test_gateways_and_coordinators_are_on_two_nodes_without_gpus(cluster: dict[str, Any], config: Config) -> None:
    """Neither a GPU node that goes nor one lost node takes all of them."""
    assert packed(config, types(cluster))["front"] == [{"gateway": 1, "coordinator": 1}] * 2
    assert cluster["available_node_types"]["front"]["min_workers"] == 2


def test_only_draft_and_target_nodes_have_gpus(cluster: dict[str, Any], config: Config) -> None:
    gpus = {name: resources["GPU"] for name, resources in types(cluster).items()}
    assert gpus == {"head": 0, "front": 0, "draft": 1, "target": 8, "verifier": 0}
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
    with pytest.raises(ConfigError, match=r"target\.placement cannot be used: .* first bundle"):
        compose(wrong)


def test_profile_is_a_reasoning_deployment(config: Config) -> None:
    assert (config.reasoning.open, config.reasoning.close) == ("<think>", "</think>")
    assert config.speculation.scope == "think"
    kinds = {name: [check.kind for check in checks] for name, checks in config.verifier.verifiers.items()}
    fidelities = config.speculation.fidelities
    assert config.speculation.fidelity == "exact", "what a judge finds equal is kept only where somebody asked for it"
    assert set(fidelities) == {"exact", "strict", "balanced", "fast"}
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


def test_of_two_ways_to_say_the_configuration_none_is_left_out_silently() -> None:
    with pytest.raises(ValueError, match="not config and settings"):
        build({"config": "cluster.yaml", "settings": {"served_model_name": "x"}})


def test_a_file_that_was_edited_is_built_anew_where_its_revision_is_another_one(tmp_path: Path) -> None:
    """Serve compares arguments, and not the file that they name."""
    file = tmp_path / "config.yaml"
    file.write_text(profile_text("scripted"))
    first, second = ({"config": str(file), "revision": revision} for revision in ("1", "2"))

    def version(args: dict[str, str]) -> str:
        return get_app_code_version(ServeApplicationSchema(import_path="deployments.app:build", args=args))

    assert BuildArgs(**first).resolve() == BuildArgs(**second).resolve() == load_profile("scripted")
    assert version(first) == version(dict(first)) != version(second)


def test_changes_are_laid_over_what_is_named() -> None:
    changes = {"speculation": {"max_lookahead": 2}, "target": {"placement": {"grace_s": 60}}, "autoscaling": None}
    named, changed = load_profile(PROFILE), BuildArgs(profile=PROFILE, changes=changes).resolve()
    assert (changed.speculation.max_lookahead, changed.target.placement.grace_s) == (2, 60.0)
    assert changed.target.placement.resources == named.target.placement.resources
    assert named.autoscaling is not None
    assert changed.autoscaling is None
    with pytest.raises(ConfigError, match=r"changes cannot be used: speculation\.max_lookahed is not a setting"):
        BuildArgs(profile=PROFILE, changes={"speculation": {"max_lookahed": 2}}).resolve()


def test_every_start_command_sets_what_ray_is_started_with(cluster: dict[str, Any]) -> None:
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in cluster[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    for command in starts:
        before = command.split("ray start")[0].replace(";", " ").split()
        for name, value in ON_EVERY_NODE.items() | {"RAY_AUTH_MODE": "token"}.items():
            assert f"{name}={value}" in before
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


def test_make_gets_compiled_kernels_for_gpus_also_without_a_gpu_and_goes_on_where_it_cannot() -> None:
    """As the image and the nodes do."""
    recipe = (ROOT / "Makefile").read_text().partition("$(READY):")[2].partition("\n\n")[0].replace("\\\n", "")
    install, *after = [line for line in recipe.splitlines() if "$(HARDWARE),dev" in line or "download-kernels" in line]
    assert "pip install" in install
    [fetch] = [" ".join(line.split()) for line in after]
    assert fetch.startswith(
        'if [ "$(HARDWARE)" = gpu ]; then VLLM_TARGET_DEVICE=cpu $(BIN)/vllm download-kernels || echo'
    )


def lay_out(folder: Path, python: str | None) -> None:
    """What `make` needs of the repository in `folder`, and a `.venv` with the script `python` in it, if it is given."""
    for name in ("Makefile", "pyproject.toml"):
        (folder / name).write_text((ROOT / name).read_text())
    if python is not None:
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        script(programs / "python", python)
        script(programs / "vllm", "#!/bin/sh\n")


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(["make", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("hardware", ["cpu", "gpu"])
@pytest.mark.parametrize("found", ["at hand", "on the index", "nowhere"])
def test_make_asks_pytorchs_index_only_where_pip_finds_its_build_for_cpus_nowhere_else(
    tmp_path: Path, hardware: str, found: str
) -> None:
    """As the image does."""
    lay_out(tmp_path, fake_pip("torch==2.13.0+cpu", found))
    run = make(tmp_path, "setup", f"HARDWARE={hardware}", f"PYTHON={sys.executable}", "TORCH_INDEX=https://an.index")
    lines = run.stdout.splitlines()
    assert (run.returncode == 0) == (hardware == "gpu" or found != "nowhere")
    assert ("-m pip install --quiet torch==2.13.0+cpu" in lines) == (hardware == "cpu")
    said = "pip does not find torch==2.13.0+cpu: trying https://an.index as well."
    assert (said in lines) == (hardware == "cpu" and found != "at hand")
    other = "-m pip install --quiet --extra-index-url https://an.index torch==2.13.0+cpu"
    assert (other in lines) == (said in lines)
    assert (f"-m pip install --quiet --editable .[{hardware},dev,judges]" in lines) == (run.returncode == 0)


@pytest.mark.parametrize("target", ["setup", "check"])
def test_make_goes_on_with_the_build_that_is_there(tmp_path: Path, target: str) -> None:
    lay_out(tmp_path, fake_pip("torch==2.13.0+cpu", "at hand"))
    marker = tmp_path / ".venv" / ".ready-gpu"
    marker.touch()
    os.utime(marker, (0, 0))  # before the last change of pyproject.toml
    lines = make(tmp_path, target).stdout.splitlines()
    assert "-m pip install --quiet --editable .[gpu,dev,judges]" in lines
    assert not any("torch" in line for line in lines if line.startswith("-m pip"))


@pytest.mark.parametrize("there", [("gpu",), ("cpu", "gpu")])
@pytest.mark.parametrize("target", ["setup", "check"])
def test_make_puts_no_second_build_into_one_place(tmp_path: Path, there: tuple[str, ...], target: str) -> None:
    lay_out(tmp_path, fake_pip("torch==2.13.0+cpu", "at hand"))
    for hardware in there:
        (tmp_path / ".venv" / f".ready-{hardware}").touch()
    run = make(tmp_path, "HARDWARE=cpu", target)
    assert run.returncode == 2
    [said] = run.stdout.splitlines()
    assert said.startswith(f"The builds of vLLM for cpu and gpu cannot share .venv, which has: {' '.join(there)}. ")


def python_of(version: tuple[int, int], *, has_pip: bool = True) -> str:
    """A program in the place of Python: of another `version`, and with no pip where it has none; any module runs."""
    pip = "" if has_pip else 'sys.modules["pip"] = None; '
    code = f"import sys; sys.version_info = {(*version, 0)}; {pip}exec(sys.argv[1])"
    return f"""#!/bin/sh\ncase "$1" in -c) exec {sys.executable} -c '{code}' "$2";; esac\n"""


MAKES_VENV = """
case "$*" in "-m venv --clear .venv") echo "made anew"; mkdir -p .venv/bin; cp good .venv/bin/python;; esac
"""


@pytest.mark.parametrize(
    ("python", "is_kept"),
    [
        (python_of((3, 11)), True),
        (python_of((3, 13)), True),
        (python_of((3, 10)), False),
        (python_of((3, 14)), False),
        (python_of((3, 12), has_pip=False), False),  # Debian's, without python3-venv
        (None, False),
    ],
)
def test_make_keeps_no_place_with_a_python_that_cannot_be_used(
    tmp_path: Path, python: str | None, is_kept: bool
) -> None:
    lay_out(tmp_path, python)
    script(tmp_path / "good", python_of((3, 12)))
    maker = script(tmp_path / "maker", python_of((3, 12)) + MAKES_VENV)
    run = make(tmp_path, "setup", "HARDWARE=gpu", f"PYTHON={maker}")
    assert run.returncode == 0, run.stderr
    assert ("made anew" in run.stdout) == (not is_kept)
    assert ((tmp_path / ".venv" / "bin" / "python").read_text() == python_of((3, 12))) == (not is_kept)
    assert ("it is made anew." in run.stdout) == (not is_kept and python is not None)


@pytest.mark.parametrize("version", [(3, 10), (3, 14), None])
def test_make_says_which_pythons_there_may_be(tmp_path: Path, version: tuple[int, int] | None) -> None:
    lay_out(tmp_path, None)
    python = tmp_path / "python" if version is None else script(tmp_path / "python", python_of(version) + MAKES_VENV)
    run = make(tmp_path, "setup", f"PYTHON={python}")
    assert run.returncode == 2
    assert run.stdout.splitlines() == ["Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11 ..."]
    assert not (tmp_path / ".venv").exists()


def test_operations_page_names_every_metric_and_no_other() -> None:
    rows = re.findall(r"^\| `(lookahead_\w+)(?:\{([\w,]+)\})?` \|", operations(), re.MULTILINE)
    documented = {name: set(labels.split(",")) - {""} for name, labels in rows}
    metrics = Metrics()
    made = {
        family.name + ("_total" if family.type == "counter" else ""): labels_of(metrics, family.name)
        for family in metrics.registry.collect()
    }
    starts = {"lookahead_replica_start_seconds": {"role", "phase"}}
    assert documented == made | token_metric_labels() | front_metric_labels() | starts


def labels_of(metrics: Metrics, name: str) -> set[str]:
    """The label names that the metric was made with; a family without samples does not show them."""
    [metric] = [m for m in vars(metrics).values() if getattr(m, "_name", None) == name]
    return set(metric._labelnames)


def token_metric_labels() -> dict[str, set[str]]:
    """Of what the engines count: the label names that a sample of each family has."""
    counted = SpeculationStats(
        num_drafts=1,
        num_draft_tokens=3,
        num_accepted_tokens=2,
        accepted_per_position=(1, 1),
        num_hint_tokens=2,
        num_hint_accepted_tokens=1,
        num_ngram_tokens=1,
        num_ngram_accepted_tokens=1,
    )
    samples = [
        sample
        for family in text_string_to_metric_families(token_metrics([("target", "a", counted)]))
        for sample in family.samples
        if sample.name.endswith("_total")
    ]
    return {sample.name: set(sample.labels) for sample in samples}


def front_metric_labels() -> dict[str, set[str]]:
    """Of what waits at a gateway."""
    text = FrontQueue(load_profile("scripted"), time.monotonic).metrics()
    return {sample.name: set(sample.labels) for f in text_string_to_metric_families(text) for sample in f.samples}


def test_operations_page_gives_the_timeouts_of_the_config() -> None:
    rows = re.findall(r"^\| `(gateway|speculation)\.(\w+)` \| (\d+)(?: s)? \|", operations(), re.MULTILINE)
    assert len(rows) == 6
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
