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

from actors.engines.hint_matching import MatchRules
from actors.engines.hint_options import METHOD
from actors.errors import ConfigError
from deployments.coordinator.theory import tokens_per_pass
from deployments.simulation.cost_file import Beside, CostFile, read_costs
from deployments.simulation.costs import EngineCost, with_drafter
from deployments.simulation.hardware import (
    GPUS,
    MODELS,
    PASS_OVERHEAD_S,
    estimated_cost,
    is_split_by,
    max_requests,
    scaled,
)

PROPOSED = (0, 3, 8)
"""Tokens that an estimated engine may propose to itself."""
DRAFTED = (3, 5, 8)
"""The same where the draft model writes them inside the target's engine."""
HINT_TOKENS = MatchRules().num_hint_tokens
"""What an engine that takes hints checks in a pass, where nothing else is said."""
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
    """Acceptance of the target's own token-level speculation by n-gram look-up."""
    draft_token_alpha: float = 0.75
    """The same where the draft model proposes inside the target's engine (vLLM's draft model method), or writes hints:
    the share of places at which it would write the target's token."""
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
    def token_levels(self) -> tuple[tuple[int, bool], ...]:
        """What to choose from: numbers of proposed tokens, those that were measured or some, and whether the draft
        model writes them inside the target's engine or they are looked up."""
        if self.costs is None:
            return (*((number, False) for number in PROPOSED), *((number, True) for number in DRAFTED))
        timed = sorted({one.proposed for one in _measured(self.costs).target.passes})
        return (*((number, False) for number in timed), *((number, True) for number in timed if number))

    @property
    def looked_up(self) -> int:
        """Tokens that a draft which guides looks up for each of its passes: the fewest above 0, if any."""
        return next((number for number, by_draft in self.token_levels if number and not by_draft), 0)

    @property
    def hint_tokens(self) -> int:
        """Tokens of hints that the target checks in a pass; 0 where the measured one takes none."""
        if self.costs is None:
            return HINT_TOKENS
        config = (
            _measured(self.costs).target.writer.get("engine", {}).get("options", {}).get("speculative_config") or {}
        )
        return int(config.get("num_speculative_tokens", HINT_TOKENS)) if config.get("method") == METHOD else 0

    def tokens_per_pass(self, num_proposed: int, by_draft: bool = False) -> float:
        """Tokens of a sequence that a pass gives with `num_proposed`, which the draft model wrote or were looked up."""
        return tokens_per_pass(self.draft_token_alpha if by_draft else self.token_alpha, num_proposed)

    def max_users(self, num_gpus: int, *, by_draft: bool = False) -> float:
        """Requests whose cache fits into one target, beside that of a draft model inside it where it has one; unknown
        of a measured engine, which has bounds of its own."""
        if self.gpu is None:
            return float("inf")
        drafter = MODELS[self.draft] if by_draft else None
        return max_requests(MODELS[self.target], GPUS[self.gpu], num_gpus, self.max_context, drafter)

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

    def cost(
        self, role: str, num_gpus: int, num_proposed: int = 0, *, by_draft: bool = False, beside: Beside | None = None
    ) -> EngineCost | None:
        """An engine of `role`; None where the model does not fit, or its heads cannot be shared out. A measured one
        `beside` the other, or alone on its machine. `by_draft`: the draft model inside it writes what
        it proposes."""
        return _cost(self, role, num_gpus, num_proposed, by_draft, beside)


@lru_cache(512)
def _cost(
    question: Question, role: str, num_gpus: int, num_proposed: int, by_draft: bool, beside: Beside | None
) -> EngineCost | None:
    made = _estimated if question.costs is None else _timed
    cost = made(question, role, num_gpus, num_proposed, beside)
    if by_draft and cost is not None:
        drafter = made(question, "draft", num_gpus, 0, beside, inside=True)
        if drafter is None or question.max_users(num_gpus, by_draft=True) < 1:
            return None
        cost = with_drafter(cost, drafter, num_proposed)
    return None if cost is None else scaled(cost, question.tokens_per_pass(num_proposed, by_draft))


def _timed(
    question: Question, role: str, num_gpus: int, num_proposed: int, beside: Beside | None, *, inside: bool = False
) -> EngineCost | None:
    """A measured engine, or what its model takes `inside` another one: as much, which is a little too much."""
    if question.costs is None or num_gpus != 1:
        return None
    return _measured(question.costs).cost(role, num_proposed, beside)


def _estimated(
    question: Question, role: str, num_gpus: int, num_proposed: int, beside: Beside | None, *, inside: bool = False
) -> EngineCost | None:
    """An engine of a roofline, or what its model takes `inside` another one, which schedules and samples for both."""
    model, gpu = MODELS[question.draft if role == "draft" else question.target], GPUS[question.gpu or ""]
    if not is_split_by(model, num_gpus) or max_requests(model, gpu, num_gpus, question.max_context) < 1:
        return None
    return estimated_cost(
        model,
        gpu,
        num_gpus,
        context=question.max_context,
        num_proposed=num_proposed,
        pass_overhead_s=0.0 if inside else PASS_OVERHEAD_S,
    )


@lru_cache(16)
def _measured(path: Path) -> CostFile:
    return read_costs(path)
