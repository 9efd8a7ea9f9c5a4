"""How many replicas each role should have, decided for all roles together from what is asked of the deployment. Pure.

Promises: demand is counted in requests (those that gateways hold back included), waiting tokens and what speculation
makes of them, never in calls that more capacity would multiply; a constant load never changes the answer twice; a role
at zero comes back at once when it is wanted; falling load only takes replicas away, and only those that the largest
demand of the last `down_delay_s` did not need. Times are handed in, in seconds of any clock that does not go back; the
simulator may drive it as Serve does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

ROLES = ("target", "draft", "verifier", "coordinator", "gateway")
TOLERANCE = 0.1
"""Demand may exceed what the replicas carry by this part before one is added: noise adds nothing."""
SLACK = 0.2
"""After taking replicas away, so much of the rest stays free. Together with `TOLERANCE` this is the band in which
nothing changes: what was added for a demand is not taken away at the same demand."""
FAN_OUT_S = 60.0
"""Time over which the measured fan-out forgets. A saturated target looks ahead less; this keeps in mind, for as long as
capacity takes to come, what its requests want when there is room."""
MOST_FOR_REFUSED = 2.0
"""What was refused asks for no more than so many times the replicas that are there. A client that comes again at once
is counted each time: so it gets twice as many, and only if somebody is refused then still, twice as many again."""


@dataclass(frozen=True, slots=True)
class RoleRules:
    """What one role may have, and what one replica of it carries."""

    max_replicas: int
    min_replicas: int = 1
    load: float = 1.0
    """What a replica carries at its objective: sequences at once for draft and target, verdicts at once for the
    verifier, requests for coordinator and gateway."""
    tokens_per_s: float | None = None
    """Tokens of prompts that a replica reads in a second; None: prompts count no more than their sequence."""
    per_target: float = 0.0
    """While anybody speculates: at least so many replicas for each that the target needs, as the plan has it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """For all roles."""

    roles: Mapping[str, RoleRules]
    objective_s: float = 5.0
    """Prompts that wait are to be read within this time."""
    up_delay_s: float = 5.0
    """A greater demand must last so long before replicas are added; a role without any waits for nothing."""
    down_delay_s: float = 300.0
    """A smaller demand must last so long before replicas are taken away."""
    max_cache_use: float = 0.9
    """Share of an engine's cache that may be in use."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rules:
        """Out of plain data, as it crosses into Serve's controller."""
        roles = {name: RoleRules(**rules) for name, rules in data["roles"].items()}
        return cls(**{**data, "roles": roles})


