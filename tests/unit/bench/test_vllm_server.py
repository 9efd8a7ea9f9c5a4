"""What vLLM's own server is started with: the deployment's weights and hardware, and nothing of ours."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from actors.errors import RequestError, ServiceError
from deployments.bench import vllm_server
from deployments.bench.equal_hardware import VllmServer, equal, method_of, own_servers, same, speculation_of
from deployments.bench.vllm_server import all_running, command
from deployments.config import load_profile, validate_config

TARGET, DRAFT = "int8:package:qwen2.5-coder-1.5b-instruct", "short:int8:package:qwen2.5-coder-0.5b-instruct"
DRAFT_MODEL = {"method": "draft_model", "model": DRAFT, "num_speculative_tokens": 4}


def pair(target: dict[str, Any], draft: dict[str, Any] | None = None) -> Any:
    data = {
        "served_model_name": "m",
        "target": {"model": "ORG/T", **target},
        "speculation": {"mode": "target" if draft is None else "lookahead", "fidelity": "exact"},
    }
    return validate_config(data | ({} if draft is None else {"draft": {"model": "ORG/D", **draft}}), "test")


def test_equal_hardware_is_all_cores_and_the_draft_inside() -> None:
    local = load_profile("local")
    server = equal(local)
    assert (server.model, server.cores, server.name) == (TARGET, "0,1", "lookahead-local")
    assert server.options["speculative_config"] == DRAFT_MODEL
    ours = local.target.engine.options
    assert {**server.options, "speculative_config": None} == {**ours, "speculative_config": None}
    assert server.environment == {"VLLM_CPU_KVCACHE_SPACE": "2"}


def test_the_profile_for_it_is_the_same_thing() -> None:
    profile, wanted = load_profile("local-tokens"), equal(load_profile("local"))
    assert profile.target.engine.options == wanted.options
    assert profile.target.placement.cpu_cores == wanted.cores
    assert profile.draft is None
    assert equal(profile).options == wanted.options


def test_other_speculation_may_be_asked_for() -> None:
    local = load_profile("local")
    assert "speculative_config" not in equal(local, "none").options
    assert equal(local, "none").cores == "0,1"
    assert equal(local, "ngram").options["speculative_config"]["method"] == "ngram"
    assert "speculative_config" not in same(local).options
    assert same(local).cores == "0"


def test_the_best_is_what_the_target_has_then_the_draft_then_ngrams() -> None:
    def best(**parts: Any) -> Any:
        return equal(pair(**parts)).options["speculative_config"]

    eagle = {"method": "eagle3", "model": "ORG/HEAD", "num_speculative_tokens": 3}
    hints = {"method": "hints", "model": "ORG/INNER"}
    assert best(target={"engine": {"options": {"speculative_config": eagle}}}, draft={}) == eagle
    assert best(target={"engine": {"options": {"speculative_config": hints}}}, draft={})["model"] == "ORG/INNER"
    assert best(target={}, draft={})["model"] == "ORG/D"
    assert best(target={})["method"] == "ngram"
    assert best(target={}, draft={"engine": {"kind": "scripted"}})["method"] == "ngram"


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({}, "none"),
        ({"speculative_config": None}, "none"),
        ({"speculative_config": {"method": "eagle3", "model": "ORG/HEAD"}}, "eagle3"),
        ({"speculative_config": {"model": "ORG/HEAD"}}, "not named"),
    ],
)
def test_the_method_is_told_in_one_word(options: dict[str, Any], method: str) -> None:
    assert method_of(options) == method


@pytest.mark.parametrize(
    ("target", "draft", "all_cores"),
    [
        ("0", "1", "0,1"),
        ("0-3", "4-7", "0-3,4-7"),
        ("0-3", "4-5|6-7", "0-3,4-5,6-7"),
        ("0|1", "2", "0|1"),
        (None, None, None),
        (None, "1", None),
        ("0,1", "0,1", "0,1"),
    ],
)
def test_cores_are_those_of_both(target: str | None, draft: str | None, all_cores: str | None) -> None:
    config = pair({"placement": {"cpu_cores": target}}, {"placement": {"cpu_cores": draft}})
    assert equal(config).cores == all_cores


def test_cores_of_a_draft_that_are_not_told_are_asked_for() -> None:
    with pytest.raises(RequestError, match="bound to the cores 0-3, and the draft to none"):
        equal(pair({"placement": {"cpu_cores": "0-3"}}, {}))
    on_card = {"placement": {"cpu_cores": "0-3", "num_gpus": 1}}
    assert equal(pair(on_card, {"placement": {"num_gpus": 1}})).cores == "0-3", "what counts there are cards"


def test_a_target_without_a_model_has_no_such_server() -> None:
    with pytest.raises(RequestError, match="needs a model"):
        equal(load_profile("scripted"))


def test_rows_say_which_server_they_need() -> None:
    rows = ("vllm", "vllm:best", "vllm:ngram", "vllm:none", "target", "lookahead:exact", "plain@http://x")
    assert [speculation_of(row) for row in rows] == ["best", "best", "ngram", "none", None, None, None]
    for wrong in ("vllm:eagle", "vllm:none:none"):
        with pytest.raises(RequestError, match="no row that is known"):
            speculation_of(wrong)


def test_each_row_that_needs_a_server_gets_one_and_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    @contextlib.contextmanager
    def fake(server: VllmServer) -> Iterator[str]:
        started.append(server.options.get("speculative_config"))
        yield f"http://server-{len(started)}"
        started.remove(server.options.get("speculative_config"))

    monkeypatch.setattr(vllm_server, "running", fake)
    with all_running(own_servers(load_profile("local"), ("target", "vllm", "vllm:none"))) as urls:
        assert urls == {"vllm": "http://server-1", "vllm:none": "http://server-2"}
        assert started == [DRAFT_MODEL, None]
    assert started == []
    assert own_servers(None, ("target", "plain")) == {}
    with pytest.raises(RequestError, match="'vllm' needs --profile or --config"):
        own_servers(None, ("target", "vllm"))


def test_options_become_flags() -> None:
    options = {
        "generation_config": "vllm",
        "dtype": "float32",
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "speculative_config": {"a": 1},
    }
    words = command(VllmServer("/m", "name", options, None, {}), 81)
    assert words[:2] == [sys.executable, "-m"]
    rest = " ".join(words[3:])
    assert "--model /m" in rest
    assert "--port 81 --served-model-name name --generation-config vllm --dtype float32 --enforce-eager" in rest
    assert "--no-enable-prefix-caching" in words
    assert json.loads(words[words.index("--speculative-config") + 1]) == {"a": 1}


def test_a_server_that_does_not_come_up_is_an_error_with_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    code = "print('KeyError: of no use'); raise ValueError('no such flag')"
    monkeypatch.setattr(vllm_server, "command", lambda *_: [sys.executable, "-c", code])
    with (
        pytest.raises(ServiceError, match=r"exit code 1 before it was ready\. ValueError: no such flag"),
        vllm_server.running(VllmServer(str(tmp_path), "name", {}, None, {})),
    ):
        raise AssertionError("it never was ready")


def test_it_samples_as_the_engines_of_the_deployment_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    monkeypatch.setattr(vllm_server, "settle_sampler", lambda environment: environment.update(CHOSEN="0"))
    code = "import os; raise ValueError('it was ' + os.environ['CHOSEN'])"
    monkeypatch.setattr(vllm_server, "command", lambda *_: [sys.executable, "-c", code])
    with (
        pytest.raises(ServiceError, match="it was 0"),
        vllm_server.running(VllmServer(str(tmp_path), "name", {}, None, {})),
    ):
        raise AssertionError("it never was ready")
