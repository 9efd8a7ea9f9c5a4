"""The claim says what the rows say, no more; the page stands alone; secrets stay out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from deployments.bench import report
from deployments.bench.claims import claim, headline, notes
from deployments.bench.environment import describe_command, describe_machine, hide_secrets, without_password
from deployments.bench.plan import Plan
from deployments.bench.record import Review
from deployments.bench.report_page import page
from deployments.bench.rows import Objective
from deployments.bench.time_use import PARTS
from tests.unit.bench.test_rows import line

PLAN = Plan("http://x", "d", 4, ("target", "lookahead"), (1,), 10, 0.0, 0)


def built(ratio=2.0, num_problems=4, **rest):
    lines = []
    for index in range(num_problems):
        lines.append(line("target", index, 4.0, 40))
        lines.append(line("lookahead", index, 4.0 / (ratio + index * 0.01), 40, **rest))
    return report.build(PLAN, lines, {"command": "lookahead bench"}, "none")


def row(speedup, interval, **rest):
    fields = {
        "mode": "lookahead", "concurrency": 1, "num_pairs": 9, "num_latency_pairs": 9, "num_blocks": 9,
        "latency_ratio_vs_target": speedup, "latency_ratio_ci95": interval, "num_without_token_count": 0,
        "num_cut_at_max_tokens": 0, "num_cut_graded": 0, "num_cut_wrong": 0, "accuracy": None,
        "accuracy_difference": None, "accuracy_difference_ci95": None, "accuracy_difference_p": None, "num_failed": 0,
        "failures": {}, "num_failed_before": 0, "sent_late_max_s": 0.0, "num_untraced": 0,
    }  # fmt: skip
    return {**fields, "speedup_vs_target": speedup, "speedup_ci95": interval, **rest}


@pytest.mark.parametrize(
    ("speedup", "interval", "words"),
    [
        (1.5, (1.2, 1.8), "lookahead is 1.50 times as fast as target"),
        (0.7, (0.6, 0.8), "lookahead is slower than target, 0.70 times its speed"),
        (1.1, (0.9, 1.3), "no difference in speed"),
        (1.5, None, "an anecdote"),
        (None, None, "no prompt was answered whole both by lookahead and by target"),
    ],
)
def test_claim_is_no_more_than_the_interval_allows(speedup, interval, words):
    assert words in claim(row(speedup, interval), "target")


@pytest.mark.parametrize(
    ("difference", "interval", "chance", "words"),
    [
        (-0.25, (-0.4, 0.1), 0.2, "no difference in accuracy is shown, 25% (interval -40 to +10, sign test p = 0.2)."),
        (-0.25, (-0.4, -0.1), 0.1, "no difference in accuracy is shown, 25% (interval -40 to -10, sign test p = 0.1)."),
        (-0.25, (-0.4, -0.1), 0.03, "accuracy is 25 points lower, 25% (interval -40 to -10, sign test p = 0.03)."),
        (0.004, (0.001, 0.007), 0.03, "accuracy is 0.4 points higher, 25% (interval +0 to +1, sign test p = 0.03)."),
        (-0.25, None, 1.0, "no difference in accuracy is shown, 25% (sign test p = 1)."),
        (0.0, None, 1.0, "no difference in accuracy is shown, 25% (sign test p = 1)."),
    ],
)
def test_claim_tells_whether_accuracies_differ(difference, interval, chance, words):
    found = row(
        1.5, (1.2, 1.8), accuracy=0.25, accuracy_difference=difference, accuracy_difference_ci95=interval,
        accuracy_difference_p=chance,
    )  # fmt: skip
    assert claim(found, "target").endswith(f"; {words}")


def test_headline_tells_the_best_mode_of_how_many_and_its_worst_load():
    base = row(1.0, None, mode="target")
    weak, best = row(1.9, (0.8, 3.0), mode="lookahead:fast"), row(1.5, (1.2, 1.8))
    crowded, other = row(0.7, (0.6, 0.8), concurrency=8), row(1.1, (1.05, 1.2), concurrency=4)
    text = headline([base, weak, best, other, crowded], "target")
    assert text == (
        "With one request at a time lookahead is 1.50 times as fast as target (95 % interval 1.20 to 1.80, 9 prompts), "
        "of 2 modes the one whose interval begins highest; with 8 requests at once it is slower, 0.70 times "
        "(0.60 to 0.80)."
    )
    assert headline([base, best, other], "target").endswith("it is 1.10 times as fast (1.05 to 1.20).")
    assert headline([base], "target").startswith("Only one mode")
    assert headline([base, row(None, None)], "target").startswith("Nothing can be compared")


def test_headline_of_modes_without_an_interval_claims_none():
    few = {"num_pairs": 2, "num_blocks": 2}
    base, one, other = row(1.0, None, mode="target"), row(1.5, None, **few), row(1.9, None, mode="b", **few)
    text = headline([base, one, other], "target")
    assert text == (
        "With one request at a time b has 1.90 times the speed of target (2 prompts, an anecdote), of 2 modes the "
        "highest, and none has an interval."
    )
    assert "interval begins highest" in headline([base, row(1.2, (1.1, 1.3)), other], "target")


def test_answers_without_token_counts_are_compared_by_latency_and_named():
    found = row(None, None, latency_ratio_vs_target=1.5, latency_ratio_ci95=(1.2, 1.8), num_without_token_count=9)
    base = row(1.0, None, mode="plain")
    assert headline([base, found], "plain").startswith("No speed by token can be compared: no prompt has a token count")
    assert claim(found, "plain").endswith(
        "there is no speed by token; a whole answer of plain took 1.50 times as long (95 % interval 1.20 to 1.80, "
        "9 prompts)."
    )
    assert notes([base, found]) == [
        "Answers came without a token count (no `usage` in the stream) from lookahead: they have no speed by token and "
        "add nothing to tokens a second."
    ]


def test_notes_name_failures_cuts_and_lateness():
    cut = {"num_cut_at_max_tokens": 2, "num_cut_graded": 2, "num_cut_wrong": 1}
    late = row(1.0, None, num_failed=3, failures={"Timeout.": 1, "Lost.": 2}, sent_late_max_s=0.5, **cut)
    found = notes([late, row(1.0, None, num_failed=1, failures={"Lost.": 1})])
    assert "4 requests failed" in found[0]
    assert "3 times: Lost." in found[0]
    assert found[1] == (
        "2 answers were cut at the token limit; they are whole answers here, and 1 of the 2 that were graded are wrong."
    )
    assert "0.50 s after their time" in found[2]
    mended = notes([row(1.0, None, num_failed_before=2), row(1.0, None, concurrency=4, num_failed_before=1)])
    assert mended == ["3 requests of lookahead failed and were asked again; their last answers count."]
    (lost,) = notes([row(1.0, None, num_untraced=2), row(1.0, None, mode="specreason", num_untraced=1)])
    assert lost.startswith("No whole step trace was to be had of 3 answers (lookahead, specreason): where")
    ungraded = notes([row(1.0, None, num_cut_at_max_tokens=2)])
    assert ungraded == ["2 answers were cut at the token limit; they are whole answers here."]
    assert notes([row(1.0, None), row(1.5, (1.2, 1.8))]) == []
    assert "take more prompts" in notes([row(1.5, (1.2, 1.8), num_blocks=5)])[0]


def test_a_note_says_where_the_order_of_modes_did_not_turn_fully():
    base = row(1.0, None, mode="target", num_blocks=0, concurrency=8)
    others = [row(1.5, None, mode=mode, num_blocks=2, num_pairs=20, concurrency=8) for mode in ("a", "b")]
    (note,) = notes([base, *others])
    assert note.startswith("With 8 requests at once the order of 3 modes did not turn fully, in 2 blocks: a machine")
    assert notes([base, others[0]]) == []
    assert "20 prompts in 2 blocks, too few blocks for an interval" in headline([base, *others], "target")


def test_report_has_the_contract():
    found = json.loads(json.dumps(built()))
    assert {"environment", "rows", "pairs"} <= set(found)
    assert found["complete"] is True
    assert len(found["rows"]) == 2
    assert len(found["pairs"]) == 4
    assert "speedup_vs_target" in found["definitions"]


def test_our_rows_are_compared_with_vllms_own_server_too():
    plan = replace(PLAN, modes=("target", "lookahead:exact", "plain@http://x", "vllm", "vllm:none"))
    seconds = dict(zip(plan.modes, (8.0, 2.0, 9.0, 4.0, 16.0), strict=True))
    lines = [line(mode, index, seconds[mode], 10) for mode in plan.modes for index in range(4)]
    found = report.build(plan, lines, {}, None)
    assert [(row["against"], row["mode"], row["speedup_vs_target"]) for row in found["over_vllm"]] == [
        ("vllm", "target", 0.5),
        ("vllm", "lookahead:exact", 2.0),
        ("vllm:none", "target", 2.0),
        ("vllm:none", "lookahead:exact", 8.0),
    ]
    assert found["over_vllm"][1]["speedup_ci95"] == (2.0, 2.0)
    assert found["over_vllm"][1]["accuracy_difference"] == 0.0
    assert "lookahead:exact is 2.00 times as fast as vllm (95 % interval 2.00 to 2.00, 4 prompts)" in page(found)
    unmeasured = [one for one in lines if not one.mode.startswith("vllm")]
    assert report.build(plan, unmeasured, {}, None)["over_vllm"] == []


def test_a_note_says_which_rows_may_have_found_their_prompts_under_a_later_load():
    plan = replace(PLAN, modes=("target", "plain@http://x", "vllm"), concurrency=(1, 2))
    lines = [line(mode, 0, 1.0, 10) for mode in plan.modes]
    (note,) = [one for one in report.build(plan, lines, {}, None)["notes"] if "earlier one" in one]
    assert note.startswith("plain@http://x: from the second load on")
    once = report.build(replace(plan, concurrency=(1,)), lines, {}, None)
    assert not [one for one in once["notes"] if "earlier one" in one]


def test_where_vllms_own_server_is_the_baseline_the_rows_are_over_it_already():
    lines = [line(mode, 0, 2.0, 10) for mode in ("lookahead", "vllm")]
    found = report.build(replace(PLAN, modes=("lookahead", "vllm")), lines, {}, None)
    assert (found["baseline"], found["over_vllm"]) == ("vllm", [])


def test_page_stands_alone_and_begins_with_the_claim():
    html = page(built())
    assert html.index("times as fast") < html.index("<svg") < html.index("<table")
    assert html.count('m0 faint"') == 4
    assert not re.search(r"<script|src=|href=|url\(|@import|https?://", html)


def test_page_has_a_picture_for_all_that_was_measured():
    review = Review(0.0, "", True, "", dict.fromkeys(PARTS, 0.5), [[3, 1], [1, 1]])
    waits = {"first_step_s": 0.6, "longest_silence_s": 0.3}
    lines = [
        line(mode, index, latency, 40, rate=rate, concurrency=level, review=review, start=100.0 * index, **waits)
        for mode, latency in (("target", 4.0), ("lookahead", 3.0))
        for rate, level in ((None, 1), (None, 4), (0.5, None))
        for index in range(4)
    ]
    plan = replace(PLAN, concurrency=(1, 4), rates=(0.5,))
    found = report.build(plan, lines, {"command": "x"}, None, Objective(latency_s=3.5))
    html = page(found)
    titles = re.findall(r"<figcaption><h2>(.*?)</h2>", html)
    assert titles == [
        "Speed-up, prompt by prompt", "Latency against load", "Latency against arrivals", "Where the time went",
        "Tokens a second", "Goodput", "How long a reader waits, 1 at once", "How long a reader waits, 4 at once",
        "How long a reader waits, 0.5 a second", "Accuracy against speed", "Acceptance by position",
    ]  # fmt: skip
    assert "whole answer within 3.5 s" in html
    assert html.count("<svg") == len(titles)
    for drawing in re.findall(r"<svg.*?</svg>", html):
        ElementTree.fromstring(drawing)
        places = [float(x) for x in re.findall(r' (?:x|cx|x1|x2)="([-\d.]+)"', drawing)]
        assert all(-1 <= place <= 421 for place in places)


def test_page_of_an_unfinished_run_with_failures_says_so():
    found = built(error="It broke.", num_problems=3)
    html = page(found)
    assert "3 requests failed" in html
    assert "not finished: 6 of 8" in html
    assert "Nothing can be compared" in html
    assert "prompt by prompt" not in html


def test_a_run_whose_block_was_broken_off_when_it_was_asked_again_is_not_complete():
    plan = replace(PLAN, num_problems=16, concurrency=(8,))
    lines = []
    for index in range(16):
        for mode in plan.modes:
            lines.append(line(mode, index, 2.0, 10, concurrency=8, block_started_at=100.0 * (index // 8)))
    again = [line("target", index, 2.0, 10, concurrency=8, block_started_at=500.0) for index in range(3)]
    assert report.build(plan, lines, {}, None)["complete"]
    found = report.build(plan, lines + again, {}, None)
    assert (found["complete"], found["num_requests_left"]) == (False, 8)
    assert "not finished: 24 of 32 requests are kept" in page(found)


def test_page_says_what_vllms_own_server_was_started_with():
    ngram = {"speculative_config": {"method": "ngram"}, "data_parallel_size": 2, "gpu_memory_utilization": 0.86}
    own = {"vllm": {"cores": None, "options": ngram}, "vllm:none": {"cores": "0,1", "options": {}}}
    found = report.build(PLAN, [line("target", 0, 1.0, 10)], {"own": own}, None)
    assert (
        "<dd>vllm: token speculation ngram, data_parallel_size 2, gpu_memory_utilization 0.86; vllm:none: token "
        "speculation none, cores 0,1</dd>"
    ) in page(found)


def test_page_keeps_text_as_text():
    found = built()
    found["environment"] = {"command": "<script>alert(1)</script>{{table}}"}
    html = page(found)
    assert "<script>" not in html
    assert html.count("<table") == 1


def test_report_of_one_mode():
    found = report.build(PLAN, [line("lookahead", 0, 1.0, 10)], {}, None)
    assert "Nothing can be compared" in page(found)


def test_command_hides_keys():
    shown = describe_command(["bench", "--api-key", "abc", "--api-key=abc", "--out", "my runs"])
    assert shown == "lookahead bench --api-key *** --api-key=*** --out 'my runs'"


def test_command_hides_passwords_in_addresses():
    modes = "target,plain@http://x,plain@https://bob:geheim@y/v1"
    shown = describe_command(["bench", "--url", "http://ann:a,b@c@host:8000/v1", "--modes", modes])
    assert shown == (
        "lookahead bench --url 'http://***@host:8000/v1' --modes 'target,plain@http://x,plain@https://***@y/v1'"
    )
    assert describe_command(["--url=http://ann:geheim@host"]) == "lookahead '--url=http://***@host'"
    assert without_password("plain@http://bob:geheim@y/a@b") == "plain@http://y/a@b"


def test_config_hides_secrets_and_keeps_numbers():
    config = {
        "gateway": {"api_keys": ["abc"]},
        "target": {"placement": {"env": {"HF_TOKEN": "abc"}}, "engine": {"options": {"max_tokens": 3}}},
        "list": [{"password": "abc"}, "http://ann:abc@host/path"],
    }
    hidden = hide_secrets(config)
    assert "abc" not in json.dumps(hidden)
    assert hidden["target"]["engine"]["options"]["max_tokens"] == 3


def test_machine_is_described():
    machine = describe_machine()
    assert machine["num_cores"] >= 1
    assert machine["cpu"]
    assert "httpx" not in machine["packages"]
    assert machine["packages"]["ray"]
