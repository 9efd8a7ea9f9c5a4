"""Roles on hosts of their own, with delayed wires between them: the same texts, a little later."""

from __future__ import annotations

import asyncio

import pytest

from deployments.bench.network import Condition, run
from deployments.bench.wires import missing

WHY = missing()


@pytest.mark.skipif(WHY is not None, reason=f"hosts cannot be made here: {WHY}")
def test_delay_between_nodes_costs_a_small_part_of_the_speed_up() -> None:
    near, far = asyncio.run(run([Condition(0.0), Condition(0.01)], num_requests=2, num_steps=5, scale=0.4))
    assert near.accept_rate == far.accept_rate
    assert near.speedup > 1.3
    assert far.speedup > 0.6 * near.speedup  # 0.85 where nothing else runs on the machine
    assert far.lookahead_s > near.lookahead_s
