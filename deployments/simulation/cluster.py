"""What the requests of a simulated cluster have in common: replicas of each role, coordinators, and counts.

Promises: a request is sent to one of the replicas that live, by its number; whoever finds none may wait for one; a
coordinator hears one result at a time. The same arguments give the same figures. What one request does is in
`request.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from actors.messages import MERGED_TOKENS
from deployments.simulation.clock import Clock
from deployments.simulation.controlled import Controlled
from deployments.simulation.costs import EngineCost
from deployments.simulation.decisions import Decisions
from deployments.simulation.engine import Engine, Tempo
from deployments.simulation.own_session import OwnSession
from deployments.simulation.scripts import uniform
from deployments.simulation.workload import NO_GAIN, HintGain

Mind = Decisions | Controlled | OwnSession
"""What decides for a request."""
DRAFT_RETRY_S = 2.0
ROLES = {"target": "target", "stream": "target", "draft": "draft", "judge": "verifier"}
"""Whom calls are for, by their words."""


class Pool:
    """The replicas of one role."""

    def __init__(self, clock: Clock, cost: EngineCost, num_replicas: int) -> None:
        self.tempo = Tempo(cost)
        self.engines = [Engine(clock, self.tempo) for _ in range(num_replicas)]
        self.cost = cost
        """While no other role works on the same machine."""
        self.retired: list[Engine] = []
        """Those that were taken away."""
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_there(self) -> bool:
        """Whether a replica lives."""
        return any(engine.alive for engine in self.engines)

    def choose(self, number: int) -> Engine | None:
        """The replica of request `number`: by a hash, like the server's router."""
        alive = [engine for engine in self.engines if engine.alive]
        return alive[int(uniform(number, len(alive)) * len(alive))] if alive else None

    def when_there(self, then: Callable[[], None]) -> None:
        """Calls `then` as soon as a replica lives."""
        self._waiting.append(then)

    def come_back(self, engine: Engine) -> None:
        """`engine` is there again; who waited goes on."""
        engine.come_back()
        self._call()

    def take_in(self, engine: Engine) -> None:
        """`engine` serves from now on; who waited goes on."""
        self.engines.append(engine)
        self._call()

    def close(self, engine: Engine) -> None:
        """`engine` takes no new calls."""
        self.engines.remove(engine)
        engine.is_open = False

    def retire(self, engine: Engine) -> None:
        """`engine`, which was closed and has nothing to do, is gone."""
        engine.die()
        self.retired.append(engine)

    def _call(self) -> None:
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()


class Coordinator:
    """One coordinator process: a core that takes `message_s` of itself for each result that it hears, one by one."""

    def __init__(self, clock: Clock, message_s: float) -> None:
        self._clock = clock
        self._message_s = message_s
        self._free_at = 0.0
        self.busy_s = 0.0

    def hear(self, then: Callable[[], None]) -> None:
        """Calls `then` when it has come to it."""
        begun = max(self._clock.now, self._free_at)
        self._free_at = begun + self._message_s
        self.busy_s += self._message_s
        self._clock.after(self._free_at - self._clock.now, then)


@dataclass(slots=True)
class Ended:
    """What one request got. Times are seconds of the clock."""

    number: int
    started_s: float
    first_step_s: float
    ended_s: float
    num_tokens: int
    num_accepted: int
    num_recovered: int
    num_own: int
    failed: bool = False


@dataclass(slots=True)
class Counts:
    """What the cluster did in all."""

    num_committed: int = 0
    num_committed_tokens: int = 0
    num_executed: int = 0
    """Steps that an engine wrote to their end, of draft and target, kept or not."""
    num_draft_steps: int = 0
    num_verdicts: int = 0
    num_lost_calls: int = 0
    num_heard: int = 0
    """Results that left an engine, or a verifier, for a coordinator."""
    num_sent_tokens: int = 0
    """Tokens of prefixes that crossed from coordinators to engines."""
    ended: list[Ended] = field(default_factory=list)


class Crossing:
    """How many tokens of one request's text cross the network with its calls: a part that is added to no more, and a
    prompt as long as one, crosses to each role once (`deployments.link.kept`), what is shorter with every call. Where
    another replica takes over, it is taken to know what the first one knew."""

    def __init__(self, num_prompt: int) -> None:
        self._num_prompt = num_prompt
        self._num_known: dict[str, int] = {}

    def of_call(self, role: str, num_written: int) -> int:
        """With a call to `role`, behind `num_written` tokens of the answer."""
        num_kept = num_written - num_written % MERGED_TOKENS
        num_kept += self._num_prompt if self._num_prompt >= MERGED_TOKENS else 0
        num_known = self._num_known.get(role, 0)
        self._num_known[role] = max(num_known, num_kept)
        return self._num_prompt + num_written - min(num_known, num_kept)


class Cluster:
    """The pools and what the requests have in common. `network_s` is one way between coordinator and engines; `mind`
    gives a request decisions of its own; without it all have `decisions`."""

    def __init__(
        self,
        clock: Clock,
        decisions: Decisions | None,
        target: Pool,
        draft: Pool,
        verifier: Pool,
        *,
        network_s: float = 0.0,
        hint_gain: HintGain = NO_GAIN,
        mind: Callable[[int], Mind] | None = None,
        coordinators: Sequence[Coordinator] = (),
        wrote: Callable[[int, int], None] | None = None,
    ) -> None:
        self.clock = clock
        self.mind = mind or self._same
        self._decisions = decisions
        self.target = target
        self.draft = draft
        self.verifier = verifier
        self.network_s = network_s
        self.hint_gain = hint_gain
        self.takes_hints = hint_gain != NO_GAIN
        self.counts = Counts()
        self.coordinators = coordinators
        """Without any, hearing a result costs nothing."""
        self.wrote = wrote
        """Is told the number of a request and how many tokens were committed for it."""

    def _same(self, number: int) -> Mind:
        if self._decisions is None:
            raise ValueError("a cluster needs decisions, or a mind for each request")
        return self._decisions

    def hear(self, number: int, then: Callable[[], None]) -> None:
        """A result for request `number` leaves its engine, which does not wait: `then` happens when it has crossed the
        network and the coordinator has come to it."""
        self.counts.num_heard += 1
        if self.network_s:
            self.clock.after(self.network_s, partial(self._arrive, number, then))
        else:
            self._arrive(number, then)

    def _arrive(self, number: int, then: Callable[[], None]) -> None:
        if self.coordinators:
            self.coordinators[number % len(self.coordinators)].hear(then)
        else:
            then()
