"""What an engine compiles with its first use, it compiles before it is ready and not while others wait."""

from __future__ import annotations

from contextlib import suppress

from actors.errors import RequestError
from actors.roles import Engine

NUMS_WANTED = (2, 4, 10, 20)
"""Tokens whose probabilities verifiers ask for at once: the two labels of a judge or the ten digits of a score, and
twice as many where each counts with and without a space before it. On cards vLLM compiles one kernel for the next power
of two from there, and another for the next one from there with the token that is drawn."""


async def use_once(engine: Engine) -> None:
    """Draw a token, and rank what a verifier would have ranked."""
    for num_wanted in NUMS_WANTED:
        await engine.next_token_probabilities(f"first:{num_wanted}", (0,), tuple(range(num_wanted)))
    with suppress(RequestError):  # some options leave no way to these, which is for those to hear who ask for them
        await engine.token_logprobs("first", (0, 0), 1)
