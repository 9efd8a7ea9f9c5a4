"""The verifier role: cascades, failing safe, and making checks from plain settings."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engines.scripted import detokenize, tokenize
from actors.errors import ConfigError, ContextTooLong, RequestError, RoleUnavailable
from actors.messages import Piece, Prefix
from actors.verifier import StepVerifier, create_verifier
from actors.verifiers import CHECKS
from actors.verifiers.check import Decision, Opinion
from actors.verifiers.controls import AlwaysCheck
from actors.verifiers.exact import ExactCheck
from actors.verifiers.numbers import SameNumbersCheck


class ScriptedCheck:
    """Has one opinion, or raises one error; counts its calls."""

    reads_context = False

    def __init__(
        self,
        name: str,
        outcome: Decision | BaseException,
        score: float | None = None,
        probability: float | None = None,
    ) -> None:
        self.name = name
        self.outcome = outcome
        self.score = score
        self.probability = probability
        self.num_calls = 0

    async def check(self, request):
        self.num_calls += 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return Opinion(self.outcome, f"{self.name} says {self.outcome}", self.score, self.probability)


class ScriptedScorer:
    async def label_probabilities(self, prompt, labels, session_id):
        return (0.9, 0.1) if len(labels) == 2 else (0.0,) * 8 + (0.5, 0.5)

    async def token_logprobs(self, prefix, piece, session_id, vocabulary):
        return (-0.1,) * len(piece.token_ids)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.sampled_from(Decision), min_size=1, max_size=5))
async def test_the_first_sure_check_decides_and_no_later_one_is_asked(make_request, decisions):
    checks = [ScriptedCheck(f"check{i}", decision) for i, decision in enumerate(decisions)]
    verdict = await StepVerifier({"v": checks}).judge(make_request("a", "b", verifier="v"))
    sure = next((i for i, decision in enumerate(decisions) if decision is not Decision.UNSURE), None)
    asked = len(decisions) if sure is None else sure + 1
    assert [check.num_calls for check in checks] == [1] * asked + [0] * (len(checks) - asked)
    assert verdict.accepted == (sure is not None and decisions[sure] is Decision.ACCEPT)
    assert verdict.verifier == ("v" if sure is None else f"v/check{sure}")
    assert verdict.num_unasked == len(checks) - asked


async def test_a_verdict_carries_score_reason_and_time(make_request):
    checks = [ScriptedCheck("one", Decision.UNSURE, 0.5), ScriptedCheck("two", Decision.ACCEPT, 0.9)]
    verdict = await StepVerifier({"v": checks}).judge(make_request("a", "b", verifier="v"))
    assert (verdict.score, verdict.reason) == (0.9, "two says accept")
    assert verdict.latency_s > 0


@pytest.mark.parametrize(
    "outcome", [Decision.ACCEPT, Decision.REJECT, Decision.UNSURE, RoleUnavailable("gone"), RequestError("too long")]
)
async def test_the_last_score_of_an_unsure_check_stands_where_the_one_that_decides_has_none(make_request, outcome):
    unsure = [
        ScriptedCheck("one", Decision.UNSURE, 0.3, 0.2),
        ScriptedCheck("two", Decision.UNSURE, 0.6, 0.7),
        ScriptedCheck("three", Decision.UNSURE),
    ]
    checks = [*unsure, ScriptedCheck("four", outcome)]
    verdict = await StepVerifier({"v": checks}).judge(make_request("a", "b", verifier="v"))
    assert (verdict.score, verdict.probability) == (0.6, 0.7)


async def test_the_one_that_decides_has_its_own_score_and_no_others_probability(make_request):
    checks = [ScriptedCheck("one", Decision.UNSURE, 0.3, 0.2), ScriptedCheck("two", Decision.ACCEPT, 8.0)]
    verdict = await StepVerifier({"v": checks}).judge(make_request("a", "b", verifier="v"))
    assert (verdict.score, verdict.probability) == (8.0, None)


async def test_all_unsure_is_rejected_with_every_reason(make_request):
    checks = [ScriptedCheck("one", Decision.UNSURE, 0.5), ScriptedCheck("two", Decision.UNSURE)]
    verdict = await StepVerifier({"v": checks}).judge(make_request("a", "a", verifier="v"))
    assert not verdict.accepted
    assert verdict.score == 0.5
    assert verdict.reason == "no check was sure (one: one says unsure; two: two says unsure)"


@pytest.mark.parametrize("error", [RoleUnavailable("The target is away."), ValueError()])
async def test_a_check_that_fails_is_a_rejection_logged_once(make_request, caplog, error):
    checks = [ScriptedCheck("broken", error), ScriptedCheck("yes", Decision.ACCEPT)]
    with caplog.at_level(logging.ERROR):
        verdict = await StepVerifier({"v": checks}).judge(make_request("a", "a", verifier="v"))
    assert not verdict.accepted
    assert verdict.verifier == "v/broken"
    assert verdict.reason == f"the check broken failed: {str(error) or 'ValueError'}"
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert checks[1].num_calls == 0


async def test_a_step_that_a_check_cannot_read_is_rejected_and_the_check_has_not_failed(make_request, caplog):
    error = ContextTooLong.of_prompt(9000, 8192)
    checks = [ScriptedCheck("numbers", Decision.UNSURE), ScriptedCheck("judge", error), AlwaysCheck()]
    verifier = StepVerifier({"v": checks})
    with caplog.at_level(logging.INFO):
        verdict = await verifier.judge(make_request("a", "b", verifier="v"))
        again = await verifier.judge(make_request("a", "b", verifier="v"))
    assert (verdict.accepted, verdict.verifier, verdict.has_failed, verdict.num_unasked) == (False, "v", False, 2)
    assert verdict.reason == f"the check judge cannot read the step: {error}"
    assert (again.is_cached, checks[1].num_calls) == (True, 1), "it is an answer, and asked for once"
    [record] = caplog.records
    assert record.exc_info is None
    assert "v/judge cannot read a step" in record.message


async def test_steps_behind_words_of_any_language_are_judged_in_scripted_tokens_too(make_request):
    text = "Größen 日本語 \U0001f600\n"
    token_ids = tokenize(text)
    assert detokenize(token_ids) == text
    checks = [ScriptedCheck("yes", Decision.ACCEPT)]
    checks[0].reads_context = True
    prefix = Prefix(token_ids, (Piece(text, token_ids, "scripted"),))
    verdict = await StepVerifier({"v": checks}).judge(replace(make_request("a", "b", verifier="v"), prefix=prefix))
    assert verdict.accepted


async def test_cancelling_is_not_a_verdict(make_request):
    verifier = StepVerifier({"v": [ScriptedCheck("slow", asyncio.CancelledError())]})
    with pytest.raises(asyncio.CancelledError):
        await verifier.judge(make_request("a", "a", verifier="v"))


async def test_an_unknown_verifier_is_the_clients_fault(make_request):
    verifier = await create_verifier({"exact": [{"kind": "exact"}], "always": [{"kind": "always"}]}, {})
    with pytest.raises(RequestError, match="'typo'; there are: exact, always") as caught:
        await verifier.judge(make_request("a", "b", verifier="typo"))
    assert caught.value.param == "speculation.verifier"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "magic"}, "no check 'magic'"),
        ({"kind": "exact", "accept": 0.5}, "unexpected keyword argument 'accept'"),
        ({"kind": "judge", "engine": "draft"}, "asks the draft engine; those at hand are: target"),
        ({"kind": "random", "accept": 7.0}, "not between 0 and 1"),
        ({"accept": 0.5}, "has no kind"),
    ],
)
async def test_settings_that_cannot_be_are_the_operators_fault(settings, words):
    with pytest.raises(ConfigError, match=words):
        await create_verifier({"v": [settings]}, {"target": ScriptedScorer()})


async def test_a_verifier_without_checks_is_refused():
    with pytest.raises(ConfigError, match="'empty' has no checks"):
        await create_verifier({"empty": []}, {})


async def test_makes_every_check_that_needs_no_model_of_its_own(make_request):
    settings = {
        "exact": [{"kind": "exact"}],
        "judge": [{"kind": "same_numbers"}, {"kind": "judge", "engine": "own", "accept": 0.7, "reject": 0.7}],
        "score": [{"kind": "same_polarity"}, {"kind": "score", "engine": "own"}],
        "likelihood": [{"kind": "likelihood", "engine": "own"}],
        "sure": [{"kind": "self_confidence", "engine": "own", "accept": 0.9}],
        "random": [{"kind": "random", "accept": 1.0, "seed": 3}],
        "always": [{"kind": "always"}],
        "never": [{"kind": "never"}],
        "scripted": [{"kind": "scripted"}],
    }
    assert {check["kind"] for checks in settings.values() for check in checks} == set(CHECKS) - {"embedding"}
    verifier = await create_verifier(settings, {"own": ScriptedScorer()})
    request = replace(make_request("So 3.", "It is 3."), prefix=Prefix((1, 2)), vocabulary="v")
    verdicts = [await verifier.judge(replace(request, verifier=name)) for name in settings]
    assert {verdict.verifier: verdict.accepted for verdict in verdicts} == {
        "exact": False,
        "judge/judge": True,
        "score/score": True,
        "likelihood/likelihood": True,
        "sure/self_confidence": True,
        "random/random": True,
        "always/always": True,
        "never/never": False,
        "scripted": False,
    }


STEPS = st.text(st.sampled_from(list("0123456789 .-+*/=ab$\n")), max_size=30)


@settings(deadline=None)  # the machine may be busy
@given(STEPS, STEPS, st.integers(-99, 99), st.integers(-99, 99))
async def test_no_cascade_with_numbers_accepts_other_results(make_request, one, other, ours, theirs):
    verifier = StepVerifier({"v": [ExactCheck(), SameNumbersCheck(), AlwaysCheck()]})
    for draft, target in ((one, one), (one, other)):
        request = make_request(f"{draft} So x = {ours}", f"{target} So x = {theirs}", verifier="v")
        verdict = await verifier.judge(request)
        assert not verdict.accepted or ours == theirs
        assert verdict.accepted or draft != target or ours != theirs
