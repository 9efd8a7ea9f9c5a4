"""What an engine is asked before it is ready: as many tokens at once as verifiers ask for later."""

from __future__ import annotations

from typing import Any

import pytest

from actors.engines.first_use import NUMS_WANTED, use_once
from actors.errors import RequestError
from actors.messages import TokenIds
from actors.verifiers.judge import LABELS
from actors.verifiers.score import DIGITS

NEEDED = {num for choices in (LABELS, DIGITS) for num in (len(choices), 2 * len(choices))}
"""Each label and each digit is one token, or two: with a space before it and without."""


def next_power_of_2(num: int) -> int:
    """As Triton's."""
    return 1 << (num - 1).bit_length()


def test_both_kernels_of_everything_that_verifiers_ask_for_are_compiled() -> None:
    """vLLM 0.32's second model runner compiles by these two widths: of what is wanted, and with the token drawn."""
    assert {2, 4, 10, 20} == NEEDED
    done = {(next_power_of_2(num), next_power_of_2(num + 1)) for num in NUMS_WANTED}
    assert {(next_power_of_2(num), next_power_of_2(num + 1)) for num in NEEDED} <= done


class Asked:
    """An engine that only notes what it is asked."""

    def __init__(self, gives_logprobs: bool) -> None:
        self._gives_logprobs = gives_logprobs
        self.wanted: list[TokenIds] = []
        self.ranked: list[TokenIds] = []

    async def next_token_probabilities(
        self, call_id: str, token_ids: TokenIds, wanted: TokenIds, cache_salt: str = ""
    ) -> tuple[float, ...]:
        self.wanted.append(wanted)
        return tuple(0.0 for _ in wanted)

    async def token_logprobs(
        self, call_id: str, token_ids: TokenIds, start: int, cache_salt: str = ""
    ) -> tuple[float, ...]:
        self.ranked.append(token_ids)
        if not self._gives_logprobs:
            raise RequestError("These options leave no way to it.", "options")
        return ()


@pytest.mark.parametrize("gives_logprobs", [True, False])
async def test_an_engine_is_asked_for_all_of_it_once(gives_logprobs: bool) -> None:
    engine: Any = Asked(gives_logprobs)
    await use_once(engine)
    assert [len(set(wanted)) for wanted in engine.wanted] == list(NUMS_WANTED)
    assert len(engine.ranked) == 1
