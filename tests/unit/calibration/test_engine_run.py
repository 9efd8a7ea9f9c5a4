"""Engines that are timed one after the other find the same environment, whatever one of them sets."""

from __future__ import annotations

import os
from typing import Any

import pytest

from actors.engines.scripted import ScriptedEngine
from actors.errors import ConfigError
from deployments.calibration import engine_run
from deployments.config import validate_config
from deployments.simulation.cost_file import PassTimes, RoleCosts

NAMES = ("WISHED", "TARGETS_RUNNER", "CORES", "OF_BEFORE", "TAKEN")


def named() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


async def test_nothing_that_the_target_s_start_set_is_there_for_the_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OF_BEFORE", "1")
    monkeypatch.setenv("TAKEN", "1")
    found: list[dict[str, str]] = []

    async def create(kind: str, model: str, options: dict[str, Any], cpu_cores: str | None) -> ScriptedEngine:
        found.append(named())
        os.environ.setdefault("TARGETS_RUNNER", model)
        os.environ["CORES"] = os.environ["OF_BEFORE"] = str(cpu_cores)
        os.environ.pop("TAKEN", None)
        return await ScriptedEngine.create({}, "r")

    async def measure(engine: ScriptedEngine, model: str, *_: object) -> RoleCosts:
        found.append(named())
        return RoleCosts(model=model, passes=[PassTimes(proposed=0, pass_s=[(1, 0.1)])])

    monkeypatch.setattr(engine_run, "create_engine", create)
    monkeypatch.setattr(engine_run, "measure", measure)
    writer = {"model": "scripted", "engine": {"kind": "scripted"}}
    placements = {"target": {"cpu_cores": "0-3", "env": {"WISHED": "1"}}, "draft": {"cpu_cores": "4"}}
    made = {role: writer | {"placement": placement} for role, placement in placements.items()}
    await engine_run.time_engines(validate_config({"served_model_name": "m", **made}, "test"), lambda *_: lambda: None)
    before = {"OF_BEFORE": "1", "TAKEN": "1"}
    assert found == [
        {"WISHED": "1", **before},
        {"WISHED": "1", "TARGETS_RUNNER": "scripted", "CORES": "0-3", "OF_BEFORE": "0-3"},
        before,
        {"TARGETS_RUNNER": "scripted", "CORES": "4", "OF_BEFORE": "4"},
    ]
    assert named() == before


@pytest.mark.parametrize("speculation", [{"method": "ngram"}, {"method": "hints", "model": "m"}])
async def test_an_engine_whose_guesses_are_not_replayed_is_not_timed(speculation: dict[str, Any]) -> None:
    engine = {"options": {"speculative_config": speculation}}
    config = {"served_model_name": "m", "target": {"model": "t"}, "draft": {"model": "d", "engine": engine}}
    with pytest.raises(ConfigError, match="The draft guesses tokens by") as refused:
        await engine_run.time_engines(validate_config(config, "test"), lambda *_: lambda: None)
    assert refused.value.param == "draft.engine.options.speculative_config"
