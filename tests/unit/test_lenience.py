"""Which draft words are taken that are not the target's own, over a sampler of our own that verifies as vLLM's does."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from actors.engines.exchangeable import fixed_tokens
from actors.engines.hint_options import request_arguments
from actors.engines.hints import HintProposer
from actors.engines.lenience import soften
from tests.unit.test_hints import HINT, Runner, make

SIZE = 12
FIXED = (0, 9)
CLOSE = 3


class Sampler:
    """Takes drafts as long as they are the likeliest tokens, and then the likeliest."""

    def forward(self, metadata: Any, draft_probs: Any, logits: torch.Tensor, sampling_metadata: Any) -> list[list[int]]:
        self.logits = logits
        best = logits.argmax(-1).tolist()
        drafts, found, row = metadata.draft_token_ids.tolist(), [], 0
        for at, count in enumerate(metadata.num_draft_tokens):
            first = sum(metadata.num_draft_tokens[:at])
            taken = 0
            while taken < count and best[row + taken] == drafts[first + taken]:
                taken += 1
            found.append(best[row : row + taken + 1])
            row += count + 1
        return found


def batch(*drafts: list[int]) -> Any:
    """The metadata of a pass that verifies `drafts`, one list a sequence; each has a row of logits more than drafts."""
    rows, row = [], 0
    for of in drafts:
        rows += range(row, row + len(of))
        row += len(of) + 1
    return SimpleNamespace(
        draft_token_ids=torch.tensor([token for of in drafts for token in of], dtype=torch.int32),
        num_draft_tokens=[len(of) for of in drafts],
        target_logits_indices=torch.tensor(rows, dtype=torch.int32),
    )


def logits(*choices: dict[int, float]) -> torch.Tensor:
    """Rows of logits from probabilities; all others are very unlikely."""
    found = torch.full((len(choices), SIZE), -30.0)
    for row, choice in enumerate(choices):
        for token, probability in choice.items():
            found[row, token] = math.log(probability)
    return found


class Wishes:
    def __init__(self, *lenience: float) -> None:
        self.lenience = lenience
        self.given: dict[int, tuple[int, ...]] = {}

    def lenience_at(self, at: int) -> float:
        return self.lenience[at]

    def gave(self, at: int, places: tuple[int, ...]) -> None:
        self.given[at] = places


def softened(wishes: Any, fixed: tuple[int, ...] = FIXED) -> Any:
    runner = SimpleNamespace(rejection_sampler=Sampler(), input_batch=SimpleNamespace(vocab_size=SIZE), device="cpu")
    assert soften(runner, wishes, fixed)
    return runner.rejection_sampler


GREEDY = SimpleNamespace(temperature=None)


def test_a_word_is_taken_that_is_likely_enough() -> None:
    wishes = Wishes(0.5, 0.5, 1.0)
    sampler = softened(wishes)
    two_ways = {1: 0.6, 2: 0.35}
    rows = logits(two_ways, {5: 1.0}, {1: 0.7, 2: 0.3}, {5: 1.0}, two_ways, {5: 1.0})
    assert sampler.forward(batch([2], [2], [2]), None, rows, GREEDY) == [[2, 5], [1], [1]]
    assert wishes.given == {0: (0,)}


@pytest.mark.parametrize(("draft", "own"), [(0, 1), (1, 0), (9, 0)])
def test_fixed_words_are_the_models_own_choice(draft: int, own: int) -> None:
    wishes = Wishes(0.1)
    rows = logits({own: 0.55, draft: 0.45}, {5: 1.0})
    assert softened(wishes).forward(batch([draft]), None, rows, GREEDY) == [[own]]
    assert not wishes.given


def test_without_a_wish_the_logits_are_not_touched() -> None:
    rows = logits({1: 0.6, 2: 0.4}, {5: 1.0})
    before = rows.clone()
    assert softened(Wishes(1.0)).forward(batch([2]), None, rows, GREEDY) == [[1]]
    assert torch.equal(rows, before)


def test_the_odds_of_a_sampled_draft_grow_by_its_lenience_at_every_temperature() -> None:
    temperatures = torch.tensor([2.0, 0.0])
    rows = logits({1: 0.6, 2: 0.4}, {5: 1.0}, {1: 0.6, 2: 0.4}, {5: 1.0})
    before = rows.clone()
    sampler = softened(Wishes(0.25, 0.25))
    sampler.forward(batch([2], [2]), None, rows, SimpleNamespace(temperature=temperatures))
    grown = (rows - before)[[0, 2], [2, 2]]
    assert torch.allclose(grown, torch.tensor([2.0 * math.log(4.0), math.log(4.0)]))
    rows[[0, 2], [2, 2]] -= grown
    assert torch.allclose(rows, before), "nothing else is changed"


def test_without_knowledge_of_the_vocabulary_there_is_no_lenience() -> None:
    rows = logits({1: 0.6, 2: 0.4}, {5: 1.0})
    assert softened(Wishes(0.1), fixed=()).forward(batch([2]), None, rows, GREEDY) == [[1]]


def test_another_sampler_than_expected_has_no_lenience_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert not soften(SimpleNamespace(), Wishes(0.5), FIXED)
    sampler = softened(Wishes(0.5))
    rows = logits({1: 0.6, 2: 0.4}, {5: 1.0})
    for _ in range(2):
        metadata = batch([2])
        del metadata.target_logits_indices
        assert sampler.forward(metadata, None, rows, GREEDY) == [[1]]
    assert len(caplog.records) == 2


def proposer_with(lenience: float, close: int | None = None) -> tuple[HintProposer, Runner]:
    proposer, runner = make()
    runner.begin("a", request_arguments("a", [HINT], lenience=lenience, close=close))
    return proposer, runner


def test_only_hints_are_taken_leniently() -> None:
    proposer, runner = proposer_with(0.5)
    assert proposer.lenience_at(0) == 1.0, "nothing was proposed yet"
    assert runner.step(proposer, {"a": [1]})["a"] == [2, 3, 4, 5]
    assert proposer.lenience_at(0) == 0.5
    proposer, runner = make()
    runner.begin("a", request_arguments("a", [[70, 71]], lenience=0.5))
    assert runner.step(proposer, {"a": [90, 91]})["a"] == [90, 91], "looked up in its own words"
    assert proposer.lenience_at(0) == 1.0


def test_lenience_ends_where_the_reasoning_is_closed() -> None:
    proposer, runner = proposer_with(0.5, close=CLOSE)
    assert runner.step(proposer, {"a": [1]})["a"] == [2, CLOSE], "nothing is proposed behind it before it is there"
    assert runner.step(proposer, {"a": [2, CLOSE, 4]})["a"] == [5, 6, 7, 8]
    assert proposer.lenience_at(0) == 1.0


def test_what_lenience_chose_is_counted_as_far_as_it_came() -> None:
    proposer, runner = proposer_with(0.5)
    runner.step(proposer, {"a": [1]})
    proposer.gave(0, (0, 1, 3))
    runner.step(proposer, {"a": [2, 3, 9]})
    assert proposer.counts()["num_lenient_tokens"] == 2
    runner.step(proposer, {"a": [7]})
    assert proposer.counts()["num_lenient_tokens"] == 2


def test_words_and_plain_punctuation_may_be_exchanged() -> None:
    texts = dict(enumerate([" the", "So", ".", ",", "\n", "\n\n", " remaining", ":\n", "'", "ing", "été"]))
    assert fixed_tokens(texts, ()) == ()


FIXED_TEXTS = "7| 12|=| +|(x|<|end|>||\ufffd| not| more| less| seven| half| twice| minutes| add|Subtract|²|_| x| $| x2"


@pytest.mark.parametrize("text", FIXED_TEXTS.split("|"))
def test_what_turns_a_meaning_round_may_not(text: str) -> None:
    assert fixed_tokens({3: text}, ()) == (3,)


def test_special_tokens_may_not() -> None:
    assert fixed_tokens({1: "end", 2: "the"}, {1: "end"}) == (1,)
