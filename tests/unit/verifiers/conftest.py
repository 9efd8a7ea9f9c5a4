"""Requests for a verdict, made of two texts, and the texts that patterns could be slow on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.messages import Ending, JudgeRequest, Step

HOSTILE = [
    *(
        "#",
        "*",
        "-",
        "- ",
        "> ",
        "=",
        "\n",
        " ",
        "1",
        "1 ",
        "1,111",
        "\\",
        "{",
        "}",
        "$",
        "$a ",
        "word ",
        "non-",
        "-(",
        "`",
    ),
    "\u00b2",
    "\u0301\u0316",
]
"""Repeated to 20,000 characters, where no result comes of them. Patterns that try them in several ways take days."""

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


@pytest.fixture(params=HOSTILE, ids=ascii)
def hostile_text(request: pytest.FixtureRequest) -> str:
    """Twice 20,000 characters of one kind: where a line begins, and behind a number."""
    kind: str = request.param
    run = kind * (20_000 // len(kind))
    return f"{run}x\n3 - {run}?\n4"
