"""What a session asks its strategy, and what it takes of the answer. Pure.

Promises: whatever a strategy wishes, the target writes at most `max_target_steps` steps of a request at once, those of
branches included; what no strategy may do is a StrategyError that names it: fail, answer something else, wish for a
step of the target that is there or under way, or wish for nothing while nothing is under way, which would be silence
for ever.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from actors.errors import StrategyError
from deployments.coordinator.calls import Calls
from deployments.coordinator.drafting import Drafting
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.strategies import STRATEGIES, WindowView, Wishes
from deployments.coordinator.tally import Tally
from deployments.coordinator.transitions import State
from deployments.coordinator.window import Position, Window


class Counsel:
    """The strategy of one request, asked with the window as it is."""

    def __init__(
        self, settings: SessionSettings, window: Window, calls: Calls, drafting: Drafting, tally: Tally
    ) -> None:
        self._name = settings.mode
        self._max_target_steps = settings.max_target_steps
        self._strategy = STRATEGIES[settings.mode](settings)
        self._window = window
        self._calls = calls
        self._drafting = drafting
        self._tally = tally

    @property
    def speculates(self) -> bool:
        """Whether there is a window at all."""
        return self._strategy.speculates

    def wishes(self, depth: int, *, only_head: bool, is_reasoning: bool) -> Wishes:
        """What to start now, looking `depth` steps ahead; `only_head`: the target is to write no step ahead.

        StrategyError where the strategy does what none may do.
        """
        view = self._view(depth, only_head, is_reasoning)
        try:
            wishes = self._strategy.wishes(view)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            raise self._error(f"failed in {where}: {type(error).__name__}: {error}") from error
        if not isinstance(wishes, Wishes):
            raise self._error(f"answers {wishes!r}, which are no Wishes")
        if any(not position.wants_target for position in wishes.targets):
            raise self._error("wishes for a step of the target that is there or under way")
        wishes = replace(
            wishes,
            targets=wishes.targets[: self._num_free(len(wishes.targets))],
            draft_depth=wishes.draft_depth if view.can_draft else 0,
            branches=wishes.branches if self._drafting.is_possible else (),
        )
        starts = wishes.targets or wishes.draft_depth > 0 or wishes.scores or wishes.branches
        if not starts and not len(self._calls):
            raise self._error("wishes for nothing while nothing is under way, so that the request would wait for ever")
        return wishes

    def _view(self, depth: int, only_head: bool, is_reasoning: bool) -> WindowView:
        counts = self._tally.summary(0)
        return WindowView(
            positions=tuple(self._window),
            max_lookahead=depth,
            num_committed=counts.num_steps,
            num_accepted=counts.num_accepted_steps,
            num_recovered=counts.num_recovered_steps,
            drafting=self._drafting.is_running,
            can_draft=self._drafting.is_possible and self._window.tail.state is State.OPEN,
            max_target_steps=1 if only_head else self._max_target_steps,
            branches=tuple(self._window.branches),
            is_reasoning=is_reasoning,
        )

    def _num_free(self, num_wanted: int) -> int:
        """How many of `num_wanted` further steps the target may begin."""
        if self._max_target_steps is None:
            return num_wanted
        rows: list[Iterable[Position]] = [self._window, *(branch.positions for branch in self._window.branches)]
        return max(0, self._max_target_steps - sum(p.writing is not None for row in rows for p in row))

    def _error(self, what: str) -> StrategyError:
        return StrategyError(f"The strategy of mode {self._name!r} {what}. That is a mistake in its code.")
