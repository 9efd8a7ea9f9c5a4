"""What a request may wish for, and what is refused before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.errors import RequestError
from actors.messages import Prompt
from deployments.config import validate_config
from deployments.coordinator.coordinator import settle
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import TARGET, Bench, config, request


def test_specreason_needs_a_verifier_and_keeps_no_fidelity() -> None:
    with pytest.raises(RequestError, match="'score'"):
        settle(config(), request(mode="specreason"))
    assert settle(config(specreason={"verifier": "numbers"}), request(mode="specreason")).verifier == "numbers"
    assert settle(config(), request(mode="specreason", verifier="never")).verifier == "never"
    with pytest.raises(RequestError, match="fidelity"):
        settle(config(), request(mode="specreason", verifier="always", fidelity="exact"))


@pytest.mark.parametrize(
    ("wishes", "param"),
    [
        ({"verifier": "nobody"}, "speculation.verifier"),
        ({"fidelity": "fast"}, "speculation.fidelity"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(wishes: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        settle(config(), request(**wishes))
    assert refused.value.param == param


def test_without_a_draft_only_target_mode_is_served() -> None:
    bare = validate_config(
        {"served_model_name": "m", "target": {"model": "x"}, "speculation": {"mode": "target", "fidelity": "exact"}},
        "t",
    )
    assert settle(bare, request()).mode == "target"
    with pytest.raises(RequestError, match="no draft"):
        settle(bare, request(mode="lookahead"))


def test_prompts_and_budgets_over_the_context_are_refused() -> None:
    small = replace(TARGET, max_model_len=20)
    for wishes in ({"max_tokens": 50}, {"prompt": Prompt(text="word " * 40)}):
        with pytest.raises(RequestError) as refused:
            run_virtually(Bench(small, replace(small, role="draft")).ask(**wishes))
        assert refused.value.code == "context_length_exceeded"
