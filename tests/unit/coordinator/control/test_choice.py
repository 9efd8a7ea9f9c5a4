"""Who looks how far ahead, given what the engines can do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.coordinator.control.batch_cost import BatchCost, TargetCost
from deployments.coordinator.control.choice import Candidate, Conditions, choose, outlook

PLENTY = 10_000.0


def conditions(share: float, *, c: float = 0.1, draft_share: float = 0.0, factor: float = 1.0) -> Conditions:
    """Engines whose passes grow by `share` of a single sequence's with each further one."""
    target, draft = TargetCost(), BatchCost()
    for _ in range(20):
        for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
            line = 1.0 + share * (size - 1.0)
            target.add_stream(size, line)
            target.add_window(size, line * factor)
            draft.add(size, c * (1.0 + draft_share * (size - 1.0)))
    return Conditions(target, draft)


def alike(num: int, alpha: float, max_depth: int = 8) -> list[Candidate]:
    return [Candidate(alpha, max_depth)] * num


def best_fixed(given: Conditions, candidates: list[Candidate]) -> float:
    """The best predicted throughput of all depths that are the same for all."""
    return max(outlook(given, candidates, [depth] * len(candidates)).tokens_per_s for depth in (0, 1, 2, 3, 4, 6, 8))


def test_a_free_batch_is_filled() -> None:
    assert min(choose(conditions(0.0), alike(4, 0.8), PLENTY)) >= 6


def test_a_saturated_target_is_left_alone() -> None:
    assert choose(conditions(1.0), alike(4, 0.8), PLENTY) == (0, 0, 0, 0)


def test_a_draft_as_slow_as_the_target_is_not_asked() -> None:
    assert choose(conditions(0.1, c=1.5), alike(4, 0.9), PLENTY) == (0, 0, 0, 0)


def test_calls_that_cost_more_than_they_gain_are_not_made() -> None:
    assert choose(conditions(0.0, factor=1.3), alike(1, 0.1), PLENTY) == (0,)
    assert choose(conditions(0.0, factor=1.3), alike(1, 0.8), PLENTY) != (0,)


def test_hints_pay_where_nothing_is_accepted() -> None:
    """The target is faster in a window than in a stream, so the shallowest window is worth its place."""
    assert choose(conditions(0.2, factor=0.6), alike(1, 0.0), PLENTY) == (1,)


def test_who_waits_long_for_verdicts_slows_nobody_else_down() -> None:
    given = conditions(0.1)
    slow, fast = Candidate(0.8, 8, verdict_tokens_s=1.0), Candidate(0.8, 8)
    speeds = [outlook(given, pair, [2, 2]).tokens_per_s for pair in ([slow, slow], [slow, fast], [fast, fast])]
    assert speeds[0] < speeds[1] < speeds[2]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("num", [1, 7, 64])
def test_no_depth_for_all_is_predicted_to_be_better(num: int, alpha: float, share: float) -> None:
    given, candidates = conditions(share), alike(num, alpha)
    chosen = outlook(given, candidates, choose(given, candidates, PLENTY)).tokens_per_s
    assert chosen >= 0.985 * best_fixed(given, candidates)


def test_spare_places_go_to_those_whose_steps_are_likeliest_to_be_accepted() -> None:
    given = conditions(0.04)
    candidates = [Candidate(alpha, 8) for alpha in (0.1, 0.9, 0.3, 0.7)] * 4
    depths = choose(given, candidates, PLENTY)
    by_alpha: dict[float, list[int]] = {}
    for candidate, depth in zip(candidates, depths, strict=True):
        by_alpha.setdefault(candidate.alpha, []).append(depth)
    assert min(by_alpha[0.9]) > max(by_alpha[0.3])
    assert min(by_alpha[0.7]) >= max(by_alpha[0.3])
    assert max(by_alpha[0.1]) == 0


def test_more_users_look_less_far_ahead() -> None:
    given = conditions(0.02)
    depths = [sum(choose(given, alike(num, 0.7), PLENTY)) / num for num in (1, 4, 16, 64)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > depths[-1]


def test_the_work_of_others_counts() -> None:
    given = conditions(0.02)
    beside = outlook(replace(given, target_others=30.0), alike(1, 0.6), (0,))
    assert beside.num_sequences == pytest.approx(31.0, rel=0.02)
    assert beside.tokens_per_s == pytest.approx(1.0 / 1.6, rel=0.02)


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("others", [4.0, 30.0])
@pytest.mark.parametrize("num_targets", [1, 2])
def test_what_others_lose_counts_as_what_ours_lose(num_targets: int, others: float, share: float) -> None:
    given = replace(conditions(share), target_others=others, num_targets=num_targets)
    ours = alike(4 * num_targets, 0.85)
    chosen = outlook(given, ours, choose(given, ours, PLENTY)).total_per_s
    fixed = [outlook(given, ours, [depth] * len(ours)).total_per_s for depth in (0, 1, 2, 3, 4, 6, 8)]
    assert chosen >= 0.985 * max(fixed)


def test_replicas_share_the_load() -> None:
    given = conditions(0.1)
    one, four = choose(given, alike(16, 0.7), PLENTY), choose(replace(given, num_targets=4), alike(16, 0.7), PLENTY)
    assert sum(four) > sum(one)


def test_a_draft_that_all_must_share_is_spared() -> None:
    few = choose(conditions(0.0, c=0.1, draft_share=1.0), alike(16, 0.7), PLENTY)
    many = choose(conditions(0.0, c=0.1, draft_share=0.0), alike(16, 0.7), PLENTY)
    assert sum(few) < sum(many)
    assert outlook(conditions(0.0, c=0.1, draft_share=1.0), alike(16, 0.7), few).c < 1.0


def test_the_batch_grows_no_further_than_it_is_trusted() -> None:
    given = conditions(0.0)
    depths = choose(given, alike(4, 0.8), 6.0)
    assert outlook(given, alike(4, 0.8), depths).num_sequences <= 6.0
    assert choose(given, alike(4, 0.8), 3.0) == (0, 0, 0, 0)


def test_nobody_looks_further_than_allowed() -> None:
    candidates = [Candidate(0.9, depth) for depth in (0, 1, 3, 5)]
    depths = choose(conditions(0.0), candidates, PLENTY)
    assert all(depth <= candidate.max_depth for depth, candidate in zip(depths, candidates, strict=True))
    assert depths[0] == 0
    assert depths[3] >= 4
