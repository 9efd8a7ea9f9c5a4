"""Costs measured on an engine whose costs are known, on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from actors.engines.scripted import ScriptedEngine
from deployments.calibration.engine_times import measure, num_parts
from deployments.simulation.cost_file import CostFile, RoleCosts
from tests.unit.clock import run_virtually

OPTIONS = {"token_s": 0.1, "sequence_s": 0.02, "first_token_s": 0.3, "num_steps": 40}


def measured(**more: object) -> tuple[RoleCosts, int]:
    told = []

    async def work() -> RoleCosts:
        engine = await ScriptedEngine.create({**OPTIONS, **more}, "r")
        try:
            return await measure(engine, "scripted", asyncio.get_running_loop().time, lambda: told.append(1))
        finally:
            assert engine.num_running() == 0
            await engine.shutdown()

    return run_virtually(work()), len(told)


def test_the_engine_s_own_speed_is_found() -> None:
    costs, num_told = measured()
    plain = costs.passes[0]
    assert plain.proposed == 0
    assert dict(plain.pass_s)[1] == pytest.approx(0.1, rel=0.03)
    assert dict(plain.pass_s)[8] == pytest.approx(0.1 + 7 * 0.02, rel=0.05)
    assert costs.prefill_passes == pytest.approx(3.0, rel=0.05)
    assert costs.call_s == 0.0
    assert costs.prefill_token_s == pytest.approx(0.0, abs=1e-4)
    assert num_told == num_parts()


def test_what_is_measured_is_what_a_simulation_takes() -> None:
    costs, _ = measured()
    file = CostFile(source="test", target=costs, draft=costs)
    assert file.cost("target").seconds(1) == pytest.approx(0.1, rel=0.03)
