"""A simulated request whose depth the production controller chooses, from what it sees of the simulated engines.

Promises: the session, the pacer and the controller are the server's own; one controller sees all requests, as that of a
coordinator does. Slower than `decisions.py`, since every request has a session of its own.
"""

from __future__ import annotations

from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.pacer import Manner
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.clock import Clock
from deployments.simulation.led import NOTHING_KNOWN, Facts, Happening, Led, Reaction, led_settings


class Controlled:
    """The decisions of one request."""

    takes_facts = True

    def __init__(self, settings: SessionSettings, controller: Controller, clock: Clock, number: int) -> None:
        manner = Manner(settings.max_lookahead, settings.verifier or "")
        self._pacer = controller.open(f"r{number}", manner, lambda: clock.now)
        self._led = Led(led_settings(settings), self._pacer.decide, (self._pacer,))
        self.start = self._led.start()

    def react(self, state: int, happening: Happening, facts: Facts = NOTHING_KNOWN) -> Reaction:
        """What the session does about `happening`."""
        return self._led.hear(happening, facts)

    def close(self) -> None:
        """The request is over."""
        self._pacer.close()
