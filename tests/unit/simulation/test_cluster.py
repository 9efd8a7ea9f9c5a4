"""A simulated cluster: its decisions are the session's, its requests survive, and time is what the costs give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings, SpecReasonOptions
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Cluster, Crossing, Ended, Pool
from deployments.simulation.costs import EngineCost, linear_cost
from deployments.simulation.decisions import Decisions
from deployments.simulation.driver import measure_fast
from deployments.simulation.passages import Passages
from deployments.simulation.request import Request
from deployments.simulation.scripts import RandomScript
from deployments.simulation.workload import HintGain, Machine

TARGET, DRAFT, VERDICT_S = linear_cost(0.03, 0.05), linear_cost(0.005, 0.05), 0.11


def text(number: int) -> RandomScript:
    return RandomScript(number + 1, 20, 0.6, 20.0, 0.5, 0.3)


def settings(mode: str, depth: int = 3, verifier: str | None = "v", hints: bool = False) -> SessionSettings:
    speculation = "hints" if hints else "none"
    return SessionSettings(
        "",
        (),
        (),
        "",
        10**9,
        mode=mode,
        max_lookahead=depth,
        verifier=verifier,
        spans=False,
        token_speculation=speculation,
        num_nearby_hints=0,
    )


class World:
    """Users on a cluster, each one request after another."""

    def __init__(
        self,
        mode: str = "lookahead",
        *,
        users: int = 3,
        targets: int = 1,
        drafts: int = 1,
        target: EngineCost = TARGET,
        verifier: str | None = "v",
        num_requests: int = 30,
        network_s: float = 0.0,
        gain: HintGain | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self.clock = Clock()
        self.ended: list[Ended] = []
        self.passages = Passages(text)
        self.num_begun, self.num_requests = 0, num_requests
        verdict = EngineCost(((1, VERDICT_S),))
        self.decisions = decisions or Decisions(settings(mode, verifier=verifier, hints=gain is not None))
        self.cluster = Cluster(
            self.clock,
            self.decisions,
            Pool(self.clock, target, targets),
            Pool(self.clock, DRAFT, drafts),
            Pool(self.clock, verdict, 1),
            network_s=network_s,
            hint_gain=gain or HintGain(),
        )
        for _ in range(users):
            self.ask()

    def ask(self, before: Ended | None = None) -> None:
        if before is not None:
            self.ended.append(before)
        if self.num_begun < self.num_requests:
            number, self.num_begun = self.num_begun, self.num_begun + 1
            Request(
                self.cluster,
                number,
                self.passages.of(number),
                10,
                lambda end: self.clock.after(0, lambda: self.ask(end)),
            )

    def run(self) -> float:
        """To the end of all requests; tokens a second until then."""
        while len(self.ended) < self.num_requests:
            self.clock.tick()
        for end in self.ended:
            assert not end.failed
            assert end.num_tokens == self.passages.of(end.number).ends[-1]
            assert end.num_accepted + end.num_recovered + end.num_own == 20
        assert all(engine.num_works == 0 for engine in self.cluster.target.engines + self.cluster.draft.engines)
        return self.cluster.counts.num_committed_tokens / self.clock.now


@pytest.mark.parametrize(("mode", "verifier"), [("lookahead", "v"), ("lookahead", None), ("lookahead_sync", "v")])
def test_the_learnt_decisions_are_as_fast_as_the_session_itself(mode: str, verifier: str | None) -> None:
    """The other driver runs a whole session for each request; only chance is left between the two."""
    direct = measure_fast(
        Machine(TARGET, DRAFT, VERDICT_S),
        settings(mode, verifier=verifier),
        3,
        300,
        text,
        lambda env: lambda chosen: (Session(chosen), ()),
    )
    world = World(mode, verifier=verifier, num_requests=10**9)
    while world.cluster.counts.num_committed < 300:
        world.clock.tick()
    assert world.cluster.counts.num_committed_tokens / world.clock.now == pytest.approx(direct.tokens_per_s, rel=0.02)


def test_specreason_waits_for_scores_and_the_target_writes_what_fails() -> None:
    world = World("specreason")
    world.run()
    assert all(end.num_recovered and end.num_accepted for end in world.ended)


def test_learning_order_changes_nothing() -> None:
    """A table that knows everything already decides as one that learns on the way."""
    world = World()
    first = world.run()
    known = world.decisions
    assert known.num_states > 20
    again = World(decisions=known)
    assert again.run() == first


def test_decisions_that_depend_on_more_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="SpecReason"):
        Decisions(replace(settings("specreason"), specreason=SpecReasonOptions(num_target_steps=2)))
    with pytest.raises(ValueError, match="branches"):
        Decisions(replace(settings("lookahead"), branches=2))


def test_without_drafts_requests_go_on_alone_and_take_them_up_again() -> None:
    world = World(drafts=2, num_requests=60)
    pool = world.cluster.draft
    for engine in pool.engines:
        world.clock.after(5.0, engine.die)
        world.clock.after(60.0, lambda engine=engine: pool.come_back(engine))
    world.clock.run_until(59.0)
    drafted = world.cluster.counts.num_draft_steps
    assert drafted
    world.run()
    assert any(end.num_accepted == 0 and end.started_s > 5.0 for end in world.ended)
    assert world.cluster.counts.num_draft_steps > drafted


def test_a_draft_that_wrote_since_is_asked_again_as_soon_as_after_its_first_loss() -> None:
    world = World(users=0)
    clock, pool = world.clock, world.cluster.draft
    (engine,) = pool.engines
    Request(world.cluster, 0, Passages(lambda _: RandomScript(1, 400, 0.6, 20.0)).of(0), 10, lambda _: None)
    for dies_s, back_s in ((5.0, 25.0), (60.0, 61.5)):
        clock.after(dies_s, engine.die)
        clock.after(back_s, lambda: pool.come_back(engine))
    clock.run_until(61.4)
    drafted = world.cluster.counts.num_draft_steps
    clock.run_until(70.0)
    assert world.cluster.counts.num_draft_steps > drafted + 5


@pytest.mark.parametrize("mode", ["lookahead", "target"])
def test_requests_of_a_dead_target_go_on_from_their_committed_steps_elsewhere(mode: str) -> None:
    world = World(mode, targets=3, users=6)
    world.clock.after(7.0, world.cluster.target.engines[1].die)
    world.run()
    assert world.cluster.counts.num_lost_calls
    assert world.cluster.counts.num_committed == 20 * 30


def test_where_no_target_lives_requests_wait_for_one() -> None:
    world = World(users=2, num_requests=6)
    pool = world.cluster.target
    world.clock.after(3.0, pool.engines[0].die)
    world.clock.run_until(20.0)
    done = world.cluster.counts.num_committed
    world.clock.run_until(40.0)
    assert world.cluster.counts.num_committed == done
    world.clock.after(0.0, lambda: pool.come_back(pool.engines[0]))
    world.run()


def test_prompts_that_are_not_cached_cost_time_and_cached_ones_none() -> None:
    reading = EngineCost(TARGET.pass_s, prefill_token_s=0.1)
    plain, read = World("target", users=1, num_requests=3), World("target", users=1, num_requests=3, target=reading)
    plain.run()
    read.run()
    assert read.clock.now == pytest.approx(plain.clock.now + 3 * 10 * 0.1)


def test_a_network_slows_a_stream_of_steps_by_its_way() -> None:
    near, far = World(users=1), World(users=1, network_s=0.05)
    assert near.run() > far.run() * 1.05


def test_a_stream_waits_for_the_network_at_its_beginning_and_end_only() -> None:
    near, far = (World("target", users=1, num_requests=1, network_s=way_s) for way_s in (0.0, 0.05))
    near.run()
    far.run()
    assert far.clock.now == pytest.approx(near.clock.now + 2 * 0.05)


def test_a_long_part_of_a_text_crosses_to_a_role_once() -> None:
    crossing = Crossing(200)
    assert [crossing.of_call("target", number) for number in (0, 1000, 1100, 1150)] == [200, 1200, 1300, 326]
    assert crossing.of_call("draft", 1150) == 1350
    long = Crossing(3000)
    assert [long.of_call("target", number) for number in (0, 10)] == [3000, 10]


def test_a_hint_makes_the_target_faster() -> None:
    gain = HintGain(2.0, 2.0, 2.0)
    assert World(users=1, gain=gain).run() > 1.2 * World(users=1).run()
