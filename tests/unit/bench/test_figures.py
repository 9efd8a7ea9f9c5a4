"""The numbers of a report, against numbers worked out by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.bench.figures import bootstrap_ci, busy_s, pairs, quantile, rows, share_ci
from deployments.bench.record import Measurement


def line(mode, index, latency_s, tokens, start=0.0, concurrency=1, **rest):
    fields = {
        "question": "q",
        "answer": "4",
        "text": "t",
        "reasoning": "",
        "correct": True,
        "ttft_s": latency_s / 10,
        "tokens_per_s": tokens / latency_s,
        "started_at": start,
        "ended_at": start + latency_s,
    }
    return Measurement(
        mode=mode, concurrency=concurrency, index=index, latency_s=latency_s, output_tokens=tokens, **{**fields, **rest}
    )


def test_quantiles():
    assert quantile([], 0.5) is None
    assert quantile([3.0], 0.95) == 3.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), max_size=12))
def test_busy_time_is_the_union(found):
    intervals = [(start, start + length) for start, length in found]
    busy = busy_s(intervals)
    assert busy <= sum(length for _, length in found) + 1e-9
    if intervals:
        assert busy <= max(e for _, e in intervals) - min(s for s, _ in intervals) + 1e-9
        assert busy >= max(e - s for s, e in intervals) - 1e-9


def test_busy_time_leaves_gaps_out():
    assert busy_s([(0, 2), (1, 3), (10, 11), (10.2, 10.4)]) == pytest.approx(4.0)
    assert busy_s([]) == 0.0


def test_speedup_is_per_token_and_latency_ratio_is_not():
    lines = [line("target", 0, 10.0, 100), line("lookahead", 0, 6.0, 120)]
    (pair,) = pairs(lines, "target")
    assert pair["speedup"] == pytest.approx((10 / 100) / (6 / 120))
    assert pair["latency_ratio"] == pytest.approx(10 / 6)


def test_pairs_are_of_one_prompt_and_one_concurrency_and_whole():
    lines = [
        line("target", 0, 1.0, 10),
        line("lookahead", 1, 1.0, 10),
        line("lookahead", 0, 1.0, 10, concurrency=4),
        line("target", 2, 1.0, 10),
        line("lookahead", 2, 1.0, 10, error="It broke."),
        line("target", 3, 1.0, 0),
        line("lookahead", 3, 1.0, 10),
    ]
    assert pairs(lines, "target") == []


def test_row_has_the_contract_and_the_median_of_ratios():
    lines = []
    for index, ratio in enumerate((1.0, 2.0, 4.0)):
        lines.append(line("target", index, 4.0, 40, start=10.0 * index))
        lines.append(line("lookahead", index, 4.0 / ratio, 40, start=10.0 * index + 5))
    target, lookahead = rows(lines, ("target", "lookahead"), seed=0, token_speculation="none")
    names = (
        "mode token_speculation concurrency num_requests num_failed wall_s output_tokens tokens_per_s latency_p50_s "
        "latency_p95_s ttft_p50_s accuracy accept_rate speedup_vs_target speedup_ci95 latency_ratio_vs_target"
    )
    assert set(names.split()) <= set(target)
    assert target["speedup_vs_target"] == 1.0
    assert target["wall_s"] == pytest.approx(12.0)
    assert target["tokens_per_s"] == pytest.approx(10.0)
    assert lookahead["speedup_vs_target"] == pytest.approx(2.0)
    assert lookahead["speedup_ci95"] == (1.0, 4.0)
    assert lookahead["num_pairs"] == 3


def test_failures_count_and_the_last_line_of_a_request_stands():
    lines = [
        line("target", 0, 1.0, 10, error="It broke.", correct=False),
        line("target", 1, 1.0, 10, start=2, error="It broke.", correct=False),
        line("target", 0, 1.0, 10, start=4),
    ]
    (row,) = rows(lines, ("target",), seed=0)
    assert (row["num_requests"], row["num_failed"], row["num_tried_again"]) == (2, 1, 1)
    assert row["accuracy"] == 0.5
    assert row["output_tokens"] == 10


def test_accuracy_is_of_known_answers_and_accept_rate_of_all_steps():
    def steps(accepted, recovered):
        return {"num_accepted_steps": accepted, "num_recovered_steps": recovered}

    lines = [
        line("lookahead", 0, 1.0, 10, answer=None, correct=None, speculation=steps(8, 0)),
        line("lookahead", 1, 1.0, 10, correct=False, speculation=steps(0, 2)),
    ]
    (row,) = rows(lines, ("lookahead",), seed=0)
    assert row["accuracy"] == 0.0
    assert row["accept_rate"] == pytest.approx(0.8)
    assert row["speedup_vs_target"] is None


def test_interval_needs_three_values_and_depends_on_the_seed_alone():
    assert bootstrap_ci([1.0, 2.0], seed=0) is None
    values = [random.Random(5).uniform(0.5, 2.0) for _ in range(9)]
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(values, seed=3)


def test_interval_covers_the_true_median_about_as_often_as_it_says():
    """120 samples of 15 from a distribution with median 1: near 95 % of intervals should hold 1."""
    chance = random.Random(11)
    hits = 0
    for trial in range(120):
        interval = bootstrap_ci([chance.lognormvariate(0.0, 0.3) for _ in range(15)], seed=trial)
        hits += interval[0] <= 1.0 <= interval[1]
    assert 0.86 <= hits / 120 <= 1.0


def test_wilson():
    low, high = share_ci(8, 10)
    assert (low, high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert share_ci(0, 0) is None
    assert share_ci(0, 5)[0] == 0.0
