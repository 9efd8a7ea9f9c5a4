"""A strategy that is not shipped, simulated: what it sees beside the places of the window counts."""

from __future__ import annotations

from typing import ClassVar, get_args

import pytest

from deployments.coordinator.strategies import STRATEGIES, WindowView, Wishes
from deployments.coordinator.strategies.lookahead import Lookahead
from deployments.simulation import scenario_sections
from deployments.simulation.asking import settings_for
from deployments.simulation.decisions import Decisions
from deployments.simulation.outcome import Outcome
from deployments.simulation.run import run_scenario
from deployments.simulation.scenario import parse_scenario
from deployments.speculation_config import Mode

SCENARIO = """
name: s
target: {token_s: 0.02}
draft: {token_s: 0.002}
speculation: {modes: [lookahead, lookahead_sync]}
text: {num_steps: 40}
arrivals: {users: 2}
duration_s: 300
"""
HALF = 20


class Late(Lookahead):
    """No look-ahead in the first half of a text."""

    sees_places_only: ClassVar[bool] = False

    def wishes(self, view: WindowView) -> Wishes:
        wishes = super().wishes(view)
        return wishes if view.num_committed >= HALF else Wishes(wishes.targets)


class Wary(Lookahead):
    """No look-ahead once more than two steps were rejected."""

    sees_places_only: ClassVar[bool] = False

    def wishes(self, view: WindowView) -> Wishes:
        wishes = super().wishes(view)
        return wishes if view.num_recovered <= 2 else Wishes(wishes.targets)


class Remembering(Lookahead):
    """Looks ahead from its thirtieth decision on; says nothing of what it sees."""

    sees_places_only: ClassVar[bool] = False

    def __init__(self, settings) -> None:
        super().__init__(settings)
        self.num_decisions = 0

    def wishes(self, view: WindowView) -> Wishes:
        self.num_decisions += 1
        wishes = super().wishes(view)
        return wishes if self.num_decisions >= 30 else Wishes(wishes.targets)


def outcomes(monkeypatch: pytest.MonkeyPatch, strategy: type[Lookahead]) -> tuple[Outcome, Outcome]:
    """Of lookahead, and of `strategy` beside it."""
    monkeypatch.setitem(STRATEGIES, "lookahead_sync", strategy)
    shipped, own = run_scenario(parse_scenario(SCENARIO, "test"))
    return shipped, own


def verdicts_per_step(outcome: Outcome) -> float:
    return outcome.num_verdicts / outcome.num_committed_steps


@pytest.mark.parametrize(("strategy", "least", "most"), [(Late, 0.4, 0.6), (Wary, 0.02, 0.4), (Remembering, 0.1, 0.6)])
def test_a_strategy_that_sees_more_than_the_places_has_its_own_way_in_each_request(
    monkeypatch: pytest.MonkeyPatch, strategy: type[Lookahead], least: float, most: float
) -> None:
    shipped, own = outcomes(monkeypatch, strategy)
    assert least < verdicts_per_step(own) / verdicts_per_step(shipped) < most


def test_a_session_for_each_request_decides_as_the_table_where_places_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Same(Lookahead):
        sees_places_only: ClassVar[bool] = False

    shipped, own = outcomes(monkeypatch, Same)
    assert own.tokens_per_s == pytest.approx(shipped.tokens_per_s)
    assert own.num_verdicts == shipped.num_verdicts


def test_the_table_refuses_a_strategy_that_sees_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "lookahead_sync", Late)
    with pytest.raises(ValueError, match=r"lookahead_sync.*places only"):
        Decisions(settings_for("lookahead_sync", 3))


def test_every_mode_of_the_server_can_be_simulated() -> None:
    assert set(get_args(Mode)) < set(get_args(scenario_sections.Mode))


def test_a_mode_that_scores_steps_needs_a_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scoring(Lookahead):
        scores_alone: ClassVar[bool] = True

    monkeypatch.setitem(STRATEGIES, "lookahead_sync", Scoring)
    with pytest.raises(Exception, match="lookahead_sync needs a verifier"):
        parse_scenario(SCENARIO + "verifier: {replicas: 0}", "test")
