"""The target alone, streamed token by token: the base that every other strategy is measured against."""

from __future__ import annotations

from typing import ClassVar

from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.strategies.base import Strategy, WindowView, Wishes


class TargetOnly(Strategy):
    """Starts nothing; the session streams."""

    speculates: ClassVar[bool] = False
    sees_places_only: ClassVar[bool] = True

    def __init__(self, settings: SessionSettings) -> None:
        """Nothing of `settings` matters here."""

    def wishes(self, view: WindowView) -> Wishes:
        """Nothing: there is no window."""
        return Wishes()
