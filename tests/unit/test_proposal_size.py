"""As many tokens are proposed as pay for themselves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engines.proposal_size import PRIOR_COST, Likelihood, PassCost, ProposalSize


def learned(cost: float, seed: int = 0, num_passes: int = 200, noise: float = 0.2) -> PassCost:
    """A cost that was learned of noisy passes of 1 to 40 tokens."""
    chance, found = random.Random(seed), PassCost()
    for _ in range(num_passes):
        num_tokens = chance.randint(1, 40)
        found.observe(num_tokens, 0.2 * (1 + cost * num_tokens) * chance.uniform(1 - noise, 1 + noise))
    return found


def sizes(cost: float, proposals: list[tuple[str, int]], num_seqs: int | None = None) -> list[int]:
    size = ProposalSize()
    size.cost = learned(cost, noise=0.0)
    return size.sizes(proposals, num_seqs or len(proposals))


@pytest.mark.parametrize("cost", [0.0, 0.005, 0.05, 0.2])
def test_the_cost_of_a_token_is_learned(cost: float) -> None:
    for seed in range(5):
        assert cost / 2 - 0.01 < learned(cost, seed).value < 2 * cost + 0.01


def test_without_passes_of_different_sizes_the_cost_stays_what_it_was() -> None:
    found = PassCost()
    assert found.value == PRIOR_COST
    for _ in range(500):
        found.observe(1, 0.2)
    assert found.value == pytest.approx(PRIOR_COST, rel=0.01)


def test_likelihoods_follow_what_is_observed() -> None:
    found = Likelihood(0.9)
    for _ in range(300):
        found.observe(4, 1)
    assert found.value == pytest.approx(0.5, abs=0.02), "one right for each wrong"
    for _ in range(300):
        found.observe(4, 4)
    assert found.value > 0.98


def test_cheap_tokens_are_proposed_to_the_end_and_dear_ones_less() -> None:
    assert sizes(0.0, [("along 4", 12), ("ngram 2", 4)]) == [12, 4]
    one = [sizes(cost, [("along 4", 16)])[0] for cost in (0.001, 0.02, 0.05, 0.2, 1.0)]
    assert one == sorted(one, reverse=True)
    assert one[0] == 16
    assert one[-1] < 8


def test_a_loaded_engine_gets_the_likely_tokens_only() -> None:
    alone = sizes(0.05, [("along 4", 16), ("ngram 2", 4)], 2)
    loaded = sizes(0.05, [("along 4", 16)] * 8 + [("ngram 2", 4)] * 8)
    assert alone[1] > 0
    assert 0 < loaded[0] < alone[0]
    assert loaded[-1] == 0


@given(
    st.lists(st.tuples(st.sampled_from(["along 4", "again 2", "ngram 3", "else"]), st.integers(0, 16)), max_size=20),
    st.integers(0, 20),
    st.sampled_from([0.0, 0.01, 0.05, 1.0]),
)
def test_proposals_only_shrink_and_never_make_a_pass_slower_for_what_it_yields(
    proposals: list[tuple[str, int]], others: int, cost: float
) -> None:
    size = ProposalSize()
    size.cost = learned(cost, noise=0.0)
    num_seqs = len(proposals) + others
    found = size.sizes(proposals, num_seqs)
    assert len(found) == len(proposals)
    assert all(0 <= k <= length for k, (_, length) in zip(found, proposals, strict=True))
    c = size.cost.value
    gained = num_seqs + sum(
        sum(size._of(kind).value ** j for j in range(1, k + 1)) for k, (kind, _) in zip(found, proposals, strict=True)
    )
    plain = num_seqs / (1 + c * num_seqs)
    assert gained / (1 + c * (num_seqs + sum(found))) >= plain * (1 - 1e-9)
