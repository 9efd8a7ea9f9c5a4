"""Token-level counts: from engines to a page of metrics, from two pages to a row."""

from __future__ import annotations

import httpx
import pytest

from actors.messages import SpeculationStats
from deployments.bench.token_counts import TokenCounter, acceptance, by_role, difference, read_counts
from deployments.telemetry.metrics import Metrics, merge, token_metrics

TARGET = SpeculationStats(10, 40, 20, (10, 6, 3, 1), 30, 18, 10, 2)
DRAFT = SpeculationStats(2, 6, 0, (0, 0, 0))
VLLM = """\
# HELP vllm:spec_decode_num_draft_tokens_total Number of draft tokens.
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 8.0
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 2.0
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 5.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 2.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 2.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 1.0
"""


def page(*counted: tuple[str, SpeculationStats]) -> str:
    engines = [(role, f"{role}-{number}", stats) for number, (role, stats) in enumerate(counted)]
    return merge([Metrics().text(), Metrics().text(), token_metrics(engines)])


def test_the_page_shows_what_each_engine_counted_with_its_role() -> None:
    text = page(("target", TARGET), ("target", TARGET), ("draft", DRAFT))
    for line in (
        'lookahead_token_num_drafts_total{replica="target-0",role="target"} 10.0',
        'lookahead_token_num_drafts_total{replica="target-1",role="target"} 10.0',
        'lookahead_token_num_draft_tokens_total{replica="draft-2",role="draft"} 6.0',
        'lookahead_token_num_accepted_tokens_total{replica="draft-2",role="draft"} 0.0',
        'lookahead_token_num_accepted_tokens_per_pos_total{position="1",replica="target-0",role="target"} 6.0',
        'lookahead_token_num_draft_tokens_by_source_total{replica="target-1",role="target",source="hint"} 30.0',
        'lookahead_token_num_accepted_tokens_by_source_total{replica="target-1",role="target",source="ngram"} 2.0',
        "lookahead_num_draft_steps_total 0.0",
    ):
        assert f"\n{line}\n" in text, line
    assert 'role="draft",source=' not in text, "nothing is known of the sources there"
    counts = by_role(read_counts(text))
    assert (counts["target"]["num_drafts"], counts["target"]["accepted_at_1"]) == (20, 12), "a role's add up"


def test_what_is_written_is_what_is_read() -> None:
    found = by_role(read_counts(page(("target", TARGET), ("draft", DRAFT))))
    assert found["target"] == {
        "num_drafts": 10,
        "num_draft_tokens": 40,
        "num_accepted_tokens": 20,
        "accepted_at_0": 10,
        "accepted_at_1": 6,
        "accepted_at_2": 3,
        "accepted_at_3": 1,
    }
    assert found["draft"]["num_draft_tokens"] == 6
    assert read_counts(page()) == {}


def test_vllms_own_page_is_read_as_the_targets() -> None:
    (role, row), *rest = acceptance([by_role(read_counts(VLLM))]).items()
    assert (role, rest) == ("target", [])
    assert row == {
        "num_drafts": 2,
        "num_draft_tokens": 8,
        "num_accepted_tokens": 5,
        "acceptance_rate": 5 / 8,
        "tokens_per_draft": 3.5,
        "accepted_per_position": [2, 2],
    }


def test_differences_add_up_and_an_engine_that_was_replaced_is_left_out() -> None:
    first, second = (read_counts(page(("target", stats), ("draft", DRAFT))) for stats in (DRAFT, TARGET))
    grown = difference(second, first)
    assert grown["target"]["num_draft_tokens"] == 34
    assert set(grown["draft"].values()) == {0}
    assert difference(first, second).keys() == {"draft"}
    rows = acceptance([grown, None, grown])
    assert rows["target"]["num_draft_tokens"] == 68
    assert rows["target"]["acceptance_rate"] == 40 / 68
    assert "draft" not in rows
    assert acceptance([by_role(second)])["draft"]["accepted_per_position"] == [0, 0, 0]
    assert acceptance([None, {}]) == {}


def test_an_engine_that_did_not_answer_once_has_not_counted_all_it_ever_did() -> None:
    """One of two targets, and the only draft, are not on the second of three pages."""
    whole = read_counts(page(("target", TARGET), ("target", TARGET), ("draft", DRAFT)))
    part = read_counts(page(("target", TARGET)))
    for after, before in ((part, whole), (whole, part)):
        grown = difference(after, before)
        assert grown.keys() == {"target"}
        assert set(grown["target"].values()) == {0}


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.Response(200, text="<html>{</html>")])
async def test_a_server_without_metrics_has_no_counts(answer: httpx.Response) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer), base_url="http://there") as http:
        counter = TokenCounter(http)
        assert [await counter.since_last(), await counter.since_last()] == [None, None]


async def test_counts_are_those_since_the_last_look() -> None:
    pages = [VLLM, VLLM.replace("8.0", "12.0"), "gone {", VLLM, VLLM]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=pages.pop(0)))
    async with httpx.AsyncClient(transport=transport, base_url="http://there") as http:
        counter = TokenCounter(http)
        found = [await counter.since_last() for _ in range(5)]
    assert found[0] is None
    assert found[1] is not None
    assert found[1]["target"]["num_draft_tokens"] == 4
    assert found[1]["target"]["accepted_at_1"] == 0
    assert found[2:4] == [None, None]
    assert found[4] is not None
    assert found[4]["target"]["num_draft_tokens"] == 0
