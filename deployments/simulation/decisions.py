"""The production session's decisions as a table that fills itself: what a million steps a minute are simulated with.

Promises: every entry is what `deployments.coordinator.session.Session` did when it was put into that state and given
that event; nothing here decides. A state is all of a session that its decisions depend on: places are counted from the
head, and texts do not matter beyond whether draft and target are equal. Each entry is learnt once, by a session that is
led there event by event, and used from then on.

Not covered, since decisions depend on more than that: branches, spans, steps cut inside, the first steps of SpecReason
being the target's, a depth that changes, a strategy that sees more than the places of the window. Such a strategy has a
session of its own for each request (`own_session.py`), and the others are for the pipeline itself.
"""

from __future__ import annotations

from dataclasses import replace

from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.strategies import STRATEGIES
from deployments.simulation.led import NOTHING_KNOWN, Facts, Happening, Led, Reaction, led_settings

NUM_READY = 256
"""So many sessions are kept where they were led last: what is not known there is often asked next."""


class Decisions:
    """All that sessions with `settings` decided so far. `start` first, then `react` with the state it gave."""

    takes_facts = False

    def __init__(self, settings: SessionSettings) -> None:
        if not STRATEGIES[settings.mode].sees_places_only:
            raise ValueError(f"the strategy of mode {settings.mode!r} does not say that it sees places only")
        specreason = settings.specreason
        if specreason.num_target_steps or specreason.max_draft_tokens is not None:
            raise ValueError("SpecReason's first steps and budget depend on more than the window")
        if settings.branches != 1:
            raise ValueError("with branches decisions depend on more than the window")
        self._settings = led_settings(settings)
        self._numbers: dict[tuple[object, ...], int] = {}
        self._ways: list[tuple[Happening, ...]] = []
        self._known: list[dict[Happening, Reaction]] = []
        self._ready: dict[int, Led] = {}
        led = Led(self._settings)
        self.start = replace(led.start(), state=self._number(led, ()))

    @property
    def num_states(self) -> int:
        """States that were met."""
        return len(self._ways)

    def react(self, state: int, happening: Happening, facts: Facts = NOTHING_KNOWN) -> Reaction:
        """What a session in `state` does about `happening`; `facts` change nothing."""
        known = self._known[state].get(happening)
        if known is None:
            known = self._known[state][happening] = self._learn(state, happening)
        return known

    def close(self) -> None:
        """Nothing ends with a request."""

    def _learn(self, state: int, happening: Happening) -> Reaction:
        way = self._ways[state]
        led = self._ready.pop(state, None)
        if led is None:
            led = Led(self._settings)
            led.start()
            for earlier in way:
                led.hear(earlier)
        reaction = led.hear(happening)
        number = self._number(led, (*way, happening))
        if len(self._ready) == NUM_READY:
            del self._ready[next(iter(self._ready))]
        self._ready[number] = led
        return replace(reaction, state=number)

    def _number(self, led: Led, way: tuple[Happening, ...]) -> int:
        key = led.key()
        if key not in self._numbers:
            self._numbers[key] = len(self._ways)
            self._ways.append(way)
            self._known.append({})
        return self._numbers[key]
