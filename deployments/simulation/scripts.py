"""What simulated models write: lengths of steps, and whether draft and target agree. Pure.

Promises: the same seed gives the same text on every machine; what the draft writes for a step is drawn anew each time
it writes that step, since its prefix is another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

MASK = 2**64 - 1


class Agreement(Enum):
    """What a draft step is to the target's step at the same place."""

    EQUAL = "equal"
    """Token for token the same."""
    SAME = "same"
    """Other words, the same meaning: for a verifier to see."""
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class StepPair:
    """The two versions of one step."""

    num_target_tokens: int
    num_draft_tokens: int
    agreement: Agreement
    num_common: int = 0
    """With how many tokens both begin, where they are not equal."""


class Script(Protocol):
    """One request's text."""

    @property
    def num_steps(self) -> int:
        """Steps until the text ends."""
        ...

    def pair(self, index: int, attempt: int) -> StepPair:
        """Step `index` (from 0) when the draft writes it for the `attempt`th time (from 0); the target's own version
        does not depend on `attempt`."""
        ...


@dataclass(frozen=True, slots=True)
class RandomScript:
    """Independent steps. `alpha` is the share of draft steps that the target agrees with, `equal_share` the part of
    those that are equal. Lengths are log-normal of mean `mean_tokens` and spread `sigma` (0: all equal); a step of `r`
    times that mean has the odds of `alpha` over r^`length_effect`, since long steps are rejected more often."""

    seed: int
    num_steps: int
    alpha: float
    mean_tokens: float = 50.0
    sigma: float = 0.0
    equal_share: float = 1.0
    length_effect: float = 0.0
    common_share: float = 0.0

    def pair(self, index: int, attempt: int) -> StepPair:
        """As `Script.pair`."""
        relative, alpha = 1.0, self.alpha
        if self.sigma:
            normal = math.sqrt(-2.0 * math.log(1.0 - uniform(self.seed, index, 0, 0)))
            normal *= math.cos(2.0 * math.pi * uniform(self.seed, index, 0, 1))
            relative = math.exp(self.sigma * normal - self.sigma**2 / 2.0)
        if 0.0 < alpha < 1.0 and self.length_effect:
            odds = alpha / (1.0 - alpha) * relative**-self.length_effect
            alpha = odds / (1.0 + odds)
        tokens = max(1, round(self.mean_tokens * relative))
        common = int(self.common_share * tokens)
        if uniform(self.seed, index, attempt, 2) >= alpha:
            return StepPair(tokens, tokens, Agreement.DIFFERENT, common)
        if uniform(self.seed, index, attempt, 3) < self.equal_share:
            return StepPair(tokens, tokens, Agreement.EQUAL)
        return StepPair(tokens, tokens, Agreement.SAME, common)


def uniform(*key: int) -> float:
    """A number in [0, 1) that looks random and depends on `key` alone: rounds of splitmix64 (Steele, 2014)."""
    state = 0
    for part in key:
        state = (state + part + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state / 2**64
