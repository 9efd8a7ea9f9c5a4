"""What a check is: one way to compare two steps, which may be sure or not.

Promises: a check keeps nothing between calls but caches, gives the same opinion on the same request, and says why in
words. It never waits for another check: the order is the verifier's business.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Protocol

from actors.errors import ConfigError
from actors.messages import JudgeRequest, Step

Points = Sequence[Sequence[float]]
"""A calibration as it stands in the config: ``[score, probability]`` pairs."""


class Decision(StrEnum):
    """What a check makes of two steps."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNSURE = "unsure"
    """Ask the next check; after the last one this means rejected."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """A check's answer. `score` is the similarity, mark or probability it rests on, if there is one; `probability` is
    that both steps mean the same, as measured by a calibration, if there was one."""

    decision: Decision
    reason: str
    score: float | None = None
    probability: float | None = None


class Check(Protocol):
    """One way to compare a draft's step with the target's."""

    @property
    def name(self) -> str:
        """The name that verdicts show; the check's kind in the config."""
        ...

    @property
    def reads_context(self) -> bool:
        """Whether the opinion also depends on what stands before the steps, and not on their texts and ends alone."""
        ...

    async def check(self, request: JudgeRequest) -> Opinion:
        """An opinion. Whatever is raised here is a rejection to the caller."""
        ...


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a score to the measured probability that both steps mean the same: straight lines between points, level
    outside them. ConfigError if the scores do not rise or the probabilities fall."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, points: Points) -> Calibration | None:
        """None for no points: nothing was measured."""
        return cls(tuple((float(score), float(probability)) for score, probability in points)) if points else None

    def __post_init__(self) -> None:
        rises = all(one[0] < next_[0] and one[1] <= next_[1] for one, next_ in pairwise(self.points))
        if not self.points or not rises or not all(0.0 <= probability <= 1.0 for _, probability in self.points):
            raise ConfigError(
                "A calibration is a list of [score, probability]: the scores must rise, "
                f"and the probabilities may not fall and lie between 0 and 1; this one is {list(self.points)}."
            )

    def probability(self, score: float) -> float:
        """The probability at `score`."""
        at = bisect_right(self.points, (score, 2.0))
        if at == 0:
            return self.points[0][1]
        if at == len(self.points):
            return self.points[-1][1]
        (left, low), (right, high) = self.points[at - 1], self.points[at]
        return low + (high - low) * (score - left) / (right - left)


@dataclass(frozen=True, slots=True)
class Zones:
    """Accept a score of `accept` or more, reject one below `reject`, be unsure between. Scores are at most `top`, and
    0 is a low one. ConfigError if the zones cross."""

    accept: float
    reject: float
    calibration: Calibration | None = None
    top: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.reject <= self.accept <= self.top:
            raise ConfigError(
                f"A check accepts from {self.accept} and rejects below {self.reject}; "
                f"both must be between 0 and {self.top:g}, and `reject` may not be above `accept`."
            )

    def opinion(self, score: float, what: str) -> Opinion:
        """The zone that `score` is in. A score that is not a number is in none: unsure."""
        if score != score:
            return Opinion(Decision.UNSURE, f"{what} is not a number")
        decision, words = Decision.UNSURE, "neither high nor low enough"
        if score >= self.accept:
            decision, words = Decision.ACCEPT, f"at least {self.accept:g}"
        elif score < self.reject:
            decision, words = Decision.REJECT, f"below {self.reject:g}"
        probability = self.calibration.probability(score) if self.calibration is not None else None
        return Opinion(decision, f"{what} is {score:.3f}, {words}", score, probability)


def both_steps(request: JudgeRequest) -> tuple[Step, Step] | Opinion:
    """The draft's step and the target's, or the opinion of every check that compares them where it cannot: unsure
    without a target's step, a rejection where only one of the two ends the text or closes the reasoning (whatever the
    words say, what may follow is not the same)."""
    draft, target = request.draft, request.target
    if target is None:
        return Opinion(Decision.UNSURE, "there is no step of the target to compare with")
    if not draft.ends_like(target):
        return Opinion(Decision.REJECT, f"the draft's step ends by {draft.ending}, the target's by {target.ending}")
    return draft, target
