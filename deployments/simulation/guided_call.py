"""One generation for a guided request in a simulated cluster: the target's stream, or a look-ahead of the draft.

Promises: it writes pass by pass; what a pass gives follows from the hints that had come (`hinted_writing.py`); deltas
are cut by the server's own code; a call that is not wanted any more writes no further pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from actors.boundaries import DeltaCutter, StepSplitter
from actors.engines.hint_matching import MatchRules
from actors.messages import Delta, Step, StepRequest, TokenIds
from deployments.coordinator.events import DraftEnded, DraftStep, Event, Streamed
from deployments.simulation.cluster import Cluster, Pool
from deployments.simulation.engine import Engine
from deployments.simulation.guided_texts import GuidedText
from deployments.simulation.hinted_writing import HintedWriting
from deployments.simulation.workload import VOCABULARY


class Asker(Protocol):
    """The request that a call is for."""

    cluster: Cluster
    number: int
    text: GuidedText
    num_prompt: int

    @property
    def rules(self) -> MatchRules:
        """By which engines choose what to propose."""
        ...

    def send(self, call: GuidedCall, event: Event) -> None:
        """`event` leaves the engine of `call`."""
        ...

    def left(self, call: GuidedCall) -> None:
        """`call` has written all of it."""
        ...

    def wants(self, call: GuidedCall) -> bool:
        """Whether `call` was not cancelled."""
        ...

    def broken(self, call: GuidedCall) -> None:
        """The engine of `call` died, or there is none."""
        ...


class GuidedCall:
    """One generation for a request; its engine's `Work`, one pass at a time."""

    def __init__(self, asker: Asker, call: int, request: StepRequest, depth: int | None) -> None:
        """`depth`: chunks that the draft is to write; None: the target's stream."""
        self.call = call
        self.depth = depth
        self.name = request.call_id
        self._asker = asker
        written = tuple(token for piece in request.prefix.pieces for token in piece.token_ids)
        text = asker.text
        coming = text.target_after(written) if depth is None else text.draft_after(written)
        speculation = "hints" if text.repeats else "hints_only"
        rules = asker.rules
        self._writing = HintedWriting(written, coming, request.max_tokens, rules, speculation=speculation)
        self._writing.add_hints(request.hints, request.nearby)
        self.path = (*written, *coming)
        self._num_before = len(written)
        splitter = StepSplitter(request.rule, capped=depth is not None)
        self._cutter = DeltaCutter(splitter, text.text, depth)
        self._ids: list[int] = []
        self._since = asker.cluster.clock.now
        self.engine: Engine | None = None

    @property
    def role(self) -> str:
        """Whose work it is."""
        return "target" if self.depth is None else "draft"

    @property
    def pool(self) -> Pool:
        """Whose engine it needs."""
        return self._asker.cluster.target if self.depth is None else self._asker.cluster.draft

    @property
    def written(self) -> TokenIds:
        """All that its engine has in the cache now."""
        return self.path[: self._num_before + self._writing.num_written]

    def begin(self, engine: Engine, num_known: int) -> None:
        """It is at `engine`, whose cache holds `num_known` tokens of its text."""
        self.engine = engine
        asker = self._asker
        engine.keep(asker.number, asker.num_prompt + num_known)
        engine.read(asker.number, asker.num_prompt + self._num_before)
        self._write(goes_on=False)

    def add_hints(self, hints: tuple[TokenIds, ...]) -> None:
        """They count from the next pass on; none: those that it has count no more."""
        self._writing.add_hints(hints)

    def done(self) -> None:
        """As `Work.done`: a pass is over."""
        engine, asker = self.engine, self._asker
        if engine is None:
            raise AssertionError("a call that writes has an engine")
        ids, ending = self._writing.advance()
        deltas = self._cutter.feed(ids, ending)
        engine.remember(asker.number, asker.num_prompt + self._num_before + self._writing.num_written)
        num_running = engine.num_works + 1
        for event in self._events(deltas, str(id(engine)), num_running):
            asker.send(self, event)
        if self._cutter.finished:
            asker.left(self)
        elif asker.wants(self):
            self._write(goes_on=True)

    def lost(self) -> None:
        """As `Work.lost`."""
        self._asker.cluster.counts.num_lost_calls += 1
        self._asker.broken(self)

    def _write(self, goes_on: bool) -> None:
        if self.engine is not None:
            guessed, context = self._writing.begin_pass(), self._asker.num_prompt + self._writing.num_context
            self.engine.write(self, 1.0, context=context, guessed=guessed, goes_on=goes_on)

    def _events(self, deltas: list[Delta], replica: str, num_running: int) -> list[Event]:
        """What the role would tell of `deltas`."""
        if self.depth is None:
            placed = [replace(delta, replica=replica, num_running=num_running) for delta in deltas]
            return [Streamed(self.call, delta) for delta in placed]
        events: list[Event] = []
        now = self._asker.cluster.clock.now
        for delta in deltas:
            self._ids += delta.token_ids
            if delta.ending is not None:
                ids, self._ids = tuple(self._ids), []
                step = Step("", ids, VOCABULARY, delta.ending, now - self._since)
                events.append(DraftStep(self.call, replace(step, replica=replica, num_running=num_running)))
                self._since = now
        return [*events, DraftEnded(self.call)] if self._cutter.finished else events
