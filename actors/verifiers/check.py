"""What a check is: one way to compare two steps, which may be sure or not.

Promises: a check keeps nothing between calls but caches, gives the same opinion on the same request, and says why in
words. It never waits for another check: the order is the verifier's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from actors.errors import ConfigError
from actors.messages import JudgeRequest, Step


class Decision(StrEnum):
    """What a check makes of two steps."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNSURE = "unsure"
    """Ask the next check; after the last one this means rejected."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """A check's answer. `score` is the similarity or probability it rests on, if there is one."""

    decision: Decision
    reason: str
    score: float | None = None


class Check(Protocol):
    """One way to compare a draft's step with the target's."""

    @property
    def name(self) -> str:
        """The name that verdicts show; the check's kind in the config."""
        ...

    async def check(self, request: JudgeRequest) -> Opinion:
        """An opinion. Whatever is raised here is a rejection to the caller."""
        ...


@dataclass(frozen=True, slots=True)
class Zones:
    """Accept a score of `accept` or more, reject one below `reject`, be unsure between. ConfigError if they cross."""

    accept: float
    reject: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.reject <= self.accept <= 1.0:
            raise ConfigError(
                f"A check accepts from {self.accept} and rejects below {self.reject}; "
                "both must be between 0 and 1, and `reject` may not be above `accept`."
            )

    def opinion(self, score: float, what: str) -> Opinion:
        """The zone that `score` is in. A score that is not a number is in none: unsure."""
        if score >= self.accept:
            return Opinion(Decision.ACCEPT, f"{what} is {score:.3f}, at least {self.accept:g}", score)
        if score < self.reject:
            return Opinion(Decision.REJECT, f"{what} is {score:.3f}, below {self.reject:g}", score)
        return Opinion(Decision.UNSURE, f"{what} is {score:.3f}, neither high nor low enough", score)


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
