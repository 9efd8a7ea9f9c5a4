"""Users are spread evenly over target replicas."""

from __future__ import annotations

import asyncio

from deployments.bench.scaling import throughput


def test_twice_the_replicas_with_twice_the_users_make_nearly_twice_the_tokens() -> None:
    async def both() -> list[float]:
        return await asyncio.gather(*(throughput(number, "target", window_s=3.0, warm_up_s=0.5) for number in (1, 2)))

    one, two = asyncio.run(both())
    assert two > 1.6 * one  # 1.95 where nothing else runs on the machine
