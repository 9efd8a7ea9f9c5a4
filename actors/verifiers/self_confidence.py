"""Self-confidence: how likely the draft itself held the tokens of its step.

Promises: accepts where the draft was sure of what it wrote, else asks the next check: by default it never rejects. The
score is the geometric mean of the tokens' probabilities, as for `likelihood`. The draft's engine computes them in one
prefill; they are not kept from when it wrote, since then every token of every draft would pay for them. A draft that
does not read the target's tokens is never asked.

A small model can be sure and wrong: conditions such as `same_numbers` belong before this check.
"""

from __future__ import annotations

from actors.messages import JudgeRequest
from actors.roles import Scorer
from actors.verifiers.check import Calibration, Decision, Opinion, Points, Zones
from actors.verifiers.likelihood import mean_probability, token_logprobs


class SelfConfidenceCheck:
    """Accepts a mean token probability of `accept` or more under the draft, rejects one below `reject`, else unsure."""

    name = "self_confidence"
    reads_context = True

    def __init__(self, scorer: Scorer, accept: float = 0.95, reject: float = 0.0, calibration: Points = ()) -> None:
        self._scorer = scorer
        self._zones = Zones(accept, reject, Calibration.of(calibration))

    async def check(self, request: JudgeRequest) -> Opinion:
        if request.vocabulary != request.draft.vocabulary:
            return Opinion(Decision.UNSURE, "the draft has another vocabulary than the tokens before the step")
        found = await token_logprobs(self._scorer, request)
        if isinstance(found, Opinion):
            return found
        return self._zones.opinion(mean_probability(found), "the mean probability of the step's tokens under the draft")
