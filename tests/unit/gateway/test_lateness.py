"""Whose answers are late, and for whom that counts."""

from __future__ import annotations

import pytest

from deployments.gateway.admission import Admission, Bounds
from deployments.gateway.fair_queue import Wish
from deployments.gateway.lateness import RECENT_S, Lateness

LIMIT_S = 2.0


@pytest.mark.parametrize(
    ("num_ended", "left_at", "mean"),
    [
        (2, 0.97, 0.97),  # both of its answers are whole
        (1, 1.0, 1.0),  # one of them is not, when its time is over
        (0, 1.0, 1.0),
        (1, 0.97, 0.0),  # its client went away
        (0, 0.97, 0.0),
    ],
)
def test_only_answers_and_what_had_none_in_time_count(num_ended: int, left_at: float, mean: float) -> None:
    admission = Admission(Bounds(4, 4, 4, 256, 2_000_000, 30.0))
    for number in range(60):
        now = number * LIMIT_S
        ticket = admission.ask(Wish("a", 10, num_generations=2, deadline=now + LIMIT_S), now)
        assert ticket.began == now
        for _ in range(num_ended):
            admission.end_one(ticket, now + 0.97 * LIMIT_S)
        for _ in range(2):
            admission.leave(ticket, now + left_at * LIMIT_S)
    assert admission._concurrency.lateness.mean() == pytest.approx(mean, abs=0.01)


def test_who_sends_most_moves_the_mean_no_more_than_others() -> None:
    lateness = Lateness()
    for name in ("calm", "eager"):
        lateness.began(name, 0.0)
    for _ in range(1000):
        lateness.answered("eager", 50.0)  # let in just before its time was over
    assert lateness.mean() == pytest.approx(0.5)
    assert lateness.num_answers == 1000
    for _ in range(50):
        lateness.answered("calm", 1.0)
    assert lateness.mean() == pytest.approx(1.0, abs=0.01)


def test_who_has_nothing_running_counts_for_a_while() -> None:
    lateness = Lateness()
    for name in ("gone", "here"):
        lateness.began(name, 0.0)
    for _ in range(100):
        lateness.answered("here", 1.0)
    lateness.left("gone", 1.0)
    lateness.began("here", RECENT_S)
    assert lateness.mean() == pytest.approx(0.5, abs=0.01)
    lateness.began("here", RECENT_S + 1.1)
    assert lateness.mean() == pytest.approx(1.0, abs=0.01), "who has no requests has no say"
    for _ in range(3):
        lateness.left("here", RECENT_S + 2.0)
    lateness.began("here", 10 * RECENT_S)
    assert lateness.mean() == pytest.approx(1.0, abs=0.01), "what is known of the only one is not forgotten"
