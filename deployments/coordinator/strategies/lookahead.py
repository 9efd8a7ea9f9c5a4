"""Asynchronous Lookahead Reasoning (arXiv 2506.19830, section 3): the target starts on every position as soon as its
prefix exists, and the draft keeps the window full, without ever waiting for a verdict."""

from __future__ import annotations

from typing import ClassVar

from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.strategies.base import WindowView, Wishes


class Lookahead:
    """At most `max_lookahead` undecided or uncommitted steps ahead of the head's prefix."""

    speculates: ClassVar[bool] = True

    def __init__(self, settings: SessionSettings) -> None:
        self._max_target_steps = settings.max_target_steps

    def wishes(self, view: WindowView) -> Wishes:
        """The first positions without a target step get one; free places of the window are drafted."""
        first = view.positions[: self._max_target_steps]
        targets = tuple(position for position in first if position.wants_target)
        room = view.max_lookahead - (len(view.positions) - 1)
        depth = room if view.can_draft and not view.drafting and room > 0 else 0
        return Wishes(targets, depth)
