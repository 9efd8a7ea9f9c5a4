"""What is taken of a model's generation config, and what not."""

from __future__ import annotations

import pytest

from actors.engines import generation_config
from actors.engines.generation_config import OVERRIDE, check_override
from actors.errors import ConfigError
from actors.messages import NEUTRAL, Sampling
from deployments.config import load_profile, validate_config


def test_what_a_request_does_not_say_the_model_says(caplog: pytest.LogCaptureFixture) -> None:
    def default_sampling(told: dict[str, float], model: str) -> Sampling:
        return generation_config.default_sampling(told, {}, model, lambda sampling: None)

    assert default_sampling({}, "m") == NEUTRAL == Sampling(1.0)
    told = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05}
    assert default_sampling(told, "m") == Sampling(0.7, 0.8, 20, 0.1, 1.05)
    assert default_sampling({"temperature": 0.0, "presence_penalty": 0.0}, "m") == Sampling(0.0)
    assert not caplog.records
    assert default_sampling({"top_p": 0.9, "max_tokens": 2048, "presence_penalty": 1.5}, "m") == Sampling(1.0, 0.9)
    assert "of m this server does not take: max_tokens, presence_penalty." in caplog.text


def refuses(sampling: Sampling) -> str | None:
    """An engine that takes no `min_p` for sampled requests, and no temperature above 2."""
    if sampling.temperature > 2.0:
        return "temperature must be in [0, 2]"
    return "min_p is not supported" if sampling.temperature > 0 and sampling.min_p > 0 else None


def test_a_value_of_the_file_that_the_engine_refuses_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    told = {"temperature": 0.0, "min_p": 0.1, "top_p": 0.9, "presence_penalty": 1.5}
    taken = generation_config.default_sampling(told, {"top_p": 0.9}, "m", refuses)
    assert taken == Sampling(0.0, 0.9)
    (record,) = caplog.records
    assert record.getMessage().endswith("does not take: presence_penalty, min_p 0.1 (min_p is not supported).")


@pytest.mark.parametrize(("name", "value"), [("temperature", 3.0), ("min_p", 0.1)])
def test_a_value_of_the_operator_s_that_the_engine_refuses_is_an_error(name: str, value: float) -> None:
    override = {name: value}
    with pytest.raises(
        ConfigError, match=rf"{OVERRIDE} sets {name} to {value}, and the engine of m .*\({name} "
    ) as caught:
        generation_config.default_sampling({"temperature": 0.0, **override}, override, "m", refuses)
    assert caught.value.param == f"engine.options.{OVERRIDE}"


@pytest.mark.parametrize("name", ["max_new_tokens", "presence_penalty", "frequency_penalty", "seed", "no_such"])
def test_what_an_operator_sets_in_vain_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot have '{name}'") as caught:
        check_override({OVERRIDE: {"temperature": 0.5, name: 1}})
    assert caught.value.param == f"engine.options.{OVERRIDE}"
    for options in ({}, {OVERRIDE: None}, {OVERRIDE: {}}, {OVERRIDE: {"temperature": 0.5, "top_k": 3}}):
        check_override(options)


@pytest.mark.parametrize("role", ["target", "draft", "verifier.judge"])
def test_only_the_target_can_have_an_override(role: str) -> None:
    data = load_profile("local").model_dump()
    data["verifier"]["judge"] = {"model": "ORG/NAME", "engine": {"options": {OVERRIDE: {}}}}
    validate_config(data, "test")
    writer = data["verifier"]["judge"] if role == "verifier.judge" else data[role]
    writer["engine"]["options"][OVERRIDE] = {"temperature": 0.5}
    if role == "target":
        validate_config(data, "test")
        return
    with pytest.raises(ConfigError, match=rf"{role}\.engine\.options\.{OVERRIDE} would have no effect: .* in target\."):
        validate_config(data, "test")


def test_profiles_that_were_measured_are_neutral() -> None:
    assert {
        name: load_profile(name).target.engine.options.get("generation_config")
        for name in ("local", "local-tokens", "gpu-one", "gpu-cluster")
    } == {"local": "vllm", "local-tokens": "vllm", "gpu-one": "vllm", "gpu-cluster": None}
