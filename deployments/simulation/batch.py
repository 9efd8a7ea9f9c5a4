"""A continuous batch on a clock that is handed in: who decodes, how fast, and who is done next. Pure.

Promises: every sequence in the batch gets its tokens at the same rate, one a forward pass times its own speed; the
pass time follows the batch and its cost as they change; who finds no slot waits, lowest priority number first, then by
arrival. Work is counted in forward passes; between two changes the context of a batch is taken as it was at the first.
While the engine reads a prompt (`stall`), nobody in it decodes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from deployments.simulation.costs import EngineCost

Name = TypeVar("Name", bound=Hashable)


@dataclass(slots=True)
class _Sequence:
    until: float
    """The batch's pass count at which it is done; while it waits, the passes it needs."""
    speed: float
    num_context: int
    number: int
    """By arrival."""
    num_guessed: int = 0


class Batch(Generic[Name]):
    """The sequences in one engine. All methods take the present time, in seconds, which never goes back."""

    def __init__(self, cost: EngineCost) -> None:
        self._cost = cost
        self._passes = 0.0
        self._now = 0.0
        self._running: dict[Name, _Sequence] = {}
        self._waiting: dict[Name, _Sequence] = {}
        self._queue: list[tuple[int, int, Name]] = []
        self._done: list[tuple[float, int, Name]] = []
        self._num_arrived = 0
        self._num_context = 0
        self._num_guessed = 0
        self._pass_s = cost.seconds(1)
        """Seconds of a pass of what runs now."""
        self._stalled_s = 0.0
        self._line_s: dict[tuple[int, int], float] = {}
        self.sequence_seconds = 0.0
        """Integral of the batch size over time."""
        self.busy_s = 0.0
        """How long the engine had work."""

    @property
    def size(self) -> int:
        """Sequences that decode or wait."""
        return len(self._running) + len(self._waiting)

    def add(
        self,
        now: float,
        name: Name,
        num_tokens: float,
        *,
        speed: float = 1.0,
        priority: int = 0,
        num_context: int = 0,
        num_guessed: int = 0,
    ) -> float | None:
        """`name` wants `num_tokens` tokens, `speed` of them a pass, which checks `num_guessed` beside them. When it is
        done, if nothing changes before; None if it waits."""
        self._advance(now)
        self._num_arrived += 1
        sequence = _Sequence(num_tokens / speed, speed, num_context, self._num_arrived, num_guessed)
        if len(self._running) < self._cost.max_num_seqs:
            self._run(name, sequence)
            return now + self._stalled_s + (sequence.until - self._passes) * self._pass_s
        self._waiting[name] = sequence
        heappush(self._queue, (priority, self._num_arrived, name))
        return None

    def remove(self, now: float, name: Name) -> None:
        """`name` is cancelled; nothing happens if it is not there."""
        self._advance(now)
        self._waiting.pop(name, None)
        sequence = self._running.pop(name, None)
        if sequence is not None:
            self._let_go(sequence)
            self._admit()
            self._keep_pace()

    def stall(self, now: float, seconds: float) -> None:
        """For `seconds` of work, which is done first, the engine reads prompts instead."""
        self._advance(now)
        self._stalled_s += seconds

    def set_cost(self, now: float, cost: EngineCost) -> None:
        """From now on passes take what `cost` says: something else began to work on the same machine, or ended."""
        if cost is not self._cost:
            self._advance(now)
            self._cost, self._line_s = cost, {}
            self._keep_pace()

    def set_speed(self, now: float, name: Name, speed: float) -> None:
        """From now on `name` gets `speed` tokens a pass: a hint came, say."""
        self._advance(now)
        sequence = self._running.get(name)
        if sequence is not None:
            sequence.until = self._passes + (sequence.until - self._passes) * sequence.speed / speed
            sequence.speed = speed
            heappush(self._done, (sequence.until, sequence.number, name))
        elif name in self._waiting:
            waiting = self._waiting[name]
            waiting.until, waiting.speed = waiting.until * waiting.speed / speed, speed

    def next_done(self) -> float | None:
        """When the next sequence is done, if nothing changes before; None if nobody decodes."""
        self._drop_stale()
        if not self._done:
            return None
        return self._now + self._stalled_s + max(self._done[0][0] - self._passes, 0.0) * self._pass_s

    def take_done(self, now: float) -> list[Name]:
        """Who is done at `now`; they leave the batch."""
        self._advance(now)
        done: list[Name] = []
        until, running, limit = self._done, self._running, self._passes + 1e-6
        while until:
            at, _, name = until[0]
            sequence = running.get(name)
            if sequence is not None and sequence.until == at:
                if at > limit:
                    break
                self._let_go(sequence)
                del running[name]
                done.append(name)
            heappop(until)
        if done:
            self._admit()
            self._keep_pace()
        return done

    def _let_go(self, sequence: _Sequence) -> None:
        self._num_context -= sequence.num_context
        self._num_guessed -= sequence.num_guessed

    def _keep_pace(self) -> None:
        """The batch is another one now."""
        shape = (len(self._running), self._num_guessed)
        if shape not in self._line_s:
            self._line_s[shape] = self._cost.seconds(shape[0], num_guessed=shape[1])
        self._pass_s = self._line_s[shape] + self._cost.context_s * self._num_context

    def _advance(self, now: float) -> None:
        elapsed, self._now = now - self._now, now
        if elapsed <= 0.0:
            return
        size = len(self._running)
        if size or self._stalled_s:
            self.sequence_seconds += elapsed * size
            self.busy_s += elapsed if size else min(elapsed, self._stalled_s)
            stalled = min(self._stalled_s, elapsed)
            self._stalled_s -= stalled
            if size:
                self._passes += (elapsed - stalled) / self._pass_s

    def _admit(self) -> None:
        while self._queue and len(self._running) < self._cost.max_num_seqs:
            _, _, name = heappop(self._queue)
            waiting = self._waiting.pop(name, None)
            if waiting is not None:
                self._run(name, waiting)

    def _run(self, name: Name, sequence: _Sequence) -> None:
        if not self._running:
            self._passes, self._done = 0.0, []  # so that the count keeps its precision however long the engine lives
        sequence.until += self._passes
        self._running[name] = sequence
        self._num_context += sequence.num_context
        self._num_guessed += sequence.num_guessed
        self._keep_pace()
        heappush(self._done, (sequence.until, sequence.number, name))

    def _drop_stale(self) -> None:
        """Entries of sequences that left or changed their speed."""
        if len(self._done) > 4 * len(self._running) + 64:
            self._done = [(sequence.until, sequence.number, name) for name, sequence in self._running.items()]
            heapify(self._done)
        while self._done:
            until, _, name = self._done[0]
            sequence = self._running.get(name)
            if sequence is not None and sequence.until == until:
                return
            heappop(self._done)
