"""The checks that can be configured are the checks that can be built, with the same settings and the same defaults.
What a check would refuse the configuration refuses."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import pytest

from actors.errors import ConfigError
from actors.messages import Ending, JudgeRequest, Prefix, Prompt, Step
from actors.verifiers import CHECKS
from actors.verifiers.check import Decision
from deployments.config import Config, validate_config
from deployments.verifier_config import Check, CheckSettings, suits_specreason

SECTIONS = {section().kind: section for section in get_args(get_args(Check)[0])}


def test_every_check_can_be_configured():
    assert set(SECTIONS) == set(CHECKS)


@pytest.mark.parametrize("kind", sorted(CHECKS))
def test_settings_and_defaults_agree(kind):
    settings = SECTIONS[kind]().model_dump(exclude={"kind", "engine"})
    parameters = inspect.signature(CHECKS[kind]).parameters
    assert {name: p.default for name, p in parameters.items() if name != "scorer"} == settings
    assert ("scorer" in parameters) == ("engine" in SECTIONS[kind].model_fields)


def deployment(*checks: dict[str, Any], scorer: str = "score") -> Config:
    """A configuration with a verifier `v` of `checks`, and `scorer` for mode ``specreason``."""
    writer = {"model": "scripted", "engine": {"kind": "scripted"}}
    return validate_config(
        {
            "served_model_name": "m",
            "target": writer,
            "draft": writer,
            "verifier": {"verifiers": {"exact": [{"kind": "exact"}], "v": list(checks)}},
            "speculation": {"specreason": {"verifier": scorer}},
        },
        "the test",
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "embedding", "accept": 0.7}, "accepts from 0.7 and rejects below 0.85"),
        ({"kind": "judge", "reject": 0.9}, "accepts from 0.7 and rejects below 0.9"),
        ({"kind": "likelihood", "accept": 0.5}, "accepts from 0.5 and rejects below 0.8"),
        ({"kind": "self_confidence", "reject": 1.0}, "accepts from 0.95 and rejects below 1.0"),
        ({"kind": "score", "accept": 3}, "accepts from 3.0 and rejects below 7.0"),
        ({"kind": "judge", "calibration": [[0.5, 0.6], [0.6, 0.5]]}, "the scores must rise"),
    ],
)
def test_zones_that_cross_are_refused_before_anything_starts(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        deployment(settings)


def test_zones_may_lie_anywhere_on_the_scale_of_a_check() -> None:
    [score] = deployment({"kind": "score", "accept": 8.5, "reject": 2}).verifier.verifiers["v"]
    assert (score.accept, score.reject) == (8.5, 2.0)


@pytest.mark.parametrize(
    "kinds", [("same_numbers",), ("exact", "same_numbers", "same_polarity", "embedding"), ("judge",)]
)
def test_specreason_needs_a_check_that_judges_a_step_alone(kinds: tuple[str, ...]) -> None:
    checks = [{"kind": kind} for kind in kinds]
    with pytest.raises(ConfigError, match=r"specreason\.verifier is 'v', none of whose checks"):
        deployment(*checks, scorer="v")
    for lone in ("score", "likelihood", "self_confidence", "always", "never", "random", "scripted"):
        deployment(*checks, {"kind": lone}, scorer="v")
    deployment({"kind": "exact"}, scorer="v")  # keeps nothing, as it says


class Sure:
    """A model as sure as can be."""

    async def label_probabilities(self, prompt: Prompt, labels: Sequence[str], session_id: str) -> tuple[float, ...]:
        return 1.0, *(0.0 for _ in labels[1:])

    async def token_logprobs(self, *_: object) -> tuple[float, ...]:
        return (0.0,)


@pytest.mark.parametrize("kind", sorted(set(CHECKS) - {"embedding"}))  # it asks a model of its own
async def test_checks_that_are_said_to_judge_alone_are_those_that_do(kind: str) -> None:
    draft = Step("So 5.", (1,), "v", Ending.BOUNDARY)
    alone = JudgeRequest("s", "v", "?", "", draft, None, prefix=Prefix((2, 3)), vocabulary="v")
    scorer = {"scorer": Sure()} if "engine" in SECTIONS[kind].model_fields else {}
    is_sure = (await CHECKS[kind](**scorer).check(alone)).decision is not Decision.UNSURE
    assert suits_specreason([SECTIONS[kind]()]) == (is_sure or kind in ("scripted", "exact"))


@pytest.mark.parametrize("alone", [True, False])
def test_a_new_check_says_itself_whether_it_judges_alone(alone: bool) -> None:
    class NewCheck(CheckSettings):
        judges_alone: ClassVar[bool] = alone

    assert suits_specreason([NewCheck()]) == alone


@pytest.mark.parametrize("kind", ["judge", "score"])
def test_a_target_that_begins_to_reason_is_no_judge_unless_its_answer_closes_that(kind: str) -> None:
    def checked(reasoning: dict[str, Any], **settings: Any) -> None:
        data = deployment({"kind": kind, **settings}, scorer="exact").model_dump()
        validate_config(data | {"reasoning": reasoning}, "the test")

    thinks = {"open": "<think>", "close": "</think>"}
    for prefix in ("", "So:"):
        with pytest.raises(ConfigError, match=f"'v' asks the target.* answer_prefix of its {kind} .*'</think>'"):
            checked(thinks, answer_prefix=prefix)
    checked(thinks, answer_prefix="</think>\n\n")
    checked(thinks, engine="draft")
    checked(thinks | {"starts_open": False})
    checked({})


def test_where_reasoning_alone_is_speculated_something_says_what_it_is() -> None:
    data = deployment({"kind": "exact"}).model_dump()
    data["speculation"]["scope"] = "think"
    with pytest.raises(ConfigError, match=r"scope is 'think', but nothing says .*; set reasoning\.close"):
        validate_config(data, "the test")
    validate_config(data | {"reasoning": {"close": "</think>"}}, "the test")
