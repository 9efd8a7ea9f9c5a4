"""A scenario: a cluster, its models, its users and what breaks, from YAML.

Promises: an unknown key, a wrong type or an impossible combination is a `ConfigError` that names the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from actors.errors import ConfigError
from deployments.coordinator.strategies import STRATEGIES
from deployments.simulation.scenario_sections import (
    AdmissionScenario,
    ArrivalScenario,
    AutoscalingScenario,
    CoordinatorScenario,
    FailureScenario,
    RoleScenario,
    SpeculationScenario,
    Strict,
    TextScenario,
    VerifierScenario,
)
from deployments.simulation.workload import HintGain
from deployments.yaml_text import read_yaml


class Scenario(Strict):
    """A cluster for so long."""

    name: str
    target: RoleScenario
    draft: RoleScenario
    verifier: VerifierScenario = VerifierScenario()
    coordinator: CoordinatorScenario = CoordinatorScenario()
    speculation: SpeculationScenario = SpeculationScenario()
    text: TextScenario = TextScenario()
    arrivals: ArrivalScenario = ArrivalScenario(users=8)
    admission: AdmissionScenario | None = None
    """None: whoever asks begins."""
    autoscaling: AutoscalingScenario | None = None
    failures: tuple[FailureScenario, ...] = ()
    network_s: NonNegativeFloat = 0.0
    """One way between the coordinator and an engine."""
    gpus_per_node: PositiveInt = 8
    """Replicas fill the nodes one after another: targets, then drafts; the verifiers are on no GPU."""
    duration_s: PositiveFloat = 600.0
    latency_goal_s: PositiveFloat | None = None
    """Requests that take longer do not count as goodput."""

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        if self.target.replicas < 1:
            raise ValueError("target.replicas must be 1 or more")
        for failure in self.failures:
            counts = {role: getattr(self, role).replicas for role in ("target", "draft", "verifier")}
            if failure.role and failure.replica is not None and failure.replica >= counts[failure.role]:
                raise ValueError(f"failures: there is no {failure.role} replica {failure.replica}")
            if failure.node is not None and failure.node >= self.num_nodes:
                raise ValueError(f"failures: there is no node {failure.node}; there are {self.num_nodes}")
        if self.admission is not None and self.arrivals.max_in_flight is not None:
            raise ValueError("give admission or arrivals.max_in_flight, one of the two")
        if self.autoscaling is not None and self.failures:
            raise ValueError("failures name replicas that autoscaling would take away; give one of the two")
        alone = set(self.speculation.modes) <= {"target", "target_all_gpus"}
        if self.autoscaling is not None and "target_all_gpus" in self.speculation.modes:
            raise ValueError("mode target_all_gpus gives away the draft's GPUs, and autoscaling would ask for more")
        may_draft = self.draft.replicas > 0 or (self.autoscaling is not None and self.autoscaling.draft is not None)
        if not may_draft and not alone:
            raise ValueError("speculation.modes need a draft, and draft.replicas is 0")
        scoring = [mode for mode in self.speculation.modes if mode in STRATEGIES and STRATEGIES[mode].scores_alone]
        if scoring and not self.has_verifier:
            raise ValueError(f"mode {scoring[0]} needs a verifier")
        return self

    @property
    def has_verifier(self) -> bool:
        """Whether there is one, or may be one."""
        may_grow = self.autoscaling is not None and self.autoscaling.verifier is not None
        return self.verifier.replicas > 0 or may_grow

    @property
    def num_gpus(self) -> int:
        """All GPUs."""
        return sum(role.replicas * role.gpus for role in (self.target, self.draft))

    @property
    def all_gpus(self) -> Scenario:
        """The same with all GPUs for the target. What befalls a draft's GPUs befalls the targets that have them."""
        replicas = self.num_gpus // self.target.gpus
        target, draft = (
            self.target.model_copy(update={"replicas": replicas}),
            self.draft.model_copy(update={"replicas": 0}),
        )
        failures = [
            one
            for failure in self.failures
            for one in (self._on_targets(failure, replicas) if failure.role == "draft" else (failure,))
        ]
        return self.model_copy(update={"target": target, "draft": draft, "failures": tuple(failures)})

    def _on_targets(self, failure: FailureScenario, num_targets: int) -> list[FailureScenario]:
        """A draft's `failure` where its GPUs are those of the last of `num_targets` targets; a rest of them idles."""
        drafts = range(self.draft.replicas) if failure.replica is None else (failure.replica,)
        first = self.target.replicas * self.target.gpus
        gpus = (first + draft * self.draft.gpus + gpu for draft in drafts for gpu in range(self.draft.gpus))
        struck = {gpu // self.target.gpus for gpu in gpus}.intersection(range(num_targets))
        return [failure.model_copy(update={"role": "target", "replica": target}) for target in sorted(struck)]

    @property
    def num_nodes(self) -> int:
        """Nodes that they fill."""
        return -(-self.num_gpus // self.gpus_per_node)

    @property
    def hint_gain(self) -> HintGain:
        """As the engines take it."""
        gain = self.speculation.hint_gain
        return HintGain(gain, 1.0 + (gain - 1.0) / 2.0, 1.0 + (gain - 1.0) / 2.0) if gain > 1.0 else HintGain()


def scenario_names() -> list[str]:
    """The scenarios that come with the package."""
    folder = resources.files("deployments.simulation") / "scenarios"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_scenario(name: str, changes: Sequence[str] = ()) -> Scenario:
    """A shipped scenario by its name, or a file by its path, with `changes` like ``coordinator.replicas=2``."""
    if name in scenario_names():
        folder = resources.files("deployments.simulation") / "scenarios"
        return parse_scenario((folder / f"{name}.yaml").read_text(encoding="utf-8"), f"scenario {name}", changes)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        shipped = ", ".join(scenario_names())
        words = f"{name} is neither a scenario that is shipped ({shipped}) nor a file."
        raise ConfigError(words, "scenario") from error
    return parse_scenario(text, name, changes)


def parse_scenario(text: str, source: str, changes: Sequence[str] = ()) -> Scenario:
    """A scenario from YAML, with `changes`; ConfigError lists every wrong key."""
    data = read_yaml(text, source)
    if not isinstance(data, dict):
        raise ConfigError(f"{source} must hold a mapping of settings, not {type(data).__name__}.")
    for change in changes:
        _change(data, change)
    return checked(Scenario, data, source)


def _change(data: dict[str, Any], change: str) -> None:
    """Sets what ``section.key=value`` says, its value in YAML."""
    path, found, value = change.partition("=")
    *sections, key = path.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {change}: {section!r} is no section.", "set")
    if not found or not key:
        raise ConfigError(f"--set takes KEY=VALUE, such as coordinator.replicas=2, not {change!r}.", "set")
    try:
        data[key] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change}: the value is not valid YAML: {error}", "set") from error


Checked = TypeVar("Checked", bound=BaseModel)


def checked(model: type[Checked], data: dict[str, Any], source: str) -> Checked:
    """`data` as `model`; ConfigError lists every wrong key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'the scenario'}: "
            + ("is not a setting that exists (a typo?)" if problem["type"] == "extra_forbidden" else problem["msg"])
            for problem in error.errors()
        )
        raise ConfigError(f"{source} cannot be used: {problems}.") from error
