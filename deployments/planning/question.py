"""What a plan is asked: models, GPUs, traffic, and what is wished for. Pure.

Promises: a question that cannot be answered is a ConfigError that names the option; engines are estimated from a chip
and a model, or measured (a cost file), and the question knows which.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import ceil
from pathlib import Path

from actors.errors import ConfigError
from deployments.coordinator.theory import tokens_per_pass
from deployments.simulation.cost_file import CostFile, read_costs
from deployments.simulation.costs import EngineCost
from deployments.simulation.hardware import GPUS, MODELS, estimated_cost, is_split_by, max_requests, scaled

PROPOSED = (0, 3, 8)
"""Tokens that an estimated engine may propose to itself."""
LEAST_CONTEXT, CONTEXT_STEP = 8192, 1024
"""A profile's context has room for other requests than the planned ones, and is a round number."""


class Objective(StrEnum):
    """What is best."""

    LATENCY = "latency"
    """The fastest for one user, with all GPUs."""
    COST = "cost"
    """The cheapest token at which each user is fast enough."""


@dataclass(frozen=True, slots=True)
class Question:
    """`users` at once, or requests at a `rate` a second. `min_speed`: tokens a second that each user gets at least;
    `max_latency`: seconds that a request takes at most."""

    target: str
    draft: str
    gpu: str | None
    num_gpus: int
    users: float | None = None
    rate: float | None = None
    objective: Objective = Objective.LATENCY
    min_speed: float = 0.0
    max_latency: float | None = None
    alpha: float = 0.6
    token_alpha: float = 0.35
    """Acceptance of the target's own token-level speculation (n-gram look-up)."""
    step_tokens: float = 50.0
    output_tokens: int = 3000
    prompt_tokens: int = 200
    verdict_s: float = 0.013
    usd_per_gpu_hour: float = 0.0
    costs: Path | None = None

    def __post_init__(self) -> None:
        if (self.users is None) == (self.rate is None):
            raise ConfigError("Give --users or --rate: one of the two.", "users")
        if (self.gpu is None) == (self.costs is None):
            raise ConfigError("Give --gpu or --costs: one of the two.", "gpu")
        if self.gpu is not None and self.gpu not in GPUS:
            raise ConfigError(f"There is no GPU {self.gpu!r}; there are: {', '.join(GPUS)}.", "gpu")
        for role in (self.target, self.draft) if self.gpu is not None else ():
            if role not in MODELS:
                raise ConfigError(f"There is no model {role!r} to estimate; there are: {', '.join(MODELS)}.", "model")
            if self.needed_context > MODELS[role].max_context:
                raise ConfigError(
                    f"{role} has room for {MODELS[role].max_context} tokens, and an answer of {self.output_tokens} "
                    f"takes {self.needed_context} with its prompt: give fewer --output-tokens.",
                    "output_tokens",
                )

    @property
    def price(self) -> float:
        """Dollars an hour for one GPU: given, or what is assumed for the chip."""
        return self.usd_per_gpu_hour or (GPUS[self.gpu].usd_per_hour if self.gpu is not None else 0.0)

    @property
    def wished_speed(self) -> float:
        """Tokens a second of a user at which both wishes are met; 0 where there is none."""
        return max(self.min_speed, self.output_tokens / self.max_latency if self.max_latency is not None else 0.0)

    @property
    def asked_tokens_per_s(self) -> float:
        """Of all users together: what a rate asks for; 0 where the number of users is given."""
        return (self.rate or 0.0) * self.output_tokens

    @property
    def needed_context(self) -> int:
        """Tokens of a whole request."""
        return self.prompt_tokens + self.output_tokens

    @property
    def max_context(self) -> int:
        """Tokens that an engine has room for in one request, as a planned profile configures it."""
        return max(LEAST_CONTEXT, ceil(self.needed_context / CONTEXT_STEP) * CONTEXT_STEP)

    @property
    def mean_context(self) -> float:
        """Tokens before a request's next one, on average."""
        return self.prompt_tokens + self.output_tokens / 2.0

    @property
    def proposed(self) -> tuple[int, ...]:
        """Numbers of proposed tokens to choose from: those that were measured, or some."""
        if self.costs is None:
            return PROPOSED
        return tuple(sorted({one.proposed for one in _measured(self.costs).target.passes}))

    def max_users(self, num_gpus: int) -> float:
        """Requests whose cache fits into one target; unknown of a measured engine, which has bounds of its own."""
        if self.gpu is None:
            return float("inf")
        return max_requests(MODELS[self.target], GPUS[self.gpu], num_gpus, self.max_context)

    @property
    def max_target_steps(self) -> int | None:
        """Steps of a window that the target writes at once, as the profile has it; None: all of them."""
        speculation = _measured(self.costs).settings.get("speculation", {}) if self.costs is not None else {}
        most: int | None = speculation.get("max_target_steps")
        return most

    def require_room(self) -> None:
        """ConfigError where an engine that was measured has no room for a whole request."""
        measured = _measured(self.costs) if self.costs is not None else None
        for role in (measured.target, measured.draft) if measured is not None else ():
            room = role.writer.get("engine", {}).get("options", {}).get("max_model_len")
            if isinstance(room, int) and 0 < room < self.needed_context:
                raise ConfigError(
                    f"{role.model} was measured with room for {room} tokens (max_model_len), and an answer of "
                    f"{self.output_tokens} takes {self.needed_context} with its prompt: give fewer --output-tokens, or "
                    "calibrate engines with more room.",
                    "output_tokens",
                )

    def cost(self, role: str, num_gpus: int, num_proposed: int = 0, *, is_beside: bool = False) -> EngineCost | None:
        """An engine of `role`; None where the model does not fit, or its heads cannot be shared out. A measured one
        `is_beside` the other, as in windows, or alone on its machine."""
        return _cost(self, role, num_gpus, num_proposed, is_beside)


@lru_cache(256)
def _cost(question: Question, role: str, num_gpus: int, num_proposed: int, is_beside: bool) -> EngineCost | None:
    gain = tokens_per_pass(question.token_alpha, num_proposed)
    if question.costs is not None:
        measured = _measured(question.costs).cost(role, num_proposed, "windows" if is_beside else None)
        return scaled(measured, gain) if num_gpus == 1 else None
    model, gpu = MODELS[question.draft if role == "draft" else question.target], GPUS[question.gpu or ""]
    if not is_split_by(model, num_gpus) or max_requests(model, gpu, num_gpus, question.max_context) < 1:
        return None
    return estimated_cost(
        model, gpu, num_gpus, context=question.max_context, num_proposed=num_proposed, tokens_per_pass=gain
    )


@lru_cache(16)
def _measured(path: Path) -> CostFile:
    return read_costs(path)
