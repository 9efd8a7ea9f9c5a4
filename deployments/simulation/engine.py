"""An engine in a simulated cluster: a batch on the clock, what it has cached of each request, and its death.

Promises: a call that is cancelled is never heard of again; one whose engine dies hears that once; what a request had in
the cache of a dead engine has to be read again elsewhere. Where two roles share a machine, the work of one is slower
just while the other has any.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from deployments.simulation.batch import Batch
from deployments.simulation.clock import Clock
from deployments.simulation.costs import EngineCost

NEVER = float("inf")


class Work(Protocol):
    """What an engine does for somebody."""

    def __hash__(self) -> int:
        """Each is its own."""
        ...

    def done(self) -> None:
        """All of it is written."""
        ...

    def lost(self) -> None:
        """The engine died."""
        ...


class Tempo:
    """What the engines of a role cost at the moment, and which of them have work."""

    def __init__(self, cost: EngineCost) -> None:
        self.cost = cost
        self._alone = self._beside = cost
        self._busy: dict[Engine, None] = {}
        self._other: Tempo | None = None
        """Whose engines are slower while these have work."""

    def share_machine(self, other: Tempo, beside: EngineCost) -> None:
        """While an engine of `other` has work, these cost `beside`."""
        self._beside, other._other = beside, self

    def begins(self, engine: Engine) -> None:
        """`engine` has work from now on."""
        self._busy[engine] = None
        if self._other is not None and len(self._busy) == 1:
            self._other._turn(is_disturbed=True)

    def rests(self, engine: Engine) -> None:
        """`engine` has none any more."""
        del self._busy[engine]
        if self._other is not None and not self._busy:
            self._other._turn(is_disturbed=False)

    def _turn(self, *, is_disturbed: bool) -> None:
        self.cost = self._beside if is_disturbed else self._alone
        for engine in self._busy:
            engine.keep_pace()


class Engine:
    """One replica of a role, whose engines have one `tempo`."""

    def __init__(self, clock: Clock, tempo: Tempo) -> None:
        self.alive = True
        self.is_open = True
        """Whether it takes new calls."""
        self._clock = clock
        self._tempo = tempo
        self._batch: Batch[Work] = Batch(tempo.cost)
        self._works: dict[Work, None] = {}
        self._cached: dict[int, int] = {}
        self._due = NEVER
        self._alarm = 0
        self._is_ringing = False
        self._has_work = False
        """Between two passes of a call too, where nothing comes between them."""

    @property
    def cost(self) -> EngineCost:
        """At the moment."""
        return self._tempo.cost

    @property
    def num_works(self) -> int:
        """Calls in the engine, those that wait for a slot included."""
        return len(self._works)

    @property
    def busy_s(self) -> float:
        """How long it had work."""
        return self._batch.busy_s

    @property
    def sequence_seconds(self) -> float:
        """Integral of its batch size over time."""
        return self._batch.sequence_seconds

    def write(
        self,
        work: Work,
        num_tokens: float,
        *,
        speed: float = 1.0,
        priority: int = 0,
        context: int = 0,
        guessed: int = 0,
        goes_on: bool = False,
    ) -> None:
        """Tells `work` when it has its tokens. `goes_on`: the same call has written before; `guessed` tokens of it are
        checked in each pass."""
        self._works[work] = None
        if not self._has_work:
            self._has_work = True
            self._tempo.begins(self)
            self._batch.set_cost(self._clock.now, self.cost)
        due = self._batch.add(
            self._clock.now,
            work,
            num_tokens if goes_on else num_tokens + self.cost.prefill_passes * speed,
            speed=speed,
            priority=priority,
            num_context=context,
            num_guessed=guessed,
        )
        if due is not None:  # the others are done later than before, if anything
            self._ring_at(due)

    def read(self, request: int, num_tokens: int) -> None:
        """Reads what it has not yet of the first `num_tokens` tokens of `request`."""
        known = self._cached.get(request, 0)
        if num_tokens > known:
            self._cached[request] = num_tokens
            if self.cost.prefill_token_s:
                self._batch.stall(self._clock.now, (num_tokens - known) * self.cost.prefill_token_s)

    def remember(self, request: int, num_tokens: int) -> None:
        """It wrote up to there itself."""
        if num_tokens > self._cached.get(request, 0):
            self._cached[request] = num_tokens

    def keep(self, request: int, num_tokens: int) -> None:
        """What it has of `request` behind `num_tokens` tokens is of another text."""
        if self._cached.get(request, 0) > num_tokens:
            self._cached[request] = num_tokens

    def forget(self, request: int) -> None:
        """`request` is over."""
        self._cached.pop(request, None)

    def cancel(self, work: Work) -> None:
        """`work` is not wanted any more; nothing happens if it is not here."""
        if work in self._works:
            del self._works[work]
            self._batch.remove(self._clock.now, work)
            self._arm()
            self._heed_rest()

    def keep_pace(self) -> None:
        """Its passes cost something else from now on."""
        self._batch.set_cost(self._clock.now, self.cost)
        self._arm()

    def set_speed(self, work: Work, speed: float) -> None:
        """From now on `work` gets `speed` tokens a pass."""
        self._batch.set_speed(self._clock.now, work, speed)
        self._arm()

    def die(self) -> None:
        """Everything in it is lost, the cache too."""
        self.alive = False
        works, self._works = list(self._works), {}
        for work in works:
            self._batch.remove(self._clock.now, work)
        self._cached.clear()
        self._arm()
        self._heed_rest()
        for work in works:
            work.lost()

    def come_back(self) -> None:
        """It is there again, with nothing cached."""
        self.alive = True

    def _arm(self) -> None:
        """Ring when the next one is done."""
        due = self._batch.next_done() if not self._is_ringing else None
        if due is not None:
            self._ring_at(due)

    def _ring_at(self, due: float) -> None:
        """An alarm that is too early finds nobody done, and a later one is set."""
        if due < self._due and not self._is_ringing:
            self._alarm += 1
            self._due = due
            self._clock.after(due - self._clock.now, partial(self._ring, self._alarm))

    def _ring(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._due, self._is_ringing = NEVER, True
        for work in self._batch.take_done(self._clock.now):
            if work in self._works:  # else one that was done at the same moment has cancelled it
                del self._works[work]
                work.done()
        self._is_ringing = False
        self._arm()
        self._heed_rest()

    def _heed_rest(self) -> None:
        if self._has_work and not self._works and not self._is_ringing:
            self._has_work = False
            self._tempo.rests(self)
