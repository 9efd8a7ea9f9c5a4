"""A continuous batch on a clock that is handed in: who decodes, how fast, and who is done next. Pure.

Promises: every sequence in the batch gets its tokens at the same rate, one a forward pass times its own speed; the
pass time follows the batch as it changes; who finds no slot waits, lowest priority number first, then by arrival.
Work is counted in forward passes; between two changes the context of a batch is taken as it was at the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from deployments.simulation.costs import EngineCost


@dataclass(slots=True)
class _Sequence:
    until: float
    """The batch's pass count at which it is done; while it waits, the passes it needs."""
    speed: float
    num_context: int


class Batch:
    """The sequences in one engine. All methods take the present time, in seconds, which never goes back."""

    def __init__(self, cost: EngineCost) -> None:
        self._cost = cost
        self._passes = 0.0
        self._now = 0.0
        self._running: dict[str, _Sequence] = {}
        self._waiting: dict[str, _Sequence] = {}
        self._queue: list[tuple[int, int, str]] = []
        self._done: list[tuple[float, str]] = []
        self._num_arrived = 0
        self._num_context = 0
        self.sequence_seconds = 0.0
        """Integral of the batch size over time."""

    @property
    def size(self) -> int:
        """Sequences that decode or wait."""
        return len(self._running) + len(self._waiting)

    def add(
        self, now: float, name: str, num_tokens: float, *, speed: float = 1.0, priority: int = 0, num_context: int = 0
    ) -> None:
        """`name` wants `num_tokens` tokens, `speed` of them a pass."""
        self._advance(now)
        self._num_arrived += 1
        sequence = _Sequence(num_tokens / speed, speed, num_context)
        if len(self._running) < self._cost.max_num_seqs:
            self._run(name, sequence)
        else:
            self._waiting[name] = sequence
            heappush(self._queue, (priority, self._num_arrived, name))

    def remove(self, now: float, name: str) -> None:
        """`name` is cancelled; nothing happens if it is not there."""
        self._advance(now)
        self._waiting.pop(name, None)
        sequence = self._running.pop(name, None)
        if sequence is not None:
            self._num_context -= sequence.num_context
            self._admit()

    def set_speed(self, now: float, name: str, speed: float) -> None:
        """From now on `name` gets `speed` tokens a pass: a hint came, say."""
        self._advance(now)
        sequence = self._running.get(name)
        if sequence is not None:
            sequence.until = self._passes + (sequence.until - self._passes) * sequence.speed / speed
            sequence.speed = speed
            heappush(self._done, (sequence.until, name))
        elif name in self._waiting:
            waiting = self._waiting[name]
            waiting.until, waiting.speed = waiting.until * waiting.speed / speed, speed

    def next_done(self) -> float | None:
        """When the next sequence is done, if nothing changes before; None if nobody decodes."""
        self._drop_stale()
        if not self._done:
            return None
        return self._now + max(self._done[0][0] - self._passes, 0.0) * self._pass_s()

    def take_done(self, now: float) -> list[str]:
        """Who is done at `now`; they leave the batch."""
        self._advance(now)
        done = []
        self._drop_stale()
        while self._done and self._done[0][0] <= self._passes + 1e-6:
            name = heappop(self._done)[1]
            self._num_context -= self._running.pop(name).num_context
            done.append(name)
            self._drop_stale()
        if done:
            self._admit()
        return done

    def _pass_s(self) -> float:
        return self._cost.seconds(len(self._running), self._num_context)

    def _advance(self, now: float) -> None:
        elapsed, self._now = now - self._now, now
        if self._running and elapsed > 0.0:
            self._passes += elapsed / self._pass_s()
            self.sequence_seconds += elapsed * len(self._running)

    def _admit(self) -> None:
        while self._queue and len(self._running) < self._cost.max_num_seqs:
            _, _, name = heappop(self._queue)
            waiting = self._waiting.pop(name, None)
            if waiting is not None:
                self._run(name, waiting)

    def _run(self, name: str, sequence: _Sequence) -> None:
        if not self._running:
            self._passes, self._done = 0.0, []  # so that the count keeps its precision however long the engine lives
        sequence.until += self._passes
        self._running[name] = sequence
        self._num_context += sequence.num_context
        heappush(self._done, (sequence.until, name))

    def _drop_stale(self) -> None:
        """Entries of sequences that left or changed their speed."""
        if len(self._done) > 4 * len(self._running) + 64:
            self._done = [(sequence.until, name) for name, sequence in self._running.items()]
            heapify(self._done)
        while self._done:
            until, name = self._done[0]
            sequence = self._running.get(name)
            if sequence is not None and sequence.until == until:
                return
            heappop(self._done)
