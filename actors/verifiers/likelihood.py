"""Likelihood: how likely the target holds the draft's step, token by token, in one prefill without output.

Promises: the score is the geometric mean of the probabilities that the target gives the step's tokens, which is e to
the mean log-probability: 1 for certainty, whatever the step's length. One token below `floor` rejects, whatever the
mean: a mean over fifty tokens hides a digit that the target would never have written. The target's own step is not
looked at and need not be there; where it is, other endings still reject.

The engine computes the whole prefix for this (vLLM gives no log-probabilities for cached tokens), so it costs more the
longer the text is.
"""

from __future__ import annotations

import math

from actors.messages import JudgeRequest
from actors.roles import Scorer
from actors.verifiers.check import Calibration, Decision, Opinion, Points, Zones, both_steps


class LikelihoodCheck:
    """Accepts a mean token probability of `accept` or more, rejects one below `reject`, else unsure; rejects a step
    with a token below `floor`."""

    name = "likelihood"
    reads_context = True

    def __init__(
        self,
        scorer: Scorer,
        accept: float = 0.8,
        reject: float = 0.8,
        floor: float = 0.01,
        calibration: Points = (),
    ) -> None:
        self._scorer = scorer
        self._zones = Zones(accept, reject, Calibration.of(calibration))
        self._floor = floor

    async def check(self, request: JudgeRequest) -> Opinion:
        found = await token_logprobs(self._scorer, request)
        if isinstance(found, Opinion):
            return found
        mean, least = mean_probability(found), math.exp(min(found))
        if least < self._floor:
            return Opinion(
                Decision.REJECT, f"the target gives one token of the step a probability of {least:.2g} only", mean
            )
        return self._zones.opinion(mean, "the mean probability of the step's tokens under the target")


async def token_logprobs(scorer: Scorer, request: JudgeRequest) -> tuple[float, ...] | Opinion:
    """The log-probabilities of the draft step's tokens, at least one, or the opinion where there are none."""
    if request.target is not None and isinstance(steps := both_steps(request), Opinion):
        return steps
    if request.prefix is None:
        return Opinion(Decision.UNSURE, "the tokens before the step were not sent")
    found = await scorer.token_logprobs(request.prefix, request.draft.piece, request.session_id, request.vocabulary)
    return found or Opinion(Decision.UNSURE, "the step has no tokens")


def mean_probability(logprobs: tuple[float, ...]) -> float:
    """The geometric mean of the tokens' probabilities."""
    return math.exp(sum(logprobs) / len(logprobs))
