"""The controls."""

from __future__ import annotations

import pytest

from actors.errors import ConfigError
from actors.verifiers.check import Decision
from actors.verifiers.controls import AlwaysCheck, NeverCheck, RandomCheck


async def test_always_and_never(make_request):
    assert (await AlwaysCheck().check(make_request("a", "b"))).decision is Decision.ACCEPT
    assert (await NeverCheck().check(make_request("a", "a"))).decision is Decision.REJECT


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
async def test_random_accepts_its_share(make_request, share):
    check = RandomCheck(accept=share)
    opinions = [await check.check(make_request(f"step {i}", "other")) for i in range(1000)]
    accepted = sum(opinion.decision is Decision.ACCEPT for opinion in opinions)
    assert accepted == pytest.approx(1000 * share, abs=50 if 0 < share < 1 else 0)


async def test_random_is_the_same_for_the_same_texts_and_seed_only(make_request):
    async def decisions(seed: int) -> list[Decision]:
        return [(await RandomCheck(0.5, seed).check(make_request(f"step {i}", "other"))).decision for i in range(64)]

    assert await decisions(1) == await decisions(1)
    assert await decisions(1) != await decisions(2)


async def test_random_does_not_confuse_where_one_text_ends(make_request):
    check = RandomCheck()
    reasons = {(await check.check(make_request("ab"[:i], "ab"[i:]))).reason for i in range(3)}
    assert len(reasons) == 3


def test_random_refuses_what_is_no_probability():
    with pytest.raises(ConfigError):
        RandomCheck(accept=2.0)
