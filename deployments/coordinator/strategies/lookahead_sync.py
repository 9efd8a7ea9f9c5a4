"""Synchronous Lookahead Reasoning (arXiv 2506.19830, section 3): the draft writes its steps first, then the target
writes all of its own in one batch, then they are compared; nobody works ahead of a verdict."""

from __future__ import annotations

from typing import ClassVar

from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.strategies.base import Strategy, WindowView, Wishes
from deployments.coordinator.transitions import State


class LookaheadSync(Strategy):
    """Rounds: `max_lookahead` draft steps, one target step more than that at once, commit up to the first mismatch and
    the target's step there, or the one more if there is none. Where the target may write fewer at once, the next begins
    as one ends; where it may write one, the one more is the first step of the next round. A draft that hangs holds the
    round until its limit on silence has passed."""

    sees_places_only: ClassVar[bool] = True

    def __init__(self, settings: SessionSettings) -> None:
        """Nothing of `settings` matters here."""

    def wishes(self, view: WindowView) -> Wishes:
        """A look-ahead when all is committed; target steps when it is over; nothing behind a mismatch."""
        if view.drafting:
            return Wishes()
        tail = view.positions[-1]
        wanting = tuple(position for position in view.positions if position.wants_target)
        if len(view.positions) == 1:
            drafts = wanting and view.can_draft and view.max_lookahead > 0
            return Wishes(draft_depth=view.max_lookahead) if drafts else Wishes(wanting)
        round_is_over = view.positions[-2].state in (State.RECOVERED, State.OWN)
        return Wishes(tuple(position for position in wanting if not (round_is_over and position is tail)))
