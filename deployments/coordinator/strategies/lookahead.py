"""Asynchronous Lookahead Reasoning (arXiv 2506.19830, section 3): the target starts on every position as soon as its
prefix exists, and the draft keeps the window full, without ever waiting for a verdict. With branches the draft writes
other versions of the nearest steps beside, as far as the budget of nodes goes."""

from __future__ import annotations

from typing import ClassVar

from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.strategies.base import Strategy, WindowView, Wishes
from deployments.coordinator.transitions import State
from deployments.coordinator.window import Position

BRANCH_DEPTH = 2
"""Steps of a branch: another version of a step, and one behind it, so that neither model has to begin anew if it
stands. What is deeper would rarely come to be committed."""


class Lookahead(Strategy):
    """At most `max_lookahead` undecided or uncommitted steps ahead of the head's prefix."""

    sees_places_only: ClassVar[bool] = True

    def __init__(self, settings: SessionSettings) -> None:
        self._num_others = settings.branches - 1
        self._max_nodes = settings.max_nodes

    def wishes(self, view: WindowView) -> Wishes:
        """The first positions without a target step get one; free places of the window are drafted."""
        targets = [position for position in view.positions[: view.max_target_steps] if position.wants_target]
        room = view.max_lookahead - (len(view.positions) - 1)
        depth = room if view.can_draft and not view.drafting and room > 0 else 0
        if not self._num_others:
            return Wishes(tuple(targets), depth)
        targets += self._on_branches(view)
        return Wishes(tuple(targets), depth, branches=self._branches(view), branch_depth=BRANCH_DEPTH)

    def _on_branches(self, view: WindowView) -> list[Position]:
        """Positions of branches whose prefix exists; the window's own go first."""
        return [p for b in view.branches for p in b.positions[1 : BRANCH_DEPTH + 1] if p.wants_target]

    def _branches(self, view: WindowView) -> tuple[Position, ...]:
        """Beside the nearest drafted positions, while the target writes there."""
        num_nodes = view.max_lookahead + 1 + BRANCH_DEPTH * len(view.branches)
        room = max(0, self._max_nodes - num_nodes) // BRANCH_DEPTH
        wanting = [
            position
            for position in view.positions
            if position.state is State.DRAFTED
            for _ in range(position.num_branches, self._num_others)
        ]
        return tuple(wanting[:room])
