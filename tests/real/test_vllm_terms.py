"""What vLLM's own checks say of sampling, without a model and an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.messages import NEUTRAL, Sampling
from tests.real.small_model import IGNORED

pytestmark = [pytest.mark.real, *IGNORED]

# vLLM is imported in the tests: only there its own libraries' deprecations are not errors.


def configured(speculative_config: object | None) -> Any:
    """The parts of vLLM's configuration that its checks of a request read."""
    model = SimpleNamespace(max_logprobs=20, is_diffusion=False, get_vocab_size=lambda: 1000)
    return SimpleNamespace(
        model_config=model, speculative_config=speculative_config, structured_outputs_config=object()
    )


def test_what_an_engine_would_refuse_is_known_before_it_starts() -> None:
    from actors.engines.vllm_terms import refusal

    plain, speculating = configured(None), configured(object())
    for sampling in (NEUTRAL, Sampling(0.7, 0.8, 20, 0.0, 1.05), Sampling(min_p=0.1)):
        assert refusal(sampling, plain) is refusal(sampling, speculating) is None
    wrong: dict[str, Any] = {"temperature": 3.0, "top_p": 0.0, "top_k": 0.5, "repetition_penalty": 0.0, "min_p": "a"}
    for name, value in wrong.items():
        assert refusal(Sampling(**{"temperature": 1.0, name: value}), plain), name
    assert refusal(Sampling(1.0, min_p=0.1), plain) is None
    assert "min_p" in str(refusal(Sampling(1.0, min_p=0.1), speculating))
