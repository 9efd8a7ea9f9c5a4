"""Who asks when: users one request after another, or requests at random at a rate that may change.

Promises: the same scenario gives the same arrivals; a user who is refused asks again after the time that he is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from deployments.simulation.clock import Clock
from deployments.simulation.scenario_sections import ArrivalScenario
from deployments.simulation.scripts import uniform

SALT = 7919
"""Keeps the draws of arrivals apart from others of the same seed."""

Then = Callable[[float], None]
"""Is called when a request is over, or refused, with the seconds after which its user may ask again."""


class Arrivals:
    """The stream of requests. `ask` begins one."""

    def __init__(self, clock: Clock, arrivals: ArrivalScenario, seed: int, ask: Callable[[Then], None]) -> None:
        self._clock = clock
        self._arrivals = arrivals
        self._seed = seed
        self._ask = ask
        self._num_drawn = 0

    def begin(self) -> None:
        """From now on requests come."""
        if self._arrivals.users is not None:
            for user in range(self._arrivals.users):
                # Spread over the first step, so that users do not march in step.
                self._clock.after(uniform(SALT, user), self._ask_again)
        else:
            self._clock.after(self._gap(), self._ask_at_random)

    def _ask_again(self) -> None:
        self._ask(lambda seconds: self._clock.after(seconds, self._ask_again))

    def _ask_at_random(self) -> None:
        """Requests at the highest rate come at random, and so many of them ask as the present rate says."""
        if uniform(SALT + 1, self._seed, self._num_drawn) < self._present_rate() / self._highest_rate():
            self._ask(lambda seconds: None)
        self._clock.after(self._gap(), self._ask_at_random)

    def _highest_rate(self) -> float:
        arrivals = self._arrivals
        if arrivals.rates is not None:
            return max(rate for _, rate in arrivals.rates)
        return max(arrivals.rate or 0.0, arrivals.rate_from or 0.0)

    def _present_rate(self) -> float:
        arrivals, now = self._arrivals, self._clock.now
        if arrivals.rates is not None:
            return _on_line(arrivals.rates, now)
        rate, begin = arrivals.rate or 0.0, arrivals.rate_from
        return rate if begin is None or now >= arrivals.ramp_s else begin + (rate - begin) * now / arrivals.ramp_s

    def _gap(self) -> float:
        """Seconds until the next one: exponential."""
        self._num_drawn += 1
        return -math.log(1.0 - uniform(SALT, self._seed, self._num_drawn)) / self._highest_rate()


def _on_line(points: tuple[tuple[float, float], ...], at: float) -> float:
    """On the line between two points; before the first and after the last as there."""
    if at <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return points[-1][1]
