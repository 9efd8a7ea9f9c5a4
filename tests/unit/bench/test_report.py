"""The claim says what the rows say, no more; the page stands alone; secrets stay out."""

from __future__ import annotations

import json
import re

import pytest

from deployments.bench import report
from deployments.bench.environment import describe_command, describe_machine, hide_secrets
from deployments.bench.plan import Plan
from deployments.bench.report_page import page
from tests.unit.bench.test_figures import line

PLAN = Plan("http://x", "d", 4, ("target", "lookahead"), (1,), 10, 0.0, 0)


def built(ratio=2.0, num_problems=4, **rest):
    lines = []
    for index in range(num_problems):
        lines.append(line("target", index, 4.0, 40))
        lines.append(line("lookahead", index, 4.0 / (ratio + index * 0.01), 40, **rest))
    return report.build(PLAN, lines, {"command": "lookahead bench"}, "none")


def row(speedup, interval, **rest):
    fields = {"mode": "lookahead", "concurrency": 1, "num_pairs": 9, "accuracy": None}
    return {**fields, "speedup_vs_target": speedup, "speedup_ci95": interval, **rest}


@pytest.mark.parametrize(
    ("speedup", "interval", "words"),
    [
        (1.5, (1.2, 1.8), "is 1.50 times as fast"),
        (0.7, (0.6, 0.8), "is slower than the target alone"),
        (1.1, (0.9, 1.3), "no difference in speed"),
        (1.5, None, "an anecdote"),
        (None, None, "nothing to compare with"),
    ],
)
def test_claim_is_no_more_than_the_interval_allows(speedup, interval, words):
    assert words in report.claim(row(speedup, interval), [], "target")


def test_claim_tells_the_accuracy_of_both():
    base = {"mode": "target", "concurrency": 1, "accuracy": 0.5}
    text = report.claim(row(1.5, (1.2, 1.8), accuracy=0.25), [base], "target")
    assert text.endswith("; 25% of answers right against 50%.")


def test_report_has_the_contract():
    found = json.loads(json.dumps(built()))
    assert {"environment", "rows", "pairs"} <= set(found)
    assert found["complete"] is True
    assert len(found["rows"]) == 2
    assert len(found["pairs"]) == 4
    assert "speedup_vs_target" in found["definitions"]


def test_page_stands_alone_and_begins_with_the_claim():
    html = page(built())
    assert html.index("times as fast as the target alone") < html.index("<table")
    assert html.count("<circle") == 4
    assert not re.search(r"<script|src=|href=|url\(|@import|https?://", html)


def test_page_of_an_unfinished_run_with_failures_says_so():
    found = built(error="It broke.", num_problems=3)
    html = page(found)
    assert "3 requests failed" in html
    assert "not finished: 6 of 8" in html
    assert "No prompt was answered whole in two modes" in html


def test_page_keeps_text_as_text():
    found = built()
    found["environment"] = {"command": "<script>alert(1)</script>{{table}}"}
    html = page(found)
    assert "<script>" not in html
    assert html.count("<table") == 1


def test_report_of_one_mode():
    found = report.build(PLAN, [line("lookahead", 0, 1.0, 10)], {}, None)
    assert "nothing to compare with" in page(found)


def test_command_hides_keys():
    shown = describe_command(["bench", "--api-key", "abc", "--api-key=abc", "--out", "my runs"])
    assert shown == "lookahead bench --api-key *** --api-key=*** --out 'my runs'"


def test_config_hides_secrets_and_keeps_numbers():
    config = {
        "gateway": {"api_keys": ["abc"]},
        "target": {"placement": {"env": {"HF_TOKEN": "abc"}}, "engine": {"options": {"max_tokens": 3}}},
        "list": [{"password": "abc"}],
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
