"""The policy on its own: every clock and reading is made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.autoscaling.policy import Policy, Reading, RoleRules, Rules

UP_S, DOWN_S = 5.0, 30.0
PLAN = Rules(
    roles={
        "target": RoleRules(max_replicas=64, load=16),
        "draft": RoleRules(min_replicas=0, max_replicas=64, load=32, per_target=0.25),
        "verifier": RoleRules(min_replicas=0, max_replicas=16, load=64),
        "coordinator": RoleRules(max_replicas=8, load=200),
        "gateway": RoleRules(max_replicas=8, load=200),
    },
    up_delay_s=UP_S,
    down_delay_s=DOWN_S,
)
SPECULATES = {"target": 3.0, "draft": 1.0, "verifier": 0.25}
"""Calls in flight of each request that looks ahead two deep."""


class World:
    """A deployment whose replicas are there `starts_s` after they are wanted."""

    def __init__(self, rules: Rules = PLAN, starts_s: float = 20.0) -> None:
        self.policy = Policy(rules)
        self.wanted = {name: role.min_replicas for name, role in rules.roles.items()}
        self.now_s = 0.0
        self._starts_s = starts_s
        self._since = {name: (-1e9, n) for name, n in self.wanted.items()}

    def ready(self, name: str) -> int:
        since, before = self._since[name]
        return self.wanted[name] if self.now_s - since >= self._starts_s else min(before, self.wanted[name])

    def decide(self, requests: float, fan_out: dict[str, float] | None = None, **target: float) -> dict[str, int]:
        """One second goes by, with so many requests in flight."""
        self.now_s += 1.0
        calls = SPECULATES if fan_out is None else fan_out
        asked = {"requests": requests, "speculating": requests, "waiting_tokens": target.pop("waiting_tokens", 0.0)}
        asked |= {f"{name}_calls": requests * calls[name] if self.ready(name) else 0.0 for name in calls}
        if not self.ready("draft"):
            asked["target_calls"] = requests
        gateway = {name: target.pop(name, 0.0) for name in ("waiting_generations", "refused_generations")}
        stats = {"coordinator": asked, "gateway": gateway, "target": {"running": asked["target_calls"], **target}}
        readings = {name: Reading(self.wanted[name], self.ready(name), stats.get(name, {})) for name in self.wanted}
        for name, number in self.policy.decide(self.now_s, readings).items():
            if number != self.wanted[name]:
                self._since[name] = (self.now_s, self.ready(name))
            self.wanted[name] = number
        return dict(self.wanted)

    def run(self, seconds: int, load: Callable[[float], float]) -> Iterator[dict[str, int]]:
        for _ in range(seconds):
            yield self.decide(load(self.now_s))


def changes(numbers: list[int]) -> list[int]:
    return [after - before for before, after in pairwise(numbers) if after != before]


@settings(max_examples=25, deadline=None)
@given(
    requests=st.integers(0, 600),
    start=st.integers(0, 64),
    fan_out=st.floats(1.0, 6.0),
    noise=st.lists(st.floats(-0.08, 0.08), min_size=40, max_size=40),
)
def test_a_constant_load_never_makes_it_oscillate(
    requests: int, start: int, fan_out: float, noise: list[float]
) -> None:
    """Whatever it starts from, and with noise on the count: no role goes up and down."""
    world = World(starts_s=7.0)
    world.wanted |= {"target": max(start, 1), "draft": start}
    seen = [world.decide(requests * (1 + noise[i % 40]), {**SPECULATES, "target": fan_out}) for i in range(200)]
    for name in world.wanted:
        moves = changes([numbers[name] for numbers in seen])
        # The fan-out is learnt while the first replicas start, so the way there may have several parts. Then: rest.
        assert all(move > 0 for move in moves) or all(move < 0 for move in moves[1:]), (name, moves)
        assert not changes([numbers[name] for numbers in seen[150:]])


def test_ten_times_the_load_has_its_replicas_at_once_and_all_roles_grow_together() -> None:
    world = World()
    list(world.run(120, lambda _: 16))
    before = dict(world.wanted)
    seen = list(world.run(int(UP_S) + 2, lambda _: 160))
    assert before["target"] == 3  # 16 requests of three sequences, 16 a replica
    assert seen[-1]["target"] == 30
    assert seen[-1]["draft"] == 8  # a quarter of the targets, though its own calls would fit in five
    assert [changes([numbers[name] for numbers in seen]) for name in ("target", "draft")] == [[27], [7]]


def test_a_saturated_target_that_looks_ahead_less_still_gets_what_its_requests_want() -> None:
    world = World()
    list(world.run(120, lambda _: 16))
    for _ in range(10):  # the controller lets all go alone, until there is room
        world.decide(160, {**SPECULATES, "target": 1.0, "draft": 0.0})
    assert world.wanted["target"] >= 25


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.0, 0.4), min_size=1, max_size=8))
def test_falling_load_takes_replicas_away_one_way_and_never_below_what_runs(falls: list[float]) -> None:
    world = World(starts_s=0.0)
    list(world.run(80, lambda _: 200))
    load, seen = 200.0, []
    for fall in falls:
        load *= 1 - fall
        for _ in range(40):
            seen.append(world.decide(load)["target"])
            assert seen[-1] >= ceil(load * 3.0 / 16 - 1e-6)
    assert all(move < 0 for move in changes(seen))


def test_a_short_lull_takes_nothing_away() -> None:
    world = World()
    list(world.run(100, lambda _: 100))
    seen = [numbers["target"] for numbers in world.run(300, lambda now: 0 if now % 50 < 15 else 100)]
    assert not changes(seen)


def test_a_short_burst_adds_nothing() -> None:
    world = World()
    list(world.run(100, lambda _: 10))
    assert not changes([numbers["target"] for numbers in world.run(200, lambda now: 90 if now % 40 < 4 else 10)])


def test_draft_and_verifier_go_when_nobody_speculates_and_come_back_at_once() -> None:
    world = World()
    list(world.run(80, lambda _: 8))
    assert (world.wanted["draft"], world.wanted["verifier"]) == (1, 1)
    *_, idle = world.run(int(DOWN_S) + 2, lambda _: 0)
    assert idle == {"target": 1, "draft": 0, "verifier": 0, "coordinator": 1, "gateway": 1}
    woken = world.decide(1)
    assert (woken["draft"], woken["verifier"], woken["target"]) == (1, 1, 1)


def test_the_target_is_never_without_a_replica_and_no_role_above_its_most() -> None:
    world = World()
    seen = [*world.run(200, lambda _: 1e6), *world.run(200, lambda _: 0)]
    assert {numbers["target"] for numbers in seen} == {1, 64}


@pytest.mark.parametrize(("stats", "expected"), [({"cache_use": 1.8}, 2), ({"waiting": 70.0}, 5), ({}, 1)])
def test_a_full_cache_and_what_waits_in_the_engine_count(stats: dict[str, float], expected: int) -> None:
    world = World()
    for _ in range(10):
        world.decide(2, None, **stats)
    assert world.wanted["target"] == expected


def test_prompts_that_wait_count_by_their_tokens() -> None:
    reads = replace(PLAN.roles["target"], tokens_per_s=1000.0)
    world = World(replace(PLAN, roles={**PLAN.roles, "target": reads}))
    for _ in range(10):
        world.decide(2, waiting_tokens=20_000)
    assert world.wanted["target"] == 4  # 20,000 tokens at 1,000 a second, to be read within five


def test_rules_out_of_plain_data_are_the_same() -> None:
    assert Rules.from_dict(asdict(PLAN)) == PLAN


def hold_back(world: World, seconds: int, requests: float, waiting: float, refused: float) -> dict[str, int]:
    """So many in flight, while a gateway lets others wait and refuses them."""
    for _ in range(seconds):
        world.decide(requests, waiting_generations=waiting, refused_generations=refused)
    return dict(world.wanted)


def test_what_gateways_let_wait_counts_as_what_they_let_in() -> None:
    """Requests in flight stay as many, because the gateway lets no more in."""
    all_in = World()
    for _ in range(100):
        all_in.decide(64)
    assert hold_back(World(), 100, 16, 48, 0) == all_in.wanted
    assert all_in.wanted["target"] >= 12
    assert hold_back(World(), 100, 16, 0, 0)["target"] <= 4


def test_what_gateways_refuse_doubles_what_is_there_until_nothing_is_refused() -> None:
    """A client that is refused and asks at once again is counted many times, and all the same gets what it needs."""
    world, seen = World(starts_s=20.0), []
    world.wanted["target"] = 4
    for _ in range(300):
        is_enough = world.ready("target") >= 10
        refused = 0.0 if is_enough else 10_000.0
        seen.append(hold_back(world, 1, 50 if is_enough else 20, 0, refused)["target"])
    assert changes(seen) == [4, 8, -4]  # the last once it is known how many there are: a fifth of 12 stays free


@settings(max_examples=25, deadline=None)
@given(
    demand=st.integers(0, 200),
    place=st.floats(2.0, 8.0),
    waits=st.floats(0.0, 1.0),
    noise=st.lists(st.floats(-0.08, 0.08), min_size=40, max_size=40),
)
def test_a_constant_demand_never_makes_it_oscillate_however_little_of_it_is_let_in(
    demand: int, place: float, waits: float, noise: list[float]
) -> None:
    """A gateway lets in `place` requests a target, whatever its `load` says, and lets some of the rest wait."""
    world, seen = World(starts_s=7.0), []
    for second in range(250):
        asked = demand * (1 + noise[second % 40])
        let_in = min(asked, place * world.ready("target"))
        seen += [hold_back(world, 1, let_in, waits * (asked - let_in), (1 - waits) * (asked - let_in))]
    for name in world.wanted:
        moves = changes([numbers[name] for numbers in seen])
        assert moves == sorted(moves, key=lambda move: move < 0), (
            name,
            moves,
        )  # what it takes away it never wants back
        assert not changes([numbers[name] for numbers in seen[200:]])


def test_after_what_was_refused_the_replicas_go_again() -> None:
    world = World()
    assert hold_back(world, 100, 16, 16, 16)["target"] > 8
    assert hold_back(world, int(DOWN_S) + 40, 0, 0, 50)["target"] == 1  # nothing runs: there is room for it
