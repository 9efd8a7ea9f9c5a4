"""The sections of a scenario: one for each part of a cluster, for its text, its users and what breaks.

Promises: an unknown key, a wrong type or an impossible combination is an error that names the key; what engines cost is
measured (a file of `lookahead calibrate --engine`), given, or estimated from a chip and a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from actors.errors import ConfigError
from deployments.autoscaling_config import AutoscalingConfig
from deployments.gateway_config import AdmissionConfig
from deployments.simulation.cost_file import Beside, read_costs
from deployments.simulation.costs import EngineCost, linear_cost
from deployments.simulation.hardware import GPUS, MODELS, estimated_cost, scaled
from deployments.speculation_config import Mode as ServerMode

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Mode = Literal[ServerMode, "target_all_gpus", "controlled", "guided", "guided_controlled"]
"""The server's, and more. ``target_all_gpus``: the target alone, with as many replicas as fit on the draft's GPUs too:
equal hardware.
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

    def cost(self, role: str, beside: Beside | None = None) -> EngineCost:
        """What an engine of this role costs, a measured one `beside` the other; ConfigError where it cannot be."""
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
            costs = read_costs(Path(self.costs)).cost(role, self.proposed_tokens, beside)
            return scaled(costs, self.tokens_per_pass)
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
    may rise from `rate_from` over the first `ramp_s` seconds; or at `rates`, which change."""

    users: PositiveInt | None = None
    rate: PositiveFloat | None = None
    rates: tuple[tuple[NonNegativeFloat, NonNegativeFloat], ...] | None = None
    """``[at_s, rate]``, by rising time; on the line between two."""
    rate_from: NonNegativeFloat | None = None
    ramp_s: NonNegativeFloat = 0.0
    max_in_flight: PositiveInt | None = None
    """Requests beyond that are refused; section `admission` does as the server does instead."""

    @model_validator(mode="after")
    def _one_process(self) -> ArrivalScenario:
        if sum(given is not None for given in (self.users, self.rate, self.rates)) != 1:
            raise ValueError("give users or rate or rates, one of the three")
        if self.rates is not None:
            times = [at for at, _ in self.rates]
            if not times or times != sorted(set(times)) or not any(rate for _, rate in self.rates):
                raise ValueError("rates must rise in time, and one must be above 0")
        return self


class AdmissionScenario(AdmissionConfig):
    """The gateway's admission, with its own settings, and what it would find out of a deployment."""

    first_concurrent: PositiveInt = 64
    least_concurrent: PositiveInt = 8
    most_concurrent: PositiveInt = 1000
    """Without `max_concurrent`: how many generations run at first, at least and at most."""
    timeout_s: PositiveFloat = 3600.0
    """Every request's time limit."""
    keys: PositiveInt = 8
    """Whose requests they are, in turn: one key alone may have half of what waits."""


class AutoscalingScenario(AutoscalingConfig):
    """Roles that grow and shrink, with the server's own settings, from the `replicas` of each role on."""

    start_s: NonNegativeFloat = 90.0
    """Until a replica that is wanted serves: its node, its process and its weights."""

    def rules(self) -> dict[str, Any]:
        """As `AutoscalingConfig.rules`."""
        return {name: value for name, value in super().rules().items() if name != "start_s"}

    @model_validator(mode="after")
    def _of_what_there_is(self) -> AutoscalingScenario:
        if self.coordinator is not None or self.gateway is not None:
            raise ValueError("coordinators and gateways do not scale here; target, draft and verifier do")
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
