"""Guided requests in a simulated cluster: the text is the target's, hints come in time or do not, nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from statistics import mean

import pytest

from actors.draft import Draft
from actors.engines.hint_matching import MatchRules
from actors.messages import Nearby, Prompt
from actors.target import TargetModel
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.pipeline import Pipeline, Roles
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.theory import guided_speed_up
from deployments.generation import Committed, Finished
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Cluster, Ended, Pool
from deployments.simulation.cost_file import PassTimes, RoleCosts, write_costs
from deployments.simulation.costs import EngineCost
from deployments.simulation.decisions import Decisions
from deployments.simulation.guided_grid import ALONE, ALWAYS, GuidedCell, compare, tokens_per_s
from deployments.simulation.guided_request import LINES, GuidedRequest, Guiding
from deployments.simulation.guided_texts import GuidedText, RandomText, RecordedText
from deployments.simulation.hinted_writing import END, HintedWriting
from deployments.simulation.replay_engine import VOCABULARY, PassCost, ReplayEngine
from deployments.simulation.replay_text import ReplayText, Vocabulary
from deployments.simulation.run import run_scenario
from deployments.simulation.scenario import parse_scenario
from deployments.simulation.scripts import RandomScript
from deployments.simulation.virtual_loop import run_virtually
from tests.unit.simulation.test_validation import costs, record

TARGET, DRAFT = EngineCost(((1, 0.1),), guess_s=0.00375), EngineCost(((1, 0.02),))
RULES = MatchRules(num_hint_tokens=8)


def random_text(number: int, alpha: float = 0.85) -> GuidedText:
    return RandomText(RandomScript(number + 1, 12, 1.0, 10.0, 0.5), number + 1, alpha)


class World:
    """Users of a cluster whose requests are guided."""

    def __init__(
        self, *, targets: int = 1, drafts: int = 1, users: int = 2, num_requests: int = 8, **text: float
    ) -> None:
        self.clock = Clock()
        self.ended: list[Ended] = []
        self.num_requests, self.num_begun = num_requests, 0
        decisions = Decisions(SessionSettings("", (), (), "", 10**9, mode="target"))
        pools = Pool(self.clock, TARGET, targets), Pool(self.clock, DRAFT, drafts), Pool(self.clock, DRAFT, 0)
        self.cluster = Cluster(self.clock, decisions, *pools, network_s=0.001)
        self.guiding = Guiding(4, RULES, lambda settings: (GuidedSession(settings), ()))
        self.text = text
        for _ in range(users):
            self.ask()

    def ask(self) -> None:
        if self.num_begun < self.num_requests:
            number, self.num_begun = self.num_begun, self.num_begun + 1
            GuidedRequest(self.cluster, self.guiding, number, random_text(number, **self.text), 5, self.over)

    def over(self, end: Ended) -> None:
        self.ended.append(end)
        self.clock.after(0.0, self.ask)

    def run(self) -> float:
        """To the end of all; tokens a second."""
        while len(self.ended) < self.num_requests:
            self.clock.tick()
        for end in self.ended:
            assert not end.failed
            assert end.num_tokens == random_text(end.number).num_tokens
        counts = self.cluster.counts
        assert counts.num_committed == 12 * self.num_requests
        assert counts.num_committed_tokens == sum(end.num_tokens for end in self.ended)
        assert all(engine.num_works == 0 for engine in self.cluster.target.engines + self.cluster.draft.engines)
        return counts.num_committed_tokens / self.clock.now


def test_a_better_draft_is_worth_more_and_a_useless_one_costs_little() -> None:
    useless, good, perfect = (World(alpha=alpha).run() for alpha in (0.0, 0.85, 1.0))
    alone = 2 / 0.1  # two users
    assert 0.9 * alone < useless < 1.01 * alone
    assert good > 1.5 * useless
    assert perfect > 1.5 * good


@pytest.mark.parametrize("alpha", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("c", [0.1, 0.2, 0.4])
def test_the_formula_of_guided_streams_is_what_sessions_reach(alpha: float, c: float) -> None:
    cell = GuidedCell(alpha, c, 0.0, call_s=0.0)
    reached = tokens_per_s(cell, ALWAYS, 300) / tokens_per_s(cell, ALONE, 300)
    assert guided_speed_up(alpha, c, cell.hint_tokens) == pytest.approx(reached, rel=0.05)


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_lost_replica_costs_time_and_no_word(role: str) -> None:
    world = World(targets=2, drafts=1, users=4, num_requests=12)
    pool = world.cluster.target if role == "target" else world.cluster.draft
    world.clock.after(3.0, pool.engines[0].die)
    world.clock.after(9.0, lambda: pool.come_back(pool.engines[0]))
    world.run()
    assert world.cluster.counts.num_lost_calls


def test_a_hint_that_comes_during_a_pass_is_checked_in_the_next_one() -> None:
    writing = HintedWriting((), (*range(1, 41), END), 100, RULES, speculation="hints_only")
    assert writing.begin_pass() == 0
    writing.add_hints([tuple(range(1, 21))])
    assert writing.advance() == ((1,), None)
    assert writing.begin_pass() == 8
    assert writing.advance() == (tuple(range(2, 11)), None)


def test_the_newest_of_the_hints_that_come_during_a_pass_counts_first() -> None:
    writing = HintedWriting((), (1, 2, 40, 41, 42, END), 100, RULES, speculation="hints_only")
    writing.begin_pass()
    writing.add_hints([(1, 2, 30, 31)])
    writing.add_hints([(1, 2, 40, 41)])
    assert writing.advance() == ((1,), None)
    writing.begin_pass()
    assert writing.advance() == ((2, 40, 41, 42), None)


def test_what_was_written_nearby_is_checked_from_where_the_text_is() -> None:
    for near, num_checked in (((5, 6, 7, 8, 9, 10), 3), ((5, 6, 20, 8, 9, 10), 0)):
        writing = HintedWriting((5, 6, 7), (8, 9, 10, END), 100, RULES, speculation="hints_only")
        writing.add_hints((), [Nearby(near, 2)])
        assert writing.begin_pass() == num_checked


def test_hints_that_were_withdrawn_are_not_checked() -> None:
    writing = HintedWriting((), (*range(1, 41), END), 100, RULES, speculation="hints_only")
    writing.add_hints([tuple(range(1, 21))])
    assert writing.begin_pass() == 8
    writing.add_hints([tuple(range(1, 30))])
    writing.add_hints([])
    assert writing.advance() == (tuple(range(1, 10)), None)
    assert writing.begin_pass() == 0


def words() -> ReplayText:
    """Sixty tokens of which the draft has another one at every eleventh place."""
    vocabulary = Vocabulary()
    truth = tuple(vocabulary.id(f"w{at}\n" if at % 10 == 9 else f"w{at}") for at in range(60))
    text = ReplayText(vocabulary, truth)
    text.agrees = {at: at % 11 != 10 for at in range(61)}
    return text


def test_the_driver_is_as_fast_as_pipeline_and_roles() -> None:
    """The same words and costs through the production pipeline over the replaying engine, and here."""
    passes = [PassTimes(proposed=0, pass_s=[(1, 0.1)]), PassTimes(proposed=8, pass_s=[(1, 0.13)])]
    costs = (
        RoleCosts(model="t", passes=passes),
        RoleCosts(model="d", passes=[PassTimes(proposed=0, pass_s=[(1, 0.02)])]),
    )

    async def through_the_pipeline() -> float:
        text = words()
        target, draft = (
            ReplayEngine(text, (1,), PassCost(cost), is_draft=is_draft, rules=RULES)
            for cost, is_draft in zip(costs, (False, True), strict=True)
        )
        settings = SessionSettings("s", (1,), (1,), VOCABULARY, 10**6, rule=LINES)
        pipeline = Pipeline(GuidedSession(settings), Roles(TargetModel(target), Draft(draft)), Prompt(text=""))
        num_tokens = 0
        async with aclosing(pipeline.run()) as outputs:
            num_tokens = await _count(outputs)
        assert num_tokens == 61, "its end is a token"
        await asyncio.gather(target.shutdown(), draft.shutdown())
        return asyncio.get_running_loop().time()

    clock, ended = Clock(), list[Ended]()
    pools = Pool(clock, TARGET, 1), Pool(clock, DRAFT, 1), Pool(clock, DRAFT, 0)
    cluster = Cluster(clock, Decisions(SessionSettings("", (), (), "", 10**9, mode="target")), *pools)
    guiding = Guiding(4, RULES, lambda settings: (GuidedSession(settings), ()))
    GuidedRequest(cluster, guiding, 0, RecordedText(words()), 1, ended.append)
    while not ended:
        clock.tick()
    assert ended[0].ended_s == pytest.approx(run_virtually(through_the_pipeline()), rel=0.05)


async def _count(outputs: AsyncGenerator[Committed | Finished, None]) -> int:
    return sum([output.num_tokens async for output in outputs if isinstance(output, Committed)])


def test_a_scenario_runs_guided_requests_and_the_controller_decides_about_them() -> None:
    more = "speculation: {modes: [target, guided, guided_controlled]}\narrivals: {users: 2}\nduration_s: 20\n"
    more += "text: {num_steps: 6, mean_tokens: 20, token_alpha: 0.9}\n"
    cheap = parse_scenario("name: s\ntarget: {token_s: 0.02}\ndraft: {token_s: 0.003}\n" + more, "test")
    alone, guided, controlled = run_scenario(cheap)
    assert guided.tokens_per_s > 1.5 * alone.tokens_per_s
    assert controlled.tokens_per_s > 0.85 * guided.tokens_per_s
    assert guided.accept_rate is not None


def test_a_recorded_run_says_what_hints_give(tmp_path: Path) -> None:
    record(tmp_path)
    write_costs(tmp_path / "costs.yaml", costs())
    roles = "".join(f"{role}: {{costs: {tmp_path}/costs.yaml}}\n" for role in ("target", "draft"))
    more = f"text: {{recorded: {tmp_path}}}\nspeculation: {{modes: [target, guided]}}\narrivals: {{users: 1}}\n"
    scenario = parse_scenario("name: s\n" + roles + more + "duration_s: 60", "test")
    alone, guided = run_scenario(scenario)
    assert guided.num_requests > 3
    assert guided.tokens_per_s > 1.3 * alone.tokens_per_s


@pytest.mark.parametrize(
    "cells",
    [
        # What one user loses in a few steps is a matter of the words, from 1 to 5 %: so it is the mean of twelve texts.
        [GuidedCell(0.8, 0.25, 1.0, first_text=100 * number) for number in range(12)],
        [GuidedCell(0.8, 0.1, 1.0, 8)],
        [GuidedCell(0.5, 0.1, 1.0, 8)],
    ],
)
def test_the_controller_leaves_hints_where_they_cost_more_than_they_give(cells: list[GuidedCell]) -> None:
    rows = [compare(cell, 35) for cell in cells]
    assert mean(row.guided for row in rows) < 0.9
    assert mean(row.controlled for row in rows) > 0.97


def test_the_controller_keeps_hints_where_they_pay() -> None:
    row = compare(GuidedCell(0.8, 0.1, 0.0, 8), 35)
    assert row.guided > 2.0
    assert row.controlled > 0.95 * row.guided
