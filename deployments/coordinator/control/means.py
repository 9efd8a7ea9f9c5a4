"""Means that forget, and a meter of how much is under way. Pure: times are handed in."""

from __future__ import annotations

import math

SURE_OF_CHANGE = 2.2
"""A false alarm in a thousand steps, for ten steps until a drop from .7 to .1 is seen."""


class Mean:
    """A weighted mean in which old values fade. `prior` counts as `prior_weight` for ever; the weights of all values
    together approach `memory`, so a value loses two thirds of its weight while `memory` of new weight comes in."""

    def __init__(self, prior: float, prior_weight: float, memory: float) -> None:
        self._prior = prior
        self._prior_weight = prior_weight
        self._memory = memory
        self._sum = 0.0
        self.weight = 0.0
        """Evidence beside the prior."""

    def add(self, value: float, weight: float = 1.0) -> None:
        """One more value."""
        keep = self._memory / (self._memory + weight)
        self._sum = (self._sum + value * weight) * keep
        self.weight = (self.weight + weight) * keep

    def fade(self, weight: float, least: float = 0.0) -> None:
        """As if `weight` of values had come that say nothing, unless only `least` of evidence is left."""
        if self.weight <= least:
            return
        keep = self._memory / (self._memory + weight)
        self._sum *= keep
        self.weight *= keep

    def doubt(self, most: float) -> None:
        """No more than `most` of evidence is left: what comes next counts more."""
        keep = min(most / self.weight, 1.0) if self.weight > 0.0 else 1.0
        self._sum *= keep
        self.weight *= keep

    @property
    def value(self) -> float:
        """The mean, with the prior in it."""
        return self.over(self._prior)

    def over(self, prior: float, trust: float = 1.0) -> float:
        """The mean with another prior in the place of its own, of `trust` times its weight: that of a larger group."""
        prior_weight = self._prior_weight * trust
        weight = prior_weight + self.weight
        return (prior * prior_weight + self._sum) / weight if weight > 0.0 else prior

    def replace(self, other: Mean) -> None:
        """Take over the evidence of `other`."""
        self._sum, self.weight = other._sum, other.weight


class Rate:
    """A share of successes that follows a change quickly and is steady between changes.

    A slow mean is used until a fast one is `SURE_OF_CHANGE` standard deviations away from it; then the past is dropped.
    """

    def __init__(self, prior: float, prior_weight: float, memory: float, fast_memory: float) -> None:
        self._slow = Mean(prior, prior_weight, memory)
        self._fast = Mean(prior, 0.0, fast_memory)
        self.has_changed = False
        """Whether it left its past once: a request that did is not like the others."""

    def add(self, success: bool, weight: float) -> None:
        """One more trial."""
        self._slow.add(float(success), weight)
        self._fast.add(float(success), weight)
        expected = min(max(self._slow.value, 0.1), 0.9)
        deviation = math.sqrt(expected * (1.0 - expected) / max(2.0 * self._fast.weight, 1.0))  # of fading weights
        if abs(self._fast.value - expected) > SURE_OF_CHANGE * deviation:
            self._slow.replace(self._fast)
            self.has_changed = True

    def fade(self, weight: float, least: float = 0.0) -> None:
        """As `Mean.fade`."""
        self._slow.fade(weight, least)

    @property
    def value(self) -> float:
        """The share of successes."""
        return self._slow.value

    def over(self, prior: float) -> float:
        """The share with another prior in the place of its own, of which little is left after a change."""
        return self._slow.over(prior, 0.25 if self.has_changed else 1.0)


class Meter:
    """How many calls are under way, and the integral of that over time."""

    def __init__(self) -> None:
        self.num = 0
        self._since = 0.0
        self._integral = 0.0

    def begin(self, now: float) -> None:
        """One more is under way."""
        self._integral = self.integral(now)
        self._since, self.num = now, self.num + 1

    def end(self, now: float) -> None:
        """One less."""
        self._integral = self.integral(now)
        self._since, self.num = now, self.num - 1

    def integral(self, now: float) -> float:
        """Calls times seconds up to `now`."""
        return self._integral + self.num * max(now - self._since, 0.0)
