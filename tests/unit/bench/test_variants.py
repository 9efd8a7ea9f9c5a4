"""A variant is a mode and wishes in one word; the first target-only one is the baseline."""

from __future__ import annotations

import pytest

from actors.errors import RequestError
from deployments.bench.variants import address, baseline, wishes
from tests.unit.bench.test_rows import line, rows


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("target", {"mode": "target"}),
        ("plain", {}),
        ("vllm:ngram", {}),
        ("plain@http://127.0.0.1:8001/v1", {}),
        ("target:ngram", {"mode": "target", "token_speculation": "ngram"}),
        ("lookahead:exact", {"mode": "lookahead", "fidelity": "exact"}),
        ("lookahead:depth=8:none", {"mode": "lookahead", "max_lookahead": 8, "token_speculation": "none"}),
        ("lookahead:controller=off", {"mode": "lookahead", "controller": False}),
        ("lookahead:boundary=line", {"mode": "lookahead", "boundary": "line"}),
        ("specreason:verifier=score:branches=2", {"mode": "specreason", "verifier": "score", "branches": 2}),
    ],
)
def test_words_become_wishes(variant, expected):
    assert wishes(variant) == expected


@pytest.mark.parametrize(
    "variant",
    [
        "target:fasst",
        "lookahead:depth=0",
        "lookahead:depth=x",
        "lookahead:controller=x",
        "a:exact:fast",
        "a:",
        "plain:exact",
        "vllm:exact",
    ],
)
def test_unknown_words_are_refused(variant):
    with pytest.raises(RequestError) as caught:
        wishes(variant)
    assert caught.value.param == "modes"


def test_the_baseline_is_the_first_variant_of_the_target_alone():
    assert baseline(("lookahead", "target:none", "target:ngram")) == "target:none"
    assert baseline(("lookahead",)) == "target"
    assert baseline(("lookahead", "plain", "target")) == "target"
    assert baseline(("lookahead", "plain@http://x")) == "plain@http://x"


def test_a_variant_may_name_its_own_server():
    assert address("lookahead:exact@http://host:8001/v1/") == "http://host:8001"
    assert address("lookahead") is None
    with pytest.raises(RequestError, match="after '@' comes an address"):
        address("plain@host")


@pytest.mark.parametrize(
    "row",
    [
        "plain@ann:geheim@host",
        "plain:x@http://ann:geheim@host",
        "a:exact:fast@http://ann:geheim@host",
        "a:x@geheim",
        "http://ann:geheim@host",
    ],
)
def test_an_error_does_not_repeat_the_password_of_an_address(row):
    with pytest.raises(RequestError) as caught:
        _ = wishes(row), address(row)
    assert "geheim" not in str(caught.value)


def test_rows_are_paired_with_the_baseline_and_name_their_token_speculation():
    variants = ("target:none", "target:ngram", "lookahead:exact")
    lines = [line(variant, index, 4.0 / (1 + at), 40) for at, variant in enumerate(variants) for index in range(3)]
    plain, ngram, lookahead = rows(lines, variants, seed=0, token_speculation="hints")
    assert (plain["speedup_vs_target"], ngram["speedup_vs_target"]) == (1.0, 2.0)
    assert lookahead["speedup_vs_target"] == pytest.approx(3.0)
    assert [row["token_speculation"] for row in (plain, ngram, lookahead)] == ["none", "ngram", "hints"]
    for own, told in (({"vllm": "draft_model"}, "draft_model"), ({}, None)):
        (row,) = rows([line("vllm", 0, 1.0, 10)], ("vllm",), token_speculation="hints", own=own)
        assert row["token_speculation"] == told


def test_another_server_s_token_speculation_is_not_known():
    variants = ("plain@http://x", "target:ngram@http://x", "plain")
    found = rows([line(mode, 0, 1.0, 10) for mode in variants], variants, seed=0, token_speculation="hints")
    assert [row["token_speculation"] for row in found] == [None, "ngram", "hints"]
