"""A scenario: a cluster, its models, its users and what breaks, from YAML.

Promises: an unknown key, a wrong type or an impossible combination is a `ConfigError` that names the key; what engines
cost is measured (a file of `lookahead calibrate --engine`), given, or estimated from a chip and a model, and the
scenario knows which.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from actors.errors import ConfigError
from deployments.simulation.cost_file import read_costs
from deployments.simulation.costs import EngineCost, linear_cost
from deployments.simulation.hardware import GPUS, MODELS, estimated_cost, scaled
from deployments.simulation.workload import HintGain

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Mode = Literal[
    "target",
    "target_all_gpus",
    "lookahead",
    "controlled",
    "guided",
    "guided_controlled",
    "lookahead_sync",
    "specreason",
]
"""``target_all_gpus``: the target alone, with as many replicas as fit on the draft's GPUs too: equal hardware.
``guided``: the target's stream with the draft's words as its hints, as at fidelity ``exact``. ``controlled`` and
``guided_controlled``: the server's controller chooses: a depth up to `max_lookahead`, or whether the draft guides."""


class Strict(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RoleScenario(Strict):
    """Draft or target. What an engine costs comes from `model` and `gpu` (estimated), or from `costs` (a measured
    file), or from `token_s` (given)."""

    replicas: Annotated[int, Field(ge=0)] = 1
    gpus: PositiveInt = 1
    """GPUs of a replica, in tensor parallel."""
    model: str | None = None
    gpu: str | None = None
    costs: str | None = None
    token_s: PositiveFloat | None = None
    """Seconds of a pass with one sequence."""
    sequence_share: NonNegativeFloat = 0.0
    """With `token_s`: how much longer a pass takes for each further sequence, as a part of `token_s`."""
    tokens_per_pass: Annotated[float, Field(ge=1.0)] = 1.0
    """What token-level speculation inside the engine gives."""
    proposed_tokens: Annotated[int, Field(ge=0)] = 0
    """What it proposes: more tokens in a pass."""
    max_context: PositiveInt = 8192
    """With `model` and `gpu`: how long sequences get, which bounds how many fit."""

    @model_validator(mode="after")
    def _one_source(self) -> RoleScenario:
        sources = [self.model is not None and self.gpu is not None, self.costs is not None, self.token_s is not None]
        if sum(sources) != 1:
            raise ValueError("give one of: model and gpu, costs, token_s")
        if self.model is not None and self.model not in MODELS:
            raise ValueError(f"there is no model {self.model!r}; there are: {', '.join(MODELS)}")
        if self.gpu is not None and self.gpu not in GPUS:
            raise ValueError(f"there is no gpu {self.gpu!r}; there are: {', '.join(GPUS)}")
        return self

    @property
    def is_estimated(self) -> bool:
        """Whether nobody measured it."""
        return self.model is not None

    def cost(self, role: str) -> EngineCost:
        """What an engine of this role costs; ConfigError where it cannot be."""
        if self.model is not None and self.gpu is not None:
            try:
                return estimated_cost(
                    MODELS[self.model],
                    GPUS[self.gpu],
                    self.gpus,
                    context=self.max_context,
                    num_proposed=self.proposed_tokens,
                    tokens_per_pass=self.tokens_per_pass,
                )
            except ValueError as error:
                raise ConfigError(f"{role}: {error}.", f"{role}.gpus") from error
        if self.costs is not None:
            return scaled(read_costs(Path(self.costs)).cost(role, self.proposed_tokens), self.tokens_per_pass)
        return scaled(linear_cost(self.token_s or 1.0, self.sequence_share), self.tokens_per_pass)


class VerifierScenario(Strict):
    """The verifier. With 0 replicas nobody is asked: only equal steps are accepted."""

    replicas: Annotated[int, Field(ge=0)] = 1
    latency_s: PositiveFloat = 0.01
    at_once: PositiveInt = 64
    """Verdicts that a replica works on at once."""


class CoordinatorScenario(Strict):
    """The coordinators: each is a process on a core of its own, and requests are spread over them."""

    replicas: PositiveInt = 1
    message_s: NonNegativeFloat = 0.0
    """Seconds of that core for each result that a coordinator hears: a step of a draft or target, a verdict. 0: hearing
    costs nothing, and `replicas` changes nothing."""
    bytes_per_token: NonNegativeFloat = 11.0
    """What a token of a prefix takes in a call to an engine."""


class SpeculationScenario(Strict):
    """As the server's own settings."""

    modes: tuple[Mode, ...] = ("target", "lookahead")
    """Each of them runs the whole scenario."""
    max_lookahead: Annotated[int, Field(ge=1, le=64)] = 4
    max_target_steps: PositiveInt | None = None
    hint_gain: Annotated[float, Field(ge=1.0)] = 1.0
    """Tokens of a target's pass once an equal draft step is at hand as hint, over its own; of whole steps, so guided
    requests do not need it."""
    hint_tokens: Annotated[int, Field(ge=1, le=64)] = 8
    """Of guided requests: tokens of hints that an engine checks in a pass at most."""


class TextScenario(Strict):
    """What requests write: drawn from `alpha` and lengths, or `recorded` in a run of `lookahead bench --traces`."""

    alpha: Fraction = 0.6
    equal_share: Fraction = 0.25
    """Of the steps that agree, those that are equal token for token and need no verdict."""
    token_alpha: Fraction = 0.85
    """Of guided requests: the share of places at which the draft would write the target's very token."""
    mean_tokens: PositiveFloat = 50.0
    sigma: NonNegativeFloat = 0.5
    """Spread of lengths: that of their logarithm."""
    length_effect: NonNegativeFloat = 0.0
    num_steps: PositiveInt = 60
    prompt_tokens: PositiveInt = 200
    recorded: str | None = None
    seed: int = 0


class ArrivalScenario(Strict):
    """Who asks: so many `users`, each one request after another; or requests at random, `rate` of them a second, which
    may rise from `rate_from` over the first `ramp_s` seconds."""

    users: PositiveInt | None = None
    rate: PositiveFloat | None = None
    rate_from: NonNegativeFloat | None = None
    ramp_s: NonNegativeFloat = 0.0
    max_in_flight: PositiveInt | None = None
    """Requests beyond that are refused."""

    @model_validator(mode="after")
    def _one_process(self) -> ArrivalScenario:
        if (self.users is None) == (self.rate is None):
            raise ValueError("give users or rate, one of the two")
        return self


class FailureScenario(Strict):
    """What dies `at_s` and is back `back_s`: one replica of a role (none named: all), or all that is on a node."""

    role: Literal["target", "draft", "verifier"] | None = None
    replica: Annotated[int, Field(ge=0)] | None = None
    node: Annotated[int, Field(ge=0)] | None = None
    at_s: NonNegativeFloat
    back_s: PositiveFloat

    @model_validator(mode="after")
    def _one_thing(self) -> FailureScenario:
        if (self.role is None) == (self.node is None):
            raise ValueError("give role or node, one of the two")
        if self.back_s <= self.at_s:
            raise ValueError("back_s must be after at_s")
        return self


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
        if self.draft.replicas < 1 and not set(self.speculation.modes) <= {"target", "target_all_gpus"}:
            raise ValueError("speculation.modes need a draft, and draft.replicas is 0")
        if "specreason" in self.speculation.modes and not self.verifier.replicas:
            raise ValueError("mode specreason needs a verifier")
        return self

    @property
    def num_gpus(self) -> int:
        """All GPUs."""
        return sum(role.replicas * role.gpus for role in (self.target, self.draft))

    @property
    def all_gpus(self) -> Scenario:
        """The same with all GPUs for the target."""
        replicas = self.num_gpus // self.target.gpus
        target, draft = (
            self.target.model_copy(update={"replicas": replicas}),
            self.draft.model_copy(update={"replicas": 0}),
        )
        return self.model_copy(update={"target": target, "draft": draft, "failures": ()})

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
    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from error
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
