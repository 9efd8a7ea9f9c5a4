"""A production session that is led through what happens, without engines: what it does, counted from the head.

Promises: nothing here decides; events are those that the pipeline would hand to the session, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from actors.messages import Delta, Ending, Step, Verdict
from deployments.coordinator.events import (
    AddHints,
    Cancel,
    Command,
    Decision,
    DraftAvailable,
    DraftEnded,
    DraftFailed,
    DraftStep,
    Event,
    Fail,
    Finish,
    Judge,
    Judged,
    ReviveDraft,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
    TargetStep,
)
from deployments.coordinator.pipeline import Observer
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings

VOCABULARY = "simulated"
PROMPT = (-1,)

Happening = tuple[str, int, bool, bool]
"""What a request hears: a word, a place counted from the head, yes or no, whether the text ends here. The words:
``draft`` (a step, for the last place), ``draft_over``, ``draft_lost``, ``draft_back``, ``target`` (yes: equal to the
draft's), ``target_lost``, ``verdict`` (yes: accepted), ``stream`` (a step of it), ``stream_lost``."""
Order = tuple[str, int, int]
"""What a request is told to do: a word, a place counted from the head before the event, a number. The words: ``target``
(number: attempts before), ``draft`` (number: depth), ``judge``, ``stream`` (attempts), ``hint``, ``end target``, ``end
draft``, ``end judge``, ``end stream``, ``revive``, ``fail``."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a session does about one event."""

    state: int
    orders: tuple[Order, ...]
    num_accepted: int = 0
    num_recovered: int = 0
    num_own: int = 0
    finished: bool = False

    @property
    def num_committed(self) -> int:
        """Steps that are committed with it: the head moves by so many places."""
        return self.num_accepted + self.num_recovered + self.num_own


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the work that a happening ends, where somebody asks: tokens, seconds, where, beside how many."""

    num_tokens: int = 1
    elapsed_s: float = 0.0
    replica: str = ""
    num_running: int = 0


NOTHING_KNOWN = Facts()


def led_settings(settings: SessionSettings) -> SessionSettings:
    """`settings` for a session that is led: endless, and without what depends on more than the window."""
    return replace(
        settings,
        session_id="s",
        target_prompt=PROMPT,
        draft_prompt=PROMPT,
        vocabulary=VOCABULARY,
        max_tokens=10**9,
        spans=False,
        progress_s=0.0,
        num_nearby_hints=0,
    )


class Led:
    """A production session that is led through happenings. `observers` see its events and commands, `decide` says how
    deep it looks ahead, as in the pipeline."""

    def __init__(
        self,
        settings: SessionSettings,
        decide: Callable[[], Decision] | None = None,
        observers: tuple[Observer, ...] = (),
    ) -> None:
        self._session = Session(settings, decide)
        self._observers = observers
        self._facts = NOTHING_KNOWN
        self._calls: dict[int, tuple[str, int]] = {}
        """What runs: its word, and its place counted from the beginning of the text."""
        self._num_committed = 0
        self._num_texts = 0

    def start(self) -> Reaction:
        """As `Session.start`."""
        return self._reaction(self._session.start())

    def hear(self, happening: Happening, facts: Facts = NOTHING_KNOWN) -> Reaction:
        """As `Session.handle`."""
        self._facts = facts
        event = self._event(happening)
        for observer in self._observers:
            observer.on_event(event)
        return self._reaction(self._session.handle(event))

    def key(self) -> tuple[object, ...]:
        """All that decisions depend on."""
        session = self._session
        places = tuple(
            (
                position.state,
                position.draft.ending if position.draft is not None else None,
                position.target.ending if position.target is not None else None,
                position.writing is not None,
                position.judge_call is not None,
                position.attempts,
            )
            for position in session._window
        )
        drafting, stream = session._drafting, session._stream
        flags = (drafting.is_running, drafting.is_possible, stream.is_running, stream.num_failures, session.finished)
        return (places, flags)

    def _event(self, happening: Happening) -> Event:
        word, place, yes, last = happening
        ending = Ending.END if last else Ending.BOUNDARY
        place += self._num_committed
        if word == "draft":
            return DraftStep(self._running("draft"), self._step(ending))
        if word == "draft_over":
            call = self._running("draft")
            del self._calls[call]
            return DraftEnded(call)
        if word == "draft_lost":
            call = self._running("draft")
            del self._calls[call]
            return DraftFailed(call, "draft_unavailable")
        if word == "draft_back":
            return DraftAvailable(PROMPT)
        if word == "stream":
            step = self._step(ending)
            return Streamed(self._running("stream"), Delta(step.text, step.token_ids, ending))
        call = self._running(
            {"target_lost": "target", "stream_lost": "stream", "verdict": "judge"}.get(word, word), place
        )
        del self._calls[call]
        if word == "target":
            draft = self._session._window._positions[place - self._num_committed].draft
            return TargetStep(call, self._known(draft) if yes and draft is not None else self._step(ending))
        if word == "verdict":
            return Judged(call, Verdict(yes, "simulated", "", latency_s=self._facts.elapsed_s))
        return TargetFailed(call, RuntimeError("simulated"))

    def _running(self, word: str, place: int | None = None) -> int:
        for call, (kind, where) in self._calls.items():
            if kind == word and (place is None or kind in ("draft", "stream") or where == place):
                return call
        raise ValueError(f"no {word} runs for place {place}")

    def _step(self, ending: Ending) -> Step:
        """A step that no other is equal to."""
        self._num_texts += 1
        ids = (self._num_texts,) * self._facts.num_tokens
        return self._known(Step(f"{self._num_texts}\n\n", ids, VOCABULARY, ending))

    def _known(self, step: Step) -> Step:
        """`step` with what is known of its writing."""
        facts = self._facts
        if facts is NOTHING_KNOWN:
            return step
        return replace(step, elapsed_s=facts.elapsed_s, replica=facts.replica, num_running=facts.num_running)

    def _reaction(self, commands: list[Command]) -> Reaction:
        for command in commands:
            for observer in self._observers:
                observer.on_command(command)
        before, head = self._session_counts, self._num_committed
        summary = self._session.summary()
        self._session_counts = (summary.num_accepted_steps, summary.num_recovered_steps, summary.num_target_steps)
        accepted, recovered, own = (new - old for new, old in zip(self._session_counts, before, strict=True))
        self._num_committed += accepted + recovered + own
        orders = tuple(order for command in commands for order in self._orders(command, head))
        finished = any(isinstance(command, Finish | Fail) for command in commands)
        return Reaction(0, orders, accepted, recovered, own, finished)

    _session_counts: tuple[int, int, int] = (0, 0, 0)

    def _orders(self, command: Command, head: int) -> list[Order]:
        """`command` as an order, its place counted from `head`."""
        if isinstance(command, StartTarget | StartDraft | Judge):
            window = self._session._window
            serials = [position.serial for position in window]
            if command.position not in serials:
                return []
            place = self._num_committed + serials.index(command.position)
            word = {StartTarget: "target", StartDraft: "draft", Judge: "judge"}[type(command)]
            self._calls[command.call] = (word, place)
            number = {"target": "attempt", "draft": "depth"}.get(word)
            return [(word, place - head, getattr(command, number) if number else 0)]
        if isinstance(command, StartStream):
            self._calls[command.call] = ("stream", self._num_committed)
            return [("stream", self._num_committed - head, command.attempt)]
        if isinstance(command, Cancel):
            word, place = self._calls.pop(command.call)
            return [(f"end {word}", place - head, 0)]
        if isinstance(command, AddHints):
            place = self._calls[int(command.call_id.rsplit("-", 1)[1])][1]
            return [("hint", place - head, 0)]
        if isinstance(command, ReviveDraft):
            return [("revive", 0, 0)]
        return [("fail", 0, 0)] if isinstance(command, Fail) else []