@dataclass(frozen=True, slots=True)
class Reading:
    """One role as it is now: replicas that are wanted at present, those that are there, and the sums of what they
    report (names as in `deployments.coordinator.demand.Demand`, `deployments.gateway.admission.Admission.held_back` and
    `actors.messages.EngineLoad`)."""

    num_wanted: int
    num_ready: int
    stats: Mapping[str, float] = field(default_factory=dict)

    def get(self, name: str) -> float:
        """The sum over replicas of what is reported under `name`; 0 where nobody reports it."""
        return self.stats.get(name, 0.0)


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What gateways hold back for want of room, in parts of what they let in: it would ask as much of every role."""

    waiting: float
    refused: float

    @classmethod
    def read(cls, gateways: Reading, requests: float) -> HeldBack:
        """Beside so many requests in flight. Where there are none, there is room."""
        if not requests:
            return cls(0.0, 0.0)
        return cls(gateways.get("waiting_generations") / requests, gateways.get("refused_generations") / requests)

    def added_to(self, need: float, num_ready: int) -> float:
        """What is needed with it, where what is in flight fills `need` replicas and `num_ready` are there."""
        waiting = need * (1.0 + self.waiting)
        return max(waiting, min(waiting + need * self.refused, MOST_FOR_REFUSED * num_ready))


class FanOut:
    """Calls of a role in flight for each request, measured while the role is there; `at_start` until then."""

    def __init__(self, at_start: float) -> None:
        self.value = at_start
        self._at_s: float | None = None

    def saw(self, now_s: float, calls: float, requests: float) -> None:
        """So many calls for so many requests, now."""
        since = FAN_OUT_S if self._at_s is None else now_s - self._at_s
        self._at_s = now_s
        self.value += min(since / FAN_OUT_S, 1.0) * (calls / requests - self.value)


class Steady:
    """The number of replicas of one role over time: up to the least demand of `up_delay_s`, down to the most of
    `down_delay_s`."""

    def __init__(self, rules: RoleRules, up_delay_s: float, down_delay_s: float) -> None:
        self._rules = rules
        self._up_delay_s = up_delay_s
        self._down_delay_s = down_delay_s
        self._needs: deque[tuple[float, float]] = deque()

    def decide(self, now_s: float, need: float, num_wanted: int) -> int:
        """The replicas to have from now on, where `num_wanted` are wanted so far and `need` would be filled."""
        needs = self._needs
        needs.append((now_s, need))
        oldest = now_s - max(self._up_delay_s, self._down_delay_s)
        while len(needs) > 1 and needs[1][0] <= oldest:
            needs.popleft()
        number = num_wanted
        least, most = self._over(self._up_delay_s, now_s), self._over(self._down_delay_s, now_s)
        if num_wanted == 0 and need > 0:
            number = _whole(need)
        elif least and min(least) > num_wanted * (1 + TOLERANCE):
            number = _whole(min(least))
        elif most and _whole(max(most) / (1 - SLACK)) < num_wanted:
            number = _whole(max(most) / (1 - SLACK))
        return min(max(number, self._rules.min_replicas), self._rules.max_replicas)

    def _over(self, delay_s: float, now_s: float) -> list[float]:
        """The needs of the last `delay_s`; none where it is not known for so long."""
        if self._needs[0][0] > now_s - delay_s:
            return []
        return [need for at, need in self._needs if at >= now_s - delay_s]


class Policy:
    """The replicas of all roles of one deployment."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._steady = {name: Steady(role, rules.up_delay_s, rules.down_delay_s) for name, role in rules.roles.items()}
        self._fan_outs = {"target": FanOut(1.0), "draft": FanOut(1.0), "verifier": FanOut(0.0)}
        self.needs: dict[str, float] = {}
        """Replicas that would be filled, by the last decision."""

    def decide(self, now_s: float, readings: Mapping[str, Reading]) -> dict[str, int]:
        """For each role with rules and a reading: how many replicas it should have."""
        self.needs = self._needed(now_s, readings)
        return {
            name: self._steady[name].decide(now_s, need, readings[name].num_wanted) for name, need in self.needs.items()
        }

    def _needed(self, now_s: float, readings: Mapping[str, Reading]) -> dict[str, float]:
        asked = readings.get("coordinator", Reading(0, 0))
        requests, speculating = asked.get("requests"), asked.get("speculating")
        held_back = HeldBack.read(readings.get("gateway", Reading(0, 0)), requests)
        target = self._writer_need(now_s, "target", readings, requests, held_back, floor=1.0)
        needs = {"target": target}
        for name in ("draft", "verifier"):
            need = self._writer_need(now_s, name, readings, speculating, held_back)
            if speculating and name in self._rules.roles:
                # Whoever speculates wants it there, however few its calls are.
                need = max(need, self._rules.roles[name].per_target * target, 1e-6)
            needs[name] = need
        for name in ("coordinator", "gateway"):
            if name in self._rules.roles and name in readings:
                need = requests / self._rules.roles[name].load
                needs[name] = held_back.added_to(need, readings[name].num_ready)
        return {name: need for name, need in needs.items() if name in self._rules.roles and name in readings}

    def _writer_need(
        self,
        now_s: float,
        name: str,
        readings: Mapping[str, Reading],
        requests: float,
        held_back: HeldBack,
        floor: float = 0.0,
    ) -> float:
        """Of a role that holds a model, for so many requests that use it; each counts at least as `floor` calls."""
        if name not in self._rules.roles or name not in readings:
            return 0.0
        rules, reading = self._rules.roles[name], readings[name]
        fan_out = self._fan_outs[name]
        if requests and reading.num_ready:
            fan_out.saw(now_s, readings["coordinator"].get(f"{name}_calls"), requests)
        sequences = max(requests * max(fan_out.value, floor), reading.get("running") + reading.get("waiting"))
        need = max(sequences / rules.load, reading.get("cache_use") / self._rules.max_cache_use)
        if rules.tokens_per_s is not None and requests:
            waiting = readings["coordinator"].get("waiting_tokens")
            need = max(need, waiting / (rules.tokens_per_s * self._rules.objective_s))
        return held_back.added_to(need, reading.num_ready)


def _whole(need: float) -> int:
    return ceil(need - 1e-9) if need > 1e-9 else 0
