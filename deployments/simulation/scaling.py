"""Autoscaling in a simulated cluster: replicas that come and go as the server's policy says.

Promises: every number is `deployments.autoscaling.policy.Policy`'s, asked as often as Serve's controller is answered; a
new replica serves `start_s` after it is wanted; one that is not wanted takes no new calls, ends those that it has, and
goes. One that is still starting goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deployments.autoscaling.board import PERIOD_S
from deployments.autoscaling.policy import Policy, Reading, Rules
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Pool
from deployments.simulation.engine import Engine
from deployments.simulation.scenario_sections import AutoscalingScenario


class Crew:
    """The replicas of one role, as they are wanted."""

    def __init__(self, clock: Clock, pool: Pool, start_s: float) -> None:
        self._clock = clock
        self._start_s = start_s
        self.pool = pool
        self.num_wanted = len(pool.engines)
        self._starting: list[Engine] = []
        self._leaving: list[Engine] = []
        self._idle: list[Engine] = []
        """Those of them that had nothing to do when it was last looked."""
        self._since = 0.0
        self.replica_seconds = 0.0
        """Of all that there are, those that start or leave included: they take a place."""

    @property
    def num_there(self) -> int:
        """Replicas that take a place."""
        return len(self.pool.engines) + len(self._starting) + len(self._leaving)

    @property
    def num_running(self) -> int:
        """Calls in those that serve."""
        return sum(engine.num_works for engine in self.pool.engines)

    def reading(self) -> Reading:
        """As the role's replicas report."""
        return Reading(self.num_wanted, len(self.pool.engines), {"running": float(self.num_running)})

    def want(self, number: int) -> None:
        """So many are wanted from now on."""
        while self.num_wanted < number:
            self._add()
        while self.num_wanted > number:
            self._take_away()

    def watch(self) -> None:
        """Time has passed: whoever leaves and had nothing to do then and now goes; between two steps of a call there is
        a moment without work."""
        self.count()
        idle = [engine for engine in self._leaving if not engine.num_works]
        for engine in idle:
            if engine in self._idle:
                self._leaving.remove(engine)
                self.pool.retire(engine)
        self._idle = idle

    def count(self) -> None:
        """Brings `replica_seconds` up to now."""
        now = self._clock.now
        self.replica_seconds += self.num_there * (now - self._since)
        self._since = now

    def _add(self) -> None:
        self.num_wanted += 1
        engine = Engine(self._clock, self.pool.tempo)
        self._starting.append(engine)
        self._clock.after(self._start_s, lambda: self._started(engine))

    def _started(self, engine: Engine) -> None:
        if engine in self._starting:
            self._starting.remove(engine)
            self.pool.take_in(engine)

    def _take_away(self) -> None:
        self.num_wanted -= 1
        if self._starting:
            self._starting.pop()
            return
        engine = min(self.pool.engines, key=lambda one: one.num_works)
        self.pool.close(engine)
        self._leaving.append(engine)


class Scaling:
    """The policy over all roles, asked every `PERIOD_S` seconds."""

    def __init__(
        self,
        clock: Clock,
        settings: AutoscalingScenario,
        pools: Mapping[str, Pool],
        asked: Callable[[], Mapping[str, Mapping[str, float]]],
    ) -> None:
        """`asked` is what coordinator and gateway report, by role."""
        self._clock = clock
        self._asked = asked
        self._policy = Policy(Rules.from_dict(settings.rules()))
        self.crews = {name: Crew(clock, pool, settings.start_s) for name, pool in pools.items()}
        self.changes: list[tuple[float, dict[str, int]]] = [(0.0, self._numbers())]
        """When the number of replicas that serve or start became what."""
        clock.after(PERIOD_S, self._decide)

    def mean_replicas(self, role: str) -> float:
        """Over the time until now, those that start or leave included."""
        crew = self.crews[role]
        crew.count()
        return crew.replica_seconds / self._clock.now if self._clock.now else float(crew.num_there)

    def _decide(self) -> None:
        for crew in self.crews.values():
            crew.watch()
        readings = {name: crew.reading() for name, crew in self.crews.items()}
        readings |= {name: Reading(1, 1, dict(stats)) for name, stats in self._asked().items()}
        for name, number in self._policy.decide(self._clock.now, readings).items():
            if name in self.crews:
                self.crews[name].want(number)
        if (numbers := self._numbers()) != self.changes[-1][1]:
            self.changes.append((self._clock.now, numbers))
        self._clock.after(PERIOD_S, self._decide)

    def _numbers(self) -> dict[str, int]:
        return {name: crew.num_wanted for name, crew in self.crews.items()}
