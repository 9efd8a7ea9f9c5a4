"""What a strategy sees and what it may wish for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.window import Branch, Position


@dataclass(frozen=True, slots=True)
class WindowView:
    """The window as it is after an event: `positions[0]` is the head, the last one has the newest prefix."""

    positions: Sequence[Position]
    max_lookahead: int
    num_committed: int
    """Steps that are committed, which is the number of the head."""
    num_accepted: int
    """Of these, draft steps that stand."""
    num_recovered: int
    """Of these, steps of the target in the place of a draft step that was rejected; the rest are the target's own."""
    drafting: bool
    """Whether a look-ahead stream runs."""
    can_draft: bool
    """Whether a look-ahead stream may be started: the draft is there and the last position is open."""
    max_target_steps: int | None = None
    """The target is to write only so many first positions; None: any. Whatever is wished for, the session begins no
    more steps at once than ``speculation.max_target_steps`` says, the first ones of `Wishes.targets` first."""
    branches: Sequence[Branch] = ()
    """Other versions of steps in the window, with what is built on them."""
    is_reasoning: bool = False
    """Whether the text is inside a reasoning that is still to be closed."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to start now: target steps, a look-ahead of `draft_depth` steps (0: none) from the last position, and scores
    of draft steps that stand alone, without a target's step beside them; and other versions of draft steps."""

    targets: tuple[Position, ...] = ()
    """Those that are too many at once are not begun: they are wished for again when others have ended."""
    draft_depth: int = 0
    scores: tuple[Position, ...] = ()
    branches: tuple[Position, ...] = ()
    """Drafted positions beside which to draft another version of `branch_depth` steps; one may be named twice."""
    branch_depth: int = 1


class Strategy(Protocol):
    """Decides what to start after each event. Derive from it to have what most strategies say of themselves."""

    speculates: ClassVar[bool] = True
    """False: the whole text is streamed from the target."""
    scores_alone: ClassVar[bool] = False
    """Whether it wishes for scores of draft steps that stand alone: it then needs a verifier that can judge so, and
    keeps no fidelity."""
    sees_places_only: ClassVar[bool] = False
    """Whether the same places of the window (their states, endings and what runs for them), drafting and `can_draft`
    always give the same wishes: no counts of the view, no text, no memory of its own. The simulator then learns them
    once for all requests; else every simulated request has a session of its own."""

    def __init__(self, settings: SessionSettings) -> None:
        """A strategy for one request."""
        ...

    def wishes(self, view: WindowView) -> Wishes:
        """What to start, given the window; called after every event, so it must not wish twice for what runs."""
        ...
