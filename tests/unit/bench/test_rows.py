"""The rows and pairs of a report, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from deployments.bench import rows as module
from deployments.bench.claims import claim
from deployments.bench.plan import Plan
from deployments.bench.record import Measurement, Review
from deployments.bench.rows import Objective
from deployments.bench.time_use import PARTS


def line(mode, index, latency_s, tokens, start=0.0, concurrency=1, correct=True, rate=None, review=None, **rest):
    """`correct` makes the review where none is given."""
    fields = {
        "question": "q",
        "answer": "4",
        "text": "t",
        "reasoning": "",
        "ttft_s": latency_s / 10,
        "tokens_per_s": tokens / latency_s,
        "started_at": start,
        "ended_at": start + latency_s,
    }
    return Measurement(
        mode=mode,
        concurrency=None if rate else concurrency,
        rate=rate,
        index=index,
        latency_s=latency_s,
        output_tokens=tokens,
        review=review or Review(start, "", correct),
        **{**fields, **rest},
    )


def plan_of(lines, modes, seed=0):
    """A plan of which `lines` are all that was measured."""
    levels = tuple(dict.fromkeys(one.concurrency for one in lines if one.concurrency))
    rates = tuple(dict.fromkeys(one.rate for one in lines if one.rate))
    return Plan("http://x", "d", 1 + max(one.index for one in lines), tuple(modes), levels, 10, 0.0, seed, rates)


def pairs(lines, against):
    return module.pairs(lines, plan_of(lines, dict.fromkeys(one.mode for one in lines)), against)


def rows(lines, modes, seed=0, **rest):
    return module.rows(lines, plan_of(lines, modes, seed), **rest)


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
    ]
    assert pairs(lines, "target") == []


def test_answers_without_token_counts_are_paired_by_latency_alone():
    lines = [line("plain", index, 3.0, 0) for index in range(4)]
    lines += [line("lookahead", index, 2.0, 10 if index else 0, usage={"completion_tokens": 0}) for index in range(4)]
    assert [pair["speedup"] for pair in pairs(lines, "plain")] == [None] * 4
    base, own = rows(lines, ("plain", "lookahead"), seed=0)
    assert (base["num_without_token_count"], own["num_without_token_count"]) == (4, 0), "0 is a count"
    assert (own["speedup_vs_target"], own["num_pairs"]) == (None, 0)
    assert (own["latency_ratio_vs_target"], own["latency_ratio_ci95"], own["num_latency_pairs"]) == (1.5, (1.5, 1.5), 4)


def test_what_was_cut_is_told_with_its_grades():
    lines = [line("target", n, 1.0, 10, correct=c, finish_reason="length") for n, c in enumerate((True, False, None))]
    (row,) = rows([*lines, line("target", 3, 1.0, 10, correct=False)], ("target",), seed=0)
    assert (row["num_cut_at_max_tokens"], row["num_cut_graded"], row["num_cut_wrong"]) == (3, 2, 1)


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
    assert row["num_failed_before"] == 1
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


def test_row_of_an_open_loop_counts_idle_time_and_is_paired_under_its_rate():
    lines = [
        line("target", 0, 1.0, 10, start=100.0, rate=0.5, block_started_at=100.0),
        line("target", 1, 2.0, 10, start=105.0, rate=0.5, block_started_at=100.0),
        line("target", 2, 1.0, 10, start=300.0, rate=0.5, block_started_at=299.0),
        line("lookahead", 0, 0.5, 10, start=200.0, rate=0.5, block_started_at=200.0),
        line("lookahead", 1, 0.5, 10, start=205.0, rate=2.0, block_started_at=205.0),
    ]
    slow, own, other = rows(lines, ("target", "lookahead"), seed=0)
    assert (slow["concurrency"], slow["rate"], other["rate"]) == (None, 0.5, 2.0)
    assert slow["wall_s"] == pytest.approx(7.0 + 2.0)
    assert own["num_pairs"] == 1
    assert own["speedup_vs_target"] == pytest.approx(2.0)
    assert other["speedup_vs_target"] is None


def test_intervals_of_several_users_are_drawn_from_blocks():
    def asked(mode, latency_s, block):
        return line(mode, index, latency_s, 10, start=100.0 * block, concurrency=4, block_started_at=100.0 * block)

    lines = []
    for index in range(16):
        group = index // 4
        lines += [asked("target", 2.0, 2 * group), asked("lookahead", 2.0 / (1 + group), 2 * group + 1)]
    _, own = rows(lines, ("target", "lookahead"))
    assert (own["num_pairs"], own["num_blocks"], own["speedup_vs_target"]) == (16, 4, 2.5)
    assert own["speedup_ci95"] == own["latency_ratio_ci95"] == pytest.approx((1.0, 4.0))
    _, own = rows([one for one in lines if one.index < 8], ("target", "lookahead"))
    assert (own["num_pairs"], own["num_blocks"], own["speedup_ci95"], own["latency_ratio_ci95"]) == (8, 2, None, None)
    assert "(8 prompts in 2 blocks, too few blocks for an interval)" in claim(own, "target")


def test_a_block_that_was_broken_off_when_it_was_asked_again_is_one_block():
    lines = []
    for index in range(16):
        for mode, latency_s in (("target", 2.0), ("lookahead", 1.0)):
            lines.append(line(mode, index, latency_s, 10, concurrency=8, block_started_at=100.0 * (index // 8)))
    again = [line("target", index, 2.0, 10, concurrency=8, start=500.0, block_started_at=500.0) for index in range(3)]
    _, own = rows(lines + again, ("target", "lookahead"))
    assert (own["num_blocks"], own["speedup_ci95"]) == (2, None)


def test_goodput_counts_what_kept_the_whole_objective():
    lines = [
        line("target", 0, 2.0, 10, ttft_s=0.5),
        line("target", 1, 2.0, 10, start=2, ttft_s=1.5),
        line("target", 2, 6.0, 10, start=4, ttft_s=0.5),
        line("target", 3, 2.0, 10, start=10, ttft_s=0.5, error="The answer was not complete after 2 s."),
        line("target", 4, 2.0, 10, start=12, ttft_s=None),
    ]
    (row,) = rows(lines, ("target",), seed=0, objective=Objective(latency_s=5.0, ttft_s=1.0))
    assert (row["num_in_objective"], row["num_failed"]) == (1, 1)
    assert row["goodput_per_s"] == pytest.approx(1 / 14)
    assert row["share_in_objective"] == pytest.approx(0.2)
    assert row["failures"] == {"The answer was not complete after 2 s.": 1}
    (row,) = rows(lines, ("target",), seed=0)
    assert row["goodput_per_s"] is None


def test_tokens_are_accepted_apart_from_steps():
    usage = {"completion_tokens_details": {"accepted_prediction_tokens": 6, "rejected_prediction_tokens": 2}}
    told = {"num_accepted_steps": 1, "num_recovered_steps": 1}
    lines = [line("lookahead", 0, 1.0, 10, usage=usage, speculation=told), line("lookahead", 1, 1.0, 10)]
    (row,) = rows(lines, ("lookahead",), seed=0)
    assert (row["accept_rate"], row["accept_rate_by_tokens"], row["draft_token_share"]) == (0.5, 0.75, 0.6)


def test_accuracies_are_compared_prompt_by_prompt():
    lines = [line("target", index, 1.0, 10, correct=index != 0) for index in range(4)]
    lines += [line("lookahead", index, 1.0, 10, correct=index == 0) for index in range(3)]
    base, own = rows(lines, ("target", "lookahead"), seed=0)
    assert base["accuracy_difference"] is None
    assert own["accuracy_difference"] == pytest.approx((1 - 1 - 1) / 3)
    assert own["accuracy_difference_ci95"][0] == -1.0
    assert (base["accuracy_difference_p"], own["accuracy_difference_p"]) == (None, 1.0)


def test_few_prompts_that_differ_are_no_difference_in_accuracy():
    """Four of twenty, all one way: the bootstrap's interval ends before 0, and chance does that in one of eight
    runs."""
    lines = [line("target", index, 1.0, 10) for index in range(20)]
    lines += [line("lookahead", index, 1.0, 10, correct=index >= 4) for index in range(20)]
    _, own = rows(lines, ("target", "lookahead"), seed=0)
    assert own["accuracy_difference_ci95"][1] < 0
    assert own["accuracy_difference_p"] == pytest.approx(0.125)
    assert "no difference in accuracy is shown" in claim(own, "target")


def test_what_the_traces_said_is_summed_over_requests():
    parts = dict.fromkeys(PARTS, 0.0)
    reviews = [
        Review(0.0, "a", True, "", parts | {"target": 2.0}, [[3, 1]]),
        Review(0.0, "b", True, "", parts | {"target": 4.0, "both": 1.0}, [[1, 0], [0, 2]]),
        Review(0.0, "c", True),
    ]
    (row,) = rows([line("lookahead", n, 5.0, 10, review=r) for n, r in enumerate(reviews)], ("lookahead",), seed=0)
    assert (row["time_use"]["target"], row["time_use"]["both"]) == (3.0, 0.5)
    assert row["num_steps_by_position"] == [[4, 1], [0, 2]]
    assert row["accept_rate_by_position"] == [0.8, 0.0]
    assert (row["num_traced"], row["num_untraced"]) == (2, 0), "the third is of no server of ours"


def test_token_counts_of_blocks_add_up():
    counts = {"target": {"num_drafts": 2.0, "num_draft_tokens": 8.0, "num_accepted_tokens": 4.0}}
    reviews = [
        Review(0.0, "", True, token_counts=counts),
        Review(0.0, "", True),
        Review(0.0, "", True, token_counts=counts),
    ]
    (row,) = rows([line("target", n, 1.0, 10, review=r) for n, r in enumerate(reviews)], ("target",), seed=0)
    assert row["token_acceptance_rate"] == 0.5
    assert row["token_acceptance"]["target"]["num_draft_tokens"] == 16
