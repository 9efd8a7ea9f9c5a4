"""A seed further on in the text: another one for each place, and always the same."""

from __future__ import annotations

from dataclasses import replace

from actors.messages import SEED_STEP, Sampling


def test_each_place_has_a_seed_of_its_own() -> None:
    sampling = Sampling(0.8, 0.9, seed=7)
    seeds = [sampling.after(place).seed for place in range(100)]
    assert seeds[:2] == [7, 7 + SEED_STEP]
    assert len(set(seeds)) == 100
    assert sampling.after(3) == sampling.after(1).after(2) == replace(sampling, seed=7 + 3 * SEED_STEP)


def test_seeds_stay_within_what_engines_take_and_none_stays_none() -> None:
    for place in (0, 1, 10**9):
        seed = Sampling(seed=2**63 - 1).after(place).seed
        assert seed is not None
        assert 0 <= seed < 2**63
    assert Sampling(0.8).after(3) == Sampling(0.8)
