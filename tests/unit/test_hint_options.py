"""What a configuration and a request say of hints, in vLLM's terms, and what cannot be."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engines.hint_matching import MatchRules
from actors.engines.hint_options import (
    EXTENSION,
    MAX_PROPOSED,
    METHOD,
    OWN,
    PROPOSER,
    SCHEDULER,
    engine_options,
    request_arguments,
    without_words,
)
from actors.engines.hints import rules_of
from actors.messages import Nearby

METHODS = ("ngram", "custom_class")


def test_our_method_becomes_a_custom_class() -> None:
    ours = {"method": METHOD, "num_speculative_tokens": 7, "num_ngram_tokens": 3, "prompt_lookup_max": 5}
    options = engine_options({"dtype": "float32", "speculative_config": ours}, METHODS)
    rules = MatchRules(num_hint_tokens=7, num_ngram_tokens=3, ngram_max=5)
    assert rules_of(SimpleNamespace(additional_config=options["additional_config"])) == rules
    assert options == {
        "dtype": "float32",
        "speculative_config": {"method": "custom_class", "model": PROPOSER, "num_speculative_tokens": 7},
        "worker_extension_cls": EXTENSION,
        "scheduler_cls": SCHEDULER,
        "additional_config": {OWN: asdict(rules)},
    }
    theirs = {"additional_config": {"a": 1}, "scheduler_cls": "x.Y", "speculative_config": {"method": METHOD}}
    kept = engine_options(theirs, METHODS)
    assert kept["scheduler_cls"] == "x.Y"
    assert kept["additional_config"]["a"] == 1


def test_with_a_model_our_method_is_vllms_draft_model_and_our_rules() -> None:
    ours = {"method": METHOD, "model": "/a/folder", "num_speculative_tokens": 7}
    options = engine_options({"speculative_config": ours}, METHODS)
    assert options == {
        "speculative_config": {"method": "draft_model", "model": "/a/folder", "num_speculative_tokens": 7},
        "worker_extension_cls": EXTENSION,
        "scheduler_cls": SCHEDULER,
        "async_scheduling": False,
        "additional_config": {OWN: asdict(MatchRules(num_hint_tokens=7, num_draft_tokens=4))},
    }
    more = engine_options({"speculative_config": {**ours, "num_draft_tokens": 9}}, METHODS)
    assert more["speculative_config"]["num_speculative_tokens"] == 9
    with pytest.raises(ValueError, match="async_scheduling"):
        engine_options({"speculative_config": ours, "async_scheduling": True}, METHODS)


def test_any_other_method_passes_as_it_is() -> None:
    options = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4}}
    assert engine_options(options, METHODS) == {**options, "worker_extension_cls": EXTENSION}


@pytest.mark.parametrize("plain", [{}, {"speculative_config": None}, {"enforce_eager": True}])
def test_an_engine_without_speculation_has_our_extension_or_its_own(plain: dict[str, Any]) -> None:
    """It ranks and draws as well, and is to compile nothing for that on a CPU where it is eager."""
    assert engine_options(plain, METHODS) == {**plain, "worker_extension_cls": EXTENSION}
    assert engine_options({**plain, "worker_extension_cls": None}, METHODS)["worker_extension_cls"] == EXTENSION
    kept = {**plain, "worker_extension_cls": "x.Y"}
    assert engine_options(kept, METHODS) == kept


def test_a_vllm_without_custom_classes_looks_up_ngrams(caplog: pytest.LogCaptureFixture) -> None:
    options = engine_options({"speculative_config": {"method": METHOD}}, ("ngram",))
    bounds = {"prompt_lookup_min": 2, "prompt_lookup_max": 4}
    assert options["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 4, **bounds}
    assert "hints are not used" in caplog.text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"models": "x"}, "no setting models"),
        ({"num_draft_tokens": 4}, "name it in model"),
        ({"model": "x", "num_draft_tokens": 0}, r"speculative_config\.num_draft_tokens must be .* at least 1, not 0"),
        ({"num_speculative_tokens": 0}, r"speculative_config\.num_speculative_tokens must be .* at least 1, not 0"),
        ({"num_speculative_tokens": "eight"}, r"num_speculative_tokens must be a whole number .*, not 'eight'"),
        ({"num_ngram_tokens": 2.9}, r"num_ngram_tokens must be a whole number .*, not 2\.9"),
        ({"realign_min": True}, r"realign_min must be a whole number .*, not True"),
        ({"num_speculative_tokens": 129}, r"num_speculative_tokens is 129; vLLM verifies at most 128"),
        ({"num_ngram_tokens": 129}, r"num_ngram_tokens is 129; vLLM verifies at most 128"),
        ({"model": "x", "num_draft_tokens": 129}, r"num_draft_tokens is 129; vLLM verifies at most 128"),
        ({"realign_max": None}, r"realign_max must be a whole number .*, not None"),
        ({"prompt_lookup_min": 5}, r"speculative_config\.prompt_lookup_min is 5, over prompt_lookup_max, which is 4"),
        ({"realign_min": 5}, r"speculative_config\.realign_min is 5, over realign_max, which is 4"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        engine_options({"speculative_config": {"method": METHOD, **settings}}, METHODS)


def test_as_many_tokens_are_proposed_as_vllm_verifies() -> None:
    most = {"num_speculative_tokens": MAX_PROPOSED, "num_ngram_tokens": MAX_PROPOSED, "realign_max": 2 * MAX_PROPOSED}
    options = engine_options({"speculative_config": {"method": METHOD, **most}}, METHODS)
    assert options["speculative_config"]["num_speculative_tokens"] == MAX_PROPOSED


@pytest.mark.parametrize("method", ["hint", "eagle9", 4])
def test_a_method_that_is_nobody_s_is_refused_with_all_that_there_are(method: Any) -> None:
    says = f"{method!r} is neither ours nor vLLM's; there are: hints, ngram, custom_class"
    with pytest.raises(ValueError, match=says):
        engine_options({"speculative_config": {"method": method}}, METHODS)
    found = {"speculative_config": {"model": "ORG/EAGLE", "num_speculative_tokens": 3}}
    assert engine_options(found, METHODS)["speculative_config"] == found["speculative_config"], "vLLM finds the method"


def test_a_pipeline_of_engines_takes_no_hints() -> None:
    options = {"speculative_config": {"method": METHOD}, "pipeline_parallel_size": 2}
    with pytest.raises(ValueError, match="tensor_parallel_size"):
        engine_options(options, METHODS)
    assert (
        engine_options({**options, "speculative_config": {"method": "ngram"}}, METHODS)["pipeline_parallel_size"] == 2
    )
    assert engine_options({**options, "pipeline_parallel_size": 1}, METHODS)["scheduler_cls"] == SCHEDULER


def test_engines_that_wait_for_one_another_draft_with_no_model_behind_their_own_hints() -> None:
    options = {"speculative_config": {"method": METHOD, "model": "x"}, "data_parallel_size": 2}
    with pytest.raises(ValueError, match=r"data_parallel_size.*placement\.num_replicas"):
        engine_options(options, METHODS)
    without = {**options, "speculative_config": {"method": METHOD}}
    assert engine_options(without, METHODS)["data_parallel_size"] == 2
    assert engine_options({**options, "data_parallel_size": 1}, METHODS)["scheduler_cls"] == SCHEDULER


def test_the_workers_extension_has_one_place() -> None:
    with pytest.raises(ValueError, match="worker_extension_cls"):
        engine_options({"speculative_config": {"method": METHOD}, "worker_extension_cls": "x.Y"}, METHODS)


def test_of_hints_a_log_gets_the_lengths() -> None:
    nearby = (Nearby((31, 32, 33), -2),)
    arguments = {"other": 1, **request_arguments("key", [(11, 12), (13,)], "hints", 5, nearby)}
    lengths = {"hints": [2, 1], "speculation": "hints", "num_written": 5, "nearby": [[-2, 3]]}
    assert without_words(arguments) == {"other": 1, OWN: {"key": "key", **lengths}}
    assert arguments[OWN]["hints"] == [[11, 12], [13]]
    assert without_words({"other": 1}) == {"other": 1}
