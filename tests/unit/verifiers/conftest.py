"""Requests for a verdict, made of two texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.messages import Ending, JudgeRequest, Step

MakeRequest = Callable[..., JudgeRequest]


def make_request(
    draft: str,
    target: str,
    *,
    verifier: str = "balanced",
    question: str = "How many apples does Ann have?",
    context: str = "Ann buys 3 bags.",
    draft_ending: Ending = Ending.BOUNDARY,
    target_ending: Ending = Ending.BOUNDARY,
) -> JudgeRequest:
    return JudgeRequest(
        session_id="session",
        verifier=verifier,
        question=question,
        context=context,
        draft=Step(draft, (1,), "v", draft_ending),
        target=Step(target, (2,), "v", target_ending),
    )


@pytest.fixture(scope="session", name="make_request")
def make_request_fixture() -> MakeRequest:
    return make_request
