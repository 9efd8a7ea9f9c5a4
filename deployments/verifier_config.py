"""The configuration's section of the verifier: cascades of checks, and the settings of each kind of check.

Promises: a check has here the settings that its class in `actors/verifiers/` takes, with the same defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from actors.errors import ConfigError
from actors.verifiers.check import Calibration as Curve
from actors.verifiers.check import Zones
from deployments.sections import PlacementConfig, Strict, WriterConfig, check_gpus

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
EngineName = Literal["target", "draft", "own"]
"""Who is asked: the target's engine, the draft's, or `verifier.judge`."""
Calibration = tuple[tuple[float, Fraction], ...]
"""Points ``[score, probability]``, as `lookahead calibrate` writes them: the measured probability of agreement."""


class CheckSettings(Strict):
    """Base of all checks."""

    judges_alone: ClassVar[bool] = False
    """Whether it decides about a draft step alone, without one of the target to compare it with."""


class Scored(CheckSettings):
    """Base of the checks with a score of at most `top`: accepts at `accept` or more, rejects below `reject`."""

    top: ClassVar[float] = 1.0
    accept: float
    reject: float
    calibration: Calibration = ()

    @model_validator(mode="after")
    def _zones_can_be(self) -> Scored:
        try:
            Zones(self.accept, self.reject, Curve.of(self.calibration), self.top)
        except ConfigError as error:
            raise ValueError(error.message) from error
        return self


class ExactCheck(CheckSettings):
    """Accepts text that is equal but for its markup and white space inside lines; else unsure."""

    kind: Literal["exact"] = "exact"


class SameNumbersCheck(CheckSettings):
    """Rejects steps with different numbers, or with single letters in another order; else unsure."""

    kind: Literal["same_numbers"] = "same_numbers"


class SamePolarityCheck(CheckSettings):
    """Rejects steps whose negations, directions, operations or formulas contradict each other; else unsure."""

    kind: Literal["same_polarity"] = "same_polarity"


class EmbeddingCheck(Scored):
    """Cosine similarity of sentence embeddings: accepts at `accept` or more, rejects below `reject`, else unsure."""

    kind: Literal["embedding"] = "embedding"
    model: str = "package:all-minilm-l6-v2"
    accept: Fraction = 0.85
    reject: Fraction = 0.85


class JudgeCheck(Scored):
    """An LLM asked whether two steps mean the same; decides by the probability of its two labels."""

    kind: Literal["judge"] = "judge"
    engine: EngineName = "target"
    accept: Fraction = 0.7
    reject: Fraction = 0.7
    max_chars: PositiveInt = 6000
    answer_prefix: str = ""


class ScoreCheck(Scored):
    """SpecReason's: an LLM marks the draft step alone from 0 to 9; the target's step is not needed."""

    top: ClassVar[float] = 9.0
    judges_alone: ClassVar[bool] = True
    kind: Literal["score"] = "score"
    engine: EngineName = "target"
    accept: Annotated[float, Field(ge=0.0, le=9.0)] = 7.0
    reject: Annotated[float, Field(ge=0.0, le=9.0)] = 7.0
    mark: Literal["expected", "greedy"] = "expected"
    max_chars: PositiveInt = 6000
    answer_prefix: str = ""


class SelfConfidenceCheck(Scored):
    """The mean probability that the draft itself gives the tokens of its step; for models of one vocabulary."""

    judges_alone: ClassVar[bool] = True
    kind: Literal["self_confidence"] = "self_confidence"
    engine: Literal["draft"] = "draft"
    accept: Fraction = 0.95
    reject: Fraction = 0.0


class LikelihoodCheck(Scored):
    """The mean probability that the target gives the tokens of the draft step; the target's step is not needed."""

    judges_alone: ClassVar[bool] = True
    kind: Literal["likelihood"] = "likelihood"
    engine: Literal["target"] = "target"
    accept: Fraction = 0.8
    reject: Fraction = 0.8
    floor: Fraction = 0.01
    """A step with a token below it is rejected."""


class AlwaysCheck(CheckSettings):
    """Control: accepts everything."""

    judges_alone: ClassVar[bool] = True
    kind: Literal["always"] = "always"


class NeverCheck(CheckSettings):
    """Control: rejects everything that is not equal token for token."""

    judges_alone: ClassVar[bool] = True
    kind: Literal["never"] = "never"


class RandomCheck(CheckSettings):
    """Control: accepts with probability `accept`, by a hash of the two texts and `seed`."""

    judges_alone: ClassVar[bool] = True
    kind: Literal["random"] = "random"
    accept: Fraction = 0.5
    seed: int = 0


class ScriptedCheck(CheckSettings):
    """Control: unsure, until somebody orders it to misbehave; for chaos runs."""

    judges_alone: ClassVar[bool] = True
    kind: Literal["scripted"] = "scripted"
    control: str | None = None
    """The folder of orders (`actors.engines.control_folder`); none: unsure for ever."""


Check = Annotated[
    ExactCheck
    | SameNumbersCheck
    | SamePolarityCheck
    | EmbeddingCheck
    | JudgeCheck
    | ScoreCheck
    | LikelihoodCheck
    | SelfConfidenceCheck
    | AlwaysCheck
    | NeverCheck
    | RandomCheck
    | ScriptedCheck,
    Field(discriminator="kind"),
]


def accepts_only_equal(checks: Sequence[Check]) -> bool:
    """Whether a verifier of `checks` accepts no draft step but one that says what the target's does."""
    return all(isinstance(check, ExactCheck | NeverCheck) for check in checks)


def suits_specreason(checks: Sequence[Check]) -> bool:
    """Whether a verifier of `checks` is of use in mode ``specreason``, where a draft step is judged alone: it can
    decide so, or it is to accept nothing but what is equal. There nothing is, and the text is the target's."""
    return any(check.judges_alone for check in checks) or accepts_only_equal(checks)


class VerifierPlacement(PlacementConfig):
    """Where verifiers run; what a section does not say is right for one."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.5


class VerifierConfig(Strict):
    """The verifier role: named verifiers, each a cascade of checks; what no check decides is rejected."""

    verifiers: dict[str, list[Check]] = {"exact": [ExactCheck()]}
    judge: WriterConfig | None = None
    """The judge's own model, for checks with ``engine: own``."""
    placement: VerifierPlacement = VerifierPlacement()

    @model_validator(mode="after")
    def _judge_lives_here(self) -> VerifierConfig:
        if self.judge is not None:
            placement = self.judge.placement
            if placement != PlacementConfig(cpu_cores=placement.cpu_cores):
                raise ValueError("judge.placement: only cpu_cores counts; the judge runs in the verifier's replica")
            check_gpus(self.judge.engine, self.placement)
        return self
