"""SpecReason (arXiv 2504.07891): the draft writes a step, a judge scores it alone, and the target writes only the steps
whose score is too low. It also writes its own of each step with which the draft would end the text where that is not
the draft's to say: then both are compared, as in the other modes."""

from __future__ import annotations

import math
import sys
from typing import ClassVar

from actors.messages import Ending
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.strategies.base import Strategy, WindowView, Wishes
from deployments.coordinator.transitions import State
from deployments.coordinator.window import Position, stop_in


class SpecReason(Strategy):
    """The draft is at most `max_lookahead` steps ahead of the last score: 1 waits for each score before it goes on, as
    the paper does; more writes the next step, and has it scored, meanwhile. Near the end of its budget of tokens a
    call of the draft writes fewer steps, so that none can begin behind it; the next call follows at once."""

    scores_alone: ClassVar[bool] = True
    sees_places_only: ClassVar[bool] = True
    """But for the options `num_target_steps` and `max_draft_tokens`, which the simulator refuses."""

    def __init__(self, settings: SessionSettings) -> None:
        self._options = settings.specreason
        self._max_step_tokens = settings.rule.max_tokens
        self._stop = settings.stop

    def wishes(self, view: WindowView) -> Wishes:
        """A score for each draft step that may stand alone; the target beside the others, where a score was too low,
        where it is its turn, and where there is no draft."""
        tail = view.positions[-1]
        can_draft = tail.wants_target and view.can_draft and view.max_lookahead > 0
        for_draft = can_draft and not self._is_for_target(tail, view)
        room = min(view.max_lookahead - (len(view.positions) - 1), self._num_within_budget(tail))
        drafted = [position for position in view.positions if position.state is State.DRAFTED]
        ends = [position for position in drafted if self._ends_alone(position, view)]
        targets = ends + [position for position in view.positions if position.state is State.REJECTED]
        if tail.state is State.OPEN and not view.drafting and not for_draft:
            targets.append(tail)
        return Wishes(
            targets=tuple(position for position in targets if position.wants_target),
            draft_depth=room if for_draft and not view.drafting and room > 0 else 0,
            scores=tuple(position for position in drafted if position not in ends),
        )

    def _ends_alone(self, position: Position, view: WindowView) -> bool:
        """Whether the request would end with the draft's step though nobody knows that the target ends there: with a
        stop string, or in the middle of the reasoning, without an answer."""
        draft = position.draft
        if draft is None:
            return False
        is_unanswered = view.is_reasoning and draft.ending is Ending.END
        return is_unanswered or stop_in(position.path, draft, self._stop) is not None

    def _num_within_budget(self, tail: Position) -> int:
        """Steps from `tail` on that begin within the draft's budget however long they get."""
        budget = self._options.max_draft_tokens
        return sys.maxsize if budget is None else math.ceil((budget - tail.num_tokens_before) / self._max_step_tokens)

    def _is_for_target(self, position: Position, view: WindowView) -> bool:
        """Whether the step is one of the first, or the draft has written enough."""
        budget = self._options.max_draft_tokens
        is_one_of_the_first = view.num_committed + view.positions.index(position) < self._options.num_target_steps
        return is_one_of_the_first or (budget is not None and position.num_tokens_before >= budget)
