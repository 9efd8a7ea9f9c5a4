"""What a real engine costs, as `lookahead calibrate --engine` measured it: a YAML file that simulations and plans take.

Promises: what is written is read back equal; a file that is something else is a `ConfigError` that names the key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.errors import ConfigError
from deployments.simulation.costs import EngineCost

DEFAULT_MAX_NUM_SEQS = 128
"""What vLLM takes where its options say nothing, as we start it."""


Beside = Literal["windows", "guided"]
"""How the other engine works on the same machine: on steps of its own, or word by word with this one."""
STEADY = 0.15
"""Rounds of a quiet machine lie within so much of their median."""


class Strict(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PassTimes(Strict):
    """Passes in which every sequence has one token of its own and so many proposed ones."""

    proposed: Annotated[int, Field(ge=0)]
    pass_s: Annotated[list[tuple[int, float]], Field(min_length=1)]
    """``[batch size, seconds]``, by rising size."""


class RoleCosts(Strict):
    """One engine."""

    model: str
    writer: dict[str, Any] = {}
    """The role's section of the configuration that was measured."""
    passes: Annotated[list[PassTimes], Field(min_length=1)]
    reading_s: list[tuple[int, float]] = []
    """``[tokens, seconds]``: passes in which one sequence reads so many tokens of its prompt, by rising number."""
    context_s: float = 0.0
    """Seconds that a pass takes longer for each token of context."""
    prefill_token_s: float = 0.0
    prefill_passes: float = 0.0
    """What a call reads although its prompt is cached, such as its last block, as passes of its own sequence."""
    call_s: float = 0.0
    """Transport; an engine that is timed in its own process has none."""
    max_num_seqs: Annotated[int, Field(ge=1)] = DEFAULT_MAX_NUM_SEQS
    stream_s: Annotated[float, Field(ge=0.0)] = 0.0
    """What each of its passes takes longer in a server, while the other engine rests: tokens go on to the coordinator,
    and the target's to a client, as they are written."""
    disturbance: Annotated[float, Field(ge=0.0)] = 0.0
    """By what part its passes take longer in a server, while the other engine works on the same machine."""
    disturbance_guided: Annotated[float, Field(ge=0.0)] | None = None
    """The same while words go from one engine to the other as they are written; None: no other than `disturbance`."""
    spread: Annotated[float, Field(ge=0.0)] = 0.0
    """How far apart rounds timed the same pass, over their median: of all passes the widest."""

    def disturbed(self, beside: Beside | None) -> float:
        """By what part its passes take longer `beside` the other engine; None: which rests."""
        if beside == "guided" and self.disturbance_guided is not None:
            return self.disturbance_guided
        return self.disturbance if beside is not None else 0.0


class CostFile(Strict):
    """Both engines, and where the figures come from."""

    source: str
    target: RoleCosts
    draft: RoleCosts
    settings: dict[str, Any] = {}
    """The sections of the configuration that was measured which its models need besides: `reasoning`, `speculation` and
    `verifier`."""

    @property
    def unsteady(self) -> str | None:
        """A sentence where rounds differed so much that the machine cannot have been quiet; None where it was."""
        worst = max(self.target.spread, self.draft.spread)
        if worst <= STEADY:
            return None
        return (
            f"The machine was not quiet while the engines were timed: the same pass differed by {worst:.0%} between "
            "rounds. What these costs foretell will be off; calibrate again when nothing else runs."
        )

    def cost(self, role: str, proposed: int = 0, beside: Beside | None = None) -> EngineCost:
        """The engine of `role` in a server, with the passes whose number of proposed tokens is nearest to `proposed`,
        while the other engine works `beside` it; None: while that rests. Guesses are timed in small batches only: what
        they take in larger ones is reckoned."""
        costs = self.draft if role == "draft" else self.target
        slower = 1.0 + costs.disturbed(beside)
        passes = min(costs.passes, key=lambda one: abs(one.proposed - proposed))
        first, last = (find(costs.passes, key=lambda one: one.proposed) for find in (min, max))
        span = last.proposed - first.proposed
        guess_s = max(last.pass_s[0][1] - first.pass_s[0][1], 0.0) / span if span else 0.0
        points = _with_larger(passes, first, guess_s)
        return EngineCost(
            tuple((size, seconds * slower + costs.stream_s) for size, seconds in points),
            guess_s=slower * guess_s if span else None,
            context_s=slower * costs.context_s,
            call_s=costs.call_s,
            prefill_passes=costs.prefill_passes,
            prefill_token_s=slower * costs.prefill_token_s,
            max_num_seqs=costs.max_num_seqs,
        )


def _with_larger(passes: PassTimes, plain: PassTimes, guess_s: float) -> list[tuple[int, float]]:
    """Times of `passes` by batch size; in larger batches than those were timed in, what `plain` passes take, which have
    the fewest guesses, and `guess_s` for each further one."""
    points = list(passes.pass_s)
    num_more = passes.proposed - plain.proposed
    for size, seconds in plain.pass_s:
        if size > passes.pass_s[-1][0]:
            points.append((size, max(seconds + guess_s * num_more * size, points[-1][1])))
    return points


def read_costs(path: Path) -> CostFile:
    """The file at `path`; ConfigError says what is wrong with it."""
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        costs = CostFile.model_validate(data)
        for role in ("target", "draft"):
            costs.cost(role)
    except OSError as error:
        raise ConfigError(f"The cost file {path} cannot be read: {error.strerror}.", "costs") from error
    except (ValidationError, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is no cost file of `lookahead calibrate --engine`: {error}", "costs") from error
    return costs


def write_costs(path: Path, costs: CostFile) -> None:
    """Writes `costs` to `path`."""
    path.write_text(yaml.safe_dump(costs.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
