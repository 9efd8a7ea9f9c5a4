"""With temperature, exact output has the target's own distribution, whatever rule ends steps and whoever plans them.

The target is a model of a few tokens whose next one depends on the last alone, so its output shows all there is to know
about its distribution: how often each token follows each. The rules see words, decimals, line ends and blank lines, and
many tokens of which a rule could learn too late that a step had ended before them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from actors.boundaries import BOUNDARIES, DeltaCutter, StepSplitter
from actors.draft import Draft
from actors.engines.hint_calls import HintedCall
from actors.engines.scripted import Script, ScriptedEngine, ScriptOptions
from actors.messages import Delta, Ending, StepRule, TokenIds
from actors.target import TargetModel
from deployments.coordinator.pipeline import Roles
from deployments.generation import Committed, Finished, SamplingOptions
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Bench, config, request

Chain = Mapping[str, Mapping[str, float]]
LINE = {"so": 0.2, " wd.": 0.8}
WORD = {"\n": 0.25, " wd.": 0.3, " 4": 0.15, "\n\n": 0.3}
CHAIN: Chain = {
    "\n": LINE,
    "\n\n": LINE,
    "so": {" wd.": 0.5, " 4": 0.5},
    " wd.": WORD,
    " 4": {".": 0.8, " wd.": 0.2},
    ".": {"5": 0.2, " wd.": 0.4, " 4": 0.1, "\n": 0.3},
    "5": {".": 0.5, "\n": 0.5},
}
"""How likely the target writes each token behind each other one."""
ANOTHER: Chain = {**CHAIN, " wd.": {"\n": 0.2, " wd.": 0.4, " 4": 0.1, "\n\n": 0.3}}
"""The draft's."""
TOKENS = tuple(CHAIN)
TOKEN = re.compile("|".join(re.escape(token) for token in sorted(TOKENS, key=len, reverse=True)))
NUM_REQUESTS, NUM_TOKENS = 10, 80
MAX_DEVIATIONS = 4.5
"""Standard deviations that a count may be off: by chance alone that happens once in 150,000 counts."""


class ChainEngine(ScriptedEngine):
    """Draws each token by a chain."""

    def __init__(self, options: ScriptOptions, chain: Chain, seed: int) -> None:
        super().__init__(replace(options, max_model_len=10**6))
        self._chain = chain
        self._random = Random(seed)

    async def _write(
        self,
        call: HintedCall,
        script: Script,
        token_ids: TokenIds,
        max_tokens: int,
        rule: StepRule,
        max_steps: int | None,
    ) -> AsyncGenerator[Delta, None]:
        cutter = DeltaCutter(StepSplitter(rule, capped=max_steps is not None), TOKENS.__getitem__, max_steps)
        last = token_ids[-1]
        for number in range(1, max_tokens + 1):
            follows = self._chain[TOKENS[last] if last < len(TOKENS) else "\n"]
            (drawn,) = self._random.choices(tuple(follows), tuple(follows.values()))
            last = TOKENS.index(drawn)
            await self._sleep(self._options.token_s)
            for delta in cutter.feed((last,), Ending.CAP if number == max_tokens else None):
                yield delta
            if cutter.finished:
                return


def written(seed: int, changes: Mapping[str, object], wishes: Mapping[str, object]) -> tuple[list[list[str]], int]:
    """The tokens of all requests, and how many draft steps were accepted; `changes` are of the configuration."""

    async def go() -> tuple[list[list[str]], int]:
        bench = Bench(settings=config(**changes))
        bench.target_engine = ChainEngine(TARGET, CHAIN, seed)
        bench.draft_engine = ChainEngine(DRAFT, ANOTHER, seed + 1)
        bench.roles = Roles(TargetModel(bench.target_engine), Draft(bench.draft_engine))
        coordinator = await bench.coordinator()
        texts, num_accepted = [], 0
        for _ in range(NUM_REQUESTS):
            asked = request(verifier="exact", max_tokens=NUM_TOKENS, **wishes)
            outputs = [o async for o in coordinator.generate(replace(asked, sampling=SamplingOptions(temperature=1.0)))]
            texts.append(TOKEN.findall("".join(o.text for o in outputs if isinstance(o, Committed))))
            assert isinstance(outputs[-1], Finished)
            num_accepted += outputs[-1].summary.num_accepted_steps
        return texts, num_accepted

    return run_virtually(go())


WAYS: Mapping[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
    "lookahead": ({}, {"mode": "lookahead"}),
    "whole steps": ({"restart_in_step": False}, {"mode": "lookahead"}),
    "branches": ({}, {"mode": "lookahead", "branches": 2, "max_lookahead": 2}),
    "sync": ({}, {"mode": "lookahead_sync"}),
    "controller": ({"controller": {"enabled": True}}, {"mode": "lookahead"}),
}


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("way", WAYS)
def test_each_token_follows_each_as_often_as_the_target_says(way: str, boundary: str) -> None:
    changes, wishes = WAYS[way]
    cap = 3 if boundary == "tokens" else 64
    texts, num_accepted = written(7, {**changes, "step": {"boundary": boundary, "max_tokens": cap}}, wishes)
    assert num_accepted > 5
    assert all(len(text) == NUM_TOKENS for text in texts)
    pairs = Counter(pair for text in texts for pair in pairwise(text))
    for last, follows in CHAIN.items():
        num = sum(pairs[last, token] for token in TOKENS)
        for token in TOKENS:
            p = follows.get(token, 0.0)
            assert abs(pairs[last, token] - num * p) <= MAX_DEVIATIONS * math.sqrt(num * p * (1 - p)), (last, token)
