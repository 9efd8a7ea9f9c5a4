"""A simulated request with a session of its own, for strategies that see more than the places of the window.

Promises: the session is the server's own, with all that it and its strategy remember. Slower than `decisions.py`.
"""

from __future__ import annotations

from deployments.coordinator.settings import SessionSettings
from deployments.simulation.led import NOTHING_KNOWN, Facts, Happening, Led, Reaction, led_settings


class OwnSession:
    """The decisions of one request."""

    takes_facts = False

    def __init__(self, settings: SessionSettings) -> None:
        self._led = Led(led_settings(settings))
        self.start = self._led.start()

    def react(self, state: int, happening: Happening, facts: Facts = NOTHING_KNOWN) -> Reaction:
        """What the session does about `happening`; `state` says nothing that it does not know."""
        return self._led.hear(happening, facts)

    def close(self) -> None:
        """Nothing else ends with a request."""
