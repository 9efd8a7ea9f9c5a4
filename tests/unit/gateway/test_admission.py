"""What is let in, what waits and what is refused, on a virtual clock over servers that are made up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from actors.errors import CapacityError, DeadlineExceeded
from deployments.gateway.admission import Admission, Bounds, Ticket
from deployments.gateway.fair_queue import Wish

ROOMY = Bounds(64, 8, 640, 256, 2_000_000, 30.0)
TICK_S = 0.04
SIZE = 100
"""Tokens that a request of the made-up servers writes, on average."""

Speed = Callable[[int], float]
"""Tokens a second of each of so many requests that run."""


def seats(running: int) -> float:
    """Eight at once, 50 tokens a second each; more wait inside."""
    return 50.0 * min(1.0, 8 / running)


def shared(running: int) -> float:
    """One processor of 1000 tokens a second; one request alone makes 100."""
    return min(100.0, 1000.0 / running)


def batch(running: int) -> float:
    """A batch that grows slower by the request."""
    return 40.0 / (1 + running / 32)


def thrashing(running: int) -> float:
    """A cache that is too small for more than 40."""
    return 40.0 if running <= 40 else 40.0 * (40 / running) ** 2


def peak(speed: Speed) -> float:
    """The most tokens a second that a server makes."""
    return max(number * speed(number) for number in range(1, 641))


@dataclass
class World:
    """A server behind an `Admission`, in steps of time."""

    speed: Speed
    admission: Admission = field(default_factory=lambda: Admission(ROOMY))
    now: float = 0.0
    good: Counter[str] = field(default_factory=Counter)
    """Tokens of requests that ended in time, by holder."""
    late: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    """Tokens that were asked for, by holder."""
    refusals: list[tuple[float, str, CapacityError]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    _left: dict[Ticket, float] = field(default_factory=dict)
    _rest: dict[Ticket, float] = field(default_factory=dict)

    def ask(self, holder: str, size: int, expected: int, timeout_s: float, weight: float = 1.0) -> None:
        self.asked[holder] += size
        try:
            longest = self.admission.needs.longest(holder, None)
            wish = Wish(holder, expected, deadline=self.now + timeout_s, weight=weight, longest=longest)
            ticket = self.admission.ask(wish, self.now)
        except CapacityError as error:
            self.refusals.append((self.now, holder, error))
            return
        self._rest[ticket] = size
        if ticket.began is not None:
            self._left[ticket] = size

    def call(self) -> None:
        for ticket, error in self.admission.turns(self.now):
            if error is None:
                self._left[ticket] = self._rest[ticket]
                self.waits.append(self.now - ticket.came)
            else:
                self.admission.leave(ticket, self.now)

    def step(self) -> None:
        self.now += TICK_S
        self.call()
        speed = self.speed(max(1, len(self._left)))
        for ticket, left in list(self._left.items()):
            made = min(left, speed * TICK_S)
            self._left[ticket] = left - made
            whole = int(self._rest[ticket] - left + made) - ticket.num_tokens
            self.admission.add(ticket, whole, self.now, whole)
            if left <= made or self.now > ticket.wish.deadline:
                self._end(ticket, is_late=self.now > ticket.wish.deadline)

    def _end(self, ticket: Ticket, is_late: bool) -> None:
        del self._left[ticket]
        if is_late:
            self.late += 1
            self.admission.needs.cut_off(ticket.wish.holder, ticket.num_tokens, ticket.wish.num_tokens)
        else:
            self.good[ticket.wish.holder] += ticket.num_tokens
            self.admission.needs.ended(ticket.wish.holder, ticket.num_tokens)
            self.admission.end_one(ticket, self.now)
        self.admission.leave(ticket, self.now)
        self.call()

    def run(self, seconds: float, load: float, timeout_s: float, holders: dict[str, float], seed: int = 0) -> None:
        """`load` tokens a second are asked for, by `holders` in these shares."""
        dice = random.Random(seed)
        end = self.now + seconds
        chance = load / SIZE * TICK_S
        while self.now < end:
            for _ in range(int(chance) + (dice.random() < chance % 1)):
                holder = dice.choices(list(holders), list(holders.values()))[0]
                size = dice.randint(SIZE // 2, SIZE * 3 // 2)
                self.ask(holder, size, self.admission.needs.expected(holder, 0, 0, None), timeout_s)
            self.step()


def goodput(speed: Speed, load: float, timeout_s: float, seeds: Sequence[int]) -> tuple[int, int]:
    """Tokens of requests that ended in time during 30 s, after 30 s of the same; and how many ended late."""
    good = late = 0
    for seed in seeds:
        world = World(speed)
        world.run(30.0, load, timeout_s, {"a": 1.0}, seed=2 * seed)
        world.good.clear()
        before = world.late
        world.run(30.0, load, timeout_s, {"a": 1.0}, seed=2 * seed + 1)
        good, late = good + world.good.total(), late + world.late - before
    return good, late


@pytest.mark.parametrize("speed", [seats, shared, batch, thrashing])
def test_at_twenty_times_its_capacity_a_server_does_as_much_as_at_its_best(speed: Speed) -> None:
    seeds = (0, 1) if speed is batch else (0,)  # its limit wanders: no number at once is its best
    reached, num_late = goodput(speed, 20.0 * peak(speed), 60.0, seeds)
    best, _ = goodput(speed, 1.0 * peak(speed), 60.0, seeds)
    assert reached >= 0.95 * best
    assert num_late == 0


def full_engine(running: int) -> float:
    """100 tokens a second, however many share them."""
    return 100.0 / running


@pytest.mark.parametrize(("speed", "timeout_s"), [(full_engine, 10.0), (shared, 4.0), (batch, 8.0), (seats, 5.0)])
def test_with_short_time_limits_nothing_is_begun_that_ends_late(speed: Speed, timeout_s: float) -> None:
    """As many as run at first would all be late: with an engine that is full, 64 at once take 64 times as long."""
    seeds = (1,) if speed in (shared, batch) else (0, 1)
    found = {load: goodput(speed, load * peak(speed), timeout_s, seeds) for load in (1.0, 5.0, 20.0)}
    best = max(good for good, _ in found.values())
    assert found[20.0][0] >= (0.85 if speed is batch else 0.95) * best
    for good, num_late in found.values():
        assert num_late * SIZE <= 0.05 * good
    # A batch of which each request may take three times as long as alone is far from full.
    assert best >= (0.4 if speed is batch else 0.85) * 30.0 * len(seeds) * peak(speed)


def test_a_burst_on_a_server_that_knows_nothing_costs_one_time_limit() -> None:
    world = World(full_engine)
    world.run(12.0, 20 * 100.0, 10.0, {"a": 1.0})
    assert world.late > 25, "nobody could know"
    world.late = 0
    world.good.clear()
    world.run(40.0, 20 * 100.0, 10.0, {"a": 1.0})
    assert world.late <= 60, "the rest of those that were begun before anything was known"
    assert world.good.total() >= 0.7 * 40 * 100


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_time_limit_that_is_short_by_itself_holds_nobody_back(share: float) -> None:
    """An engine on which others cost nothing: to wait would not help, not even those who have too little time."""
    world = World(lambda _: 50.0)
    world.run(30.0, 1000.0, share * 1.3 * 1.5 * SIZE / 50.0, {"a": 1.0})
    assert len(world.refusals) * SIZE <= 0.06 * world.asked.total()
    assert (world.late > 0) == (share < 1)


@pytest.mark.parametrize("speed", [seats, shared, batch])
def test_a_lightly_loaded_server_lets_everybody_in_at_once(speed: Speed) -> None:
    world = World(speed)
    world.run(30.0, 0.5 * peak(speed), 60.0, {"a": 1.0})
    assert not world.waits
    assert not world.refusals


def test_one_who_floods_takes_nothing_from_others() -> None:
    world = World(shared)
    world.run(20.0, 20_000.0, 60.0, {"flood": 1.0})
    before = Counter(world.good)
    # "calm" asks for 30 % of the server, and the flood for 20 times as much as there is.
    world.run(60.0, 20_300.0, 60.0, {"flood": 20_000.0, "calm": 300.0}, seed=2)
    assert "calm" not in {holder for _, holder, _ in world.refusals}
    assert world.good["calm"] >= 0.9 * world.asked["calm"]  # the rest still runs
    assert world.good.total() - before.total() >= 0.9 * 1000 * 60


def test_a_refusal_says_truly_when_what_waits_will_be_done() -> None:
    world = World(seats, Admission(Bounds(8, 8, 8, 256, 4_000, 1000.0)))
    world.run(20.0, 4_000.0, 1000.0, {"a": 1.0})
    last = max(world.admission._tickets)  # whoever waits longest from now on
    refused_at, _, error = world.refusals[-1]
    assert error.status == 429
    while last in world.admission._tickets:
        world.step()
    assert world.now - refused_at == pytest.approx(error.retry_after_s, rel=0.35)


@pytest.mark.parametrize("num_generations", [1, 4])
def test_a_large_request_waits_for_a_place_and_not_for_as_long_as_it_needs_itself(num_generations: int) -> None:
    """Four small ones run, one of which ends every quarter of a second; nobody waits."""
    admission, now = Admission(Bounds(4, 4, 4, 256, 2_000_000, 30.0)), 0.0
    small = [admission.ask(Wish("small", 100), now) for _ in range(4)]
    for _ in range(40):
        now += 0.25
        admission.add(small[0], 100, now, 100)
        admission.leave(small.pop(0), now)
        small.append(admission.ask(Wish("small", 100), now))
    assert admission.rate() == pytest.approx(400.0, rel=0.1)
    with pytest.raises(CapacityError) as refusal:
        admission.ask(Wish("large", 15_000, num_generations, deadline=now + 0.1), now)
    assert refusal.value.retry_after_s == 1.0
    large = admission.ask(Wish("large", 15_000, num_generations), now)
    assert large.began is None
    while small:
        admission.leave(small.pop(0), now)
    assert [ticket for ticket, _ in admission.turns(now)] == [large]
    admission.leave(large, now)
    assert not +admission._begun


def test_what_cannot_end_in_time_is_refused_at_once() -> None:
    world = World(seats, Admission(Bounds(8, 8, 8, 256, 1_000_000, 1000.0)))
    world.run(20.0, 2_000.0, 1000.0, {"a": 1.0})
    with pytest.raises(
        CapacityError, match=r"would wait about .* seconds for its turn, and not end in the 3\.0 seconds"
    ):
        world.admission.ask(Wish("a", SIZE, deadline=world.now + 3.0), world.now)
    assert world.admission.refused["deadline"] == 1


def test_the_bound_is_on_the_wait_that_is_expected_and_who_is_overtaken_waits_longer() -> None:
    """Until his time limit: load balancers are to be told of that one, not of `max_wait_s`."""
    world = World(seats, Admission(Bounds(8, 8, 8, 256, 1_000_000, 5.0)))
    world.run(20.0, 400.0, 60.0, {"usual": 1.0})
    low = world.admission.ask(Wish("batch", SIZE, rank=1, deadline=world.now + 30.0), world.now)
    assert low.began is None
    world.run(20.0, 500.0, 60.0, {"usual": 1.0})
    assert low.began is None
    assert low.number in world.admission._tickets


def full(bounds: Bounds) -> Admission:
    """As much runs as may."""
    admission = Admission(bounds)
    for _ in range(bounds.first_running):
        admission.ask(Wish("a", 100), 0.0)
    return admission


def test_bounds_by_number_by_tokens_and_by_share() -> None:
    admission = full(Bounds(2, 2, 2, 8, 1000, 30.0))
    for _ in range(4):
        admission.ask(Wish("a", 10), 0.0)
    with pytest.raises(CapacityError, match="4 requests of the same key, or of none as well, of about 40 tokens"):
        admission.ask(Wish("a", 10), 0.0)
    admission.ask(Wish("b", 900), 0.0)
    with pytest.raises(CapacityError, match="about 940 tokens wait"):
        admission.ask(Wish("c", 100), 0.0)
    for name in "cde":
        admission.ask(Wish(name, 1), 0.0)
    with pytest.raises(CapacityError, match="8 requests wait"):
        admission.ask(Wish("f", 1), 0.0)
    assert admission.refused == {"share": 1, "tokens": 1, "number": 1}
    assert (admission.num_waiting, admission.waiting_tokens, admission.num_running) == (8, 943, 2)


def test_more_urgent_requests_of_a_key_find_room_behind_its_others() -> None:
    admission = full(Bounds(1, 1, 1, 8, 1000, 30.0))
    for _ in range(4):
        admission.ask(Wish("a", 10, rank=5), 0.0)
    ticket = admission.ask(Wish("a", 10), 0.0)
    assert ticket.began is None


def test_who_leaves_makes_room_and_who_waits_too_long_is_told() -> None:
    admission = Admission(Bounds(2, 2, 2, 8, 1000, 30.0))
    runs = [admission.ask(Wish("a", 10), 0.0) for _ in range(2)]
    first, second, third = (admission.ask(Wish("a", 10, deadline=limit), 0.0) for limit in (9.0, 1.0, 9.0))
    assert admission.turns(0.5) == []
    error = admission.give_up(second, 1.0)
    assert isinstance(error, DeadlineExceeded)
    assert "waited 1.0 seconds" in error.message
    admission.leave(first, 1.5)
    for _ in range(2):
        admission.leave(runs[0], 2.0)
    assert admission.turns(2.0) == [(third, None)]
    assert third.began == 2.0
    assert (admission.num_waiting, admission.num_running) == (0, 2)


def test_one_that_asks_for_more_than_there_is_begins_beside_others_and_counts() -> None:
    admission = Admission(Bounds(2, 2, 2, 8, 1000, 30.0))
    small = admission.ask(Wish("a", 10), 0.0)
    large = admission.ask(Wish("a", 10, num_generations=4), 0.0)
    assert (large.began, admission.num_running) == (0.0, 5)
    others = [admission.ask(Wish("a", 10, num_generations=number), 0.0) for number in (4, 1)]
    admission.leave(small, 1.0)
    assert admission.turns(1.0) == []
    admission.leave(large, 2.0)
    assert admission.turns(2.0) == [(others[0], None)]
    assert admission.ask(Wish("a", 10), 2.0).began is None


@pytest.mark.parametrize(("bounds", "num_generations"), [((64, 8, 64), 100), ((64, 8, 64), 62), ((8, 8, 64), 16)])
def test_one_request_of_many_generations_keeps_nobody_waiting_where_there_is_room(
    bounds: tuple[int, int, int], num_generations: int
) -> None:
    """Three that run for minutes are no reason for it to wait, and it is none for others once few of it are left."""
    admission = Admission(Bounds(*bounds, 256, 2_000_000, 30.0))
    for _ in range(3):
        admission.ask(Wish("chat", 100), 0.0)
    wide = admission.ask(Wish("batch", 100, num_generations=num_generations), 0.0)
    assert (wide.began, admission.num_running) == (0.0, 3 + num_generations)
    last = admission.ask(Wish("chat", 100), 0.0)
    assert last.began is None, "more run than may"
    for _ in range(3 + num_generations - admission.limit):
        assert admission.turns(1.0) == []
        admission.end_one(wide, 1.0)
    assert admission.turns(1.0) == []
    admission.end_one(wide, 1.0)
    assert admission.turns(1.0) == [(last, None)]
    assert admission.num_running == admission.limit
    for _ in range(2):
        admission.leave(wide, 2.0)
    admission.end_one(wide, 2.0)
    assert admission.num_running == 4


def test_one_request_of_many_generations_begins_once_half_is_free_whoever_came_later() -> None:
    admission = Admission(Bounds(8, 8, 8, 256, 2_000_000, 30.0))
    running = [admission.ask(Wish("a", 10), 0.0) for _ in range(8)]
    wide = admission.ask(Wish("a", 10, num_generations=100), 0.0)
    later = admission.ask(Wish("a", 10), 0.0)
    for ticket in running[:3]:
        admission.leave(ticket, 1.0)
        assert admission.turns(1.0) == []
    admission.leave(running[3], 1.0)
    assert admission.turns(1.0) == [(wide, None)]
    assert admission.num_running == 104
    admission.leave(wide, 2.0)
    assert admission.turns(2.0) == [(later, None)]


def test_what_a_holder_really_writes_is_learnt() -> None:
    needs = Admission(ROOMY).needs
    assert needs.expected("a", 400, 0, None) == 100 + 512
    assert needs.expected("a", 0, 30, 2000) == 2030
    for _ in range(60):
        needs.ended("a", 50)
        needs.read(300, 150)
    assert needs.expected("a", 400, 0, 2000) == pytest.approx(200 + 50, abs=5)
    assert needs.expected("a", 0, 0, 20) == 20
    assert needs.expected("b", 0, 0, 2000) == 50
    assert needs.longest("a", 2000) == pytest.approx(50, abs=1)
    assert needs.longest("a", 20) == 20


def test_what_ran_out_of_time_counts_until_something_has_ended() -> None:
    needs = Admission(ROOMY).needs
    assert needs.longest("a", 2000) is None
    needs.cut_off("a", 3, 16)
    assert needs.longest("a", 2000) == 16
    needs.cut_off("a", 3, 4000)
    assert needs.longest("a", 2000) == 30, "nobody knows how many of the 4000 it would have written"
    needs.ended("a", 100)
    assert needs.longest("a", 2000) == 150
    needs.cut_off("a", 3, 16)
    assert needs.expected("a", 0, 0, None) == 100


def test_what_was_let_in_before_goes_on_whoever_waits_and_counts() -> None:
    admission = Admission(Bounds(1, 1, 1, 1, 1000, 30.0))
    running, waiting = (admission.ask(Wish("a", 10), 0.0) for _ in range(2))
    assert waiting.began is None
    back = admission.go_on(Wish("a", 10, num_generations=2), 1.0)
    assert (back.began, admission.num_running) == (1.0, 3)
    admission.leave(running, 2.0)
    assert admission.turns(2.0) == []
    admission.leave(back, 3.0)
    assert admission.turns(3.0) == [(waiting, None)]
