"""The likelihood of the draft's step under the target: a mean per token, and a floor under each."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from actors.messages import Ending, Piece, Prefix
from actors.verifiers.check import Decision
from actors.verifiers.likelihood import LikelihoodCheck
from actors.verifiers.self_confidence import SelfConfidenceCheck


class ScriptedScorer:
    """Gives the tokens set probabilities; keeps what it was asked."""

    def __init__(self, *probabilities: float) -> None:
        self.found = tuple(math.log(p) for p in probabilities)
        self.calls = []

    async def token_logprobs(self, prefix, piece, session_id, vocabulary):
        self.calls.append((prefix, piece, session_id, vocabulary))
        return self.found


@pytest.fixture(name="request_alone")
def request_alone_fixture(make_request):
    return replace(make_request("So 12.", ""), target=None, prefix=Prefix((7, 8)))


@pytest.mark.parametrize(
    ("probabilities", "decision", "score"),
    [
        ((1.0, 1.0, 1.0), Decision.ACCEPT, 1.0),
        ((0.9, 0.4), Decision.UNSURE, 0.6),
        ((0.25, 0.25), Decision.REJECT, 0.25),
        ((1.0,) * 60 + (0.001,), Decision.REJECT, 0.001 ** (1 / 61)),
        ((), Decision.UNSURE, None),
    ],
)
async def test_geometric_mean_and_floor(request_alone, probabilities, decision, score):
    check = LikelihoodCheck(ScriptedScorer(*probabilities), accept=0.8, reject=0.5, floor=0.01)
    opinion = await check.check(request_alone)
    assert opinion.decision is decision
    assert opinion.score == (pytest.approx(score) if score is not None else None)


async def test_asks_for_the_drafts_own_tokens_after_the_targets_prefix(request_alone):
    scorer = ScriptedScorer(1.0)
    await LikelihoodCheck(scorer).check(replace(request_alone, vocabulary="w"))
    assert scorer.calls == [(Prefix((7, 8)), Piece("So 12.", (1,), "v"), "session", "w")]


async def test_is_unsure_where_the_prefix_was_not_sent(request_alone):
    scorer = ScriptedScorer(1.0)
    assert (await LikelihoodCheck(scorer).check(replace(request_alone, prefix=None))).decision is Decision.UNSURE
    assert scorer.calls == []


async def test_other_endings_reject_without_asking(make_request):
    scorer = ScriptedScorer(1.0)
    request = replace(make_request("So 12.", "So 12.", draft_ending=Ending.END), prefix=Prefix((7,)))
    assert (await LikelihoodCheck(scorer).check(request)).decision is Decision.REJECT
    assert scorer.calls == []


@pytest.mark.parametrize(
    ("probabilities", "decision"),
    [((0.99, 0.95), Decision.ACCEPT), ((0.9, 0.9), Decision.UNSURE), ((0.001, 0.001), Decision.UNSURE)],
)
async def test_self_confidence_accepts_or_asks_on(request_alone, probabilities, decision):
    request = replace(request_alone, vocabulary="v")
    opinion = await SelfConfidenceCheck(ScriptedScorer(*probabilities)).check(request)
    assert opinion.decision is decision
    assert opinion.score == pytest.approx(math.sqrt(math.prod(probabilities)))


async def test_a_draft_of_another_vocabulary_is_not_asked_for_its_confidence(request_alone):
    scorer = ScriptedScorer(1.0)
    opinion = await SelfConfidenceCheck(scorer).check(replace(request_alone, vocabulary="other"))
    assert opinion.decision is Decision.UNSURE
    assert scorer.calls == []
