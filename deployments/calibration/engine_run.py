"""Starts the engines of a configuration in this process and times them: each alone, then what they do to each other.

Promises: the second engine starts when the first one has been timed; both are shut down whatever happens; the
environment of the configuration is set while an engine starts and taken back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

from actors.engines import create_engine
from actors.errors import ConfigError
from actors.roles import Engine
from deployments.calibration.engine_times import measure, measure_disturbance, num_parts
from deployments.config import Config
from deployments.sections import WriterConfig
from deployments.simulation.cost_file import CostFile, RoleCosts

COSTS_FILE = "costs.yaml"


async def time_engines(config: Config, bar: Callable[[str, int], Callable[[], None]]) -> CostFile:
    """Target and draft of `config`. ConfigError if it has no draft."""
    if config.draft is None:
        raise ConfigError("There is no draft in this configuration; both engines are timed.", "draft")
    async with AsyncExitStack() as engines:
        target = await _start(config.target, engines)
        target_costs = await _time(target, config.target, bar("target", num_parts()))
        draft = await _start(config.draft, engines)
        draft_costs = await _time(draft, config.draft, bar("draft", num_parts()))
        tell, clock = bar("side by side", 2), time.perf_counter
        disturbed = await measure_disturbance(target, draft, clock)
        tell()
        target_costs = target_costs.model_copy(update={"disturbance": disturbed})
        draft_costs = draft_costs.model_copy(update={"disturbance": await measure_disturbance(draft, target, clock)})
        tell()
    return CostFile(source=f"lookahead calibrate --engine, {config.name}", target=target_costs, draft=draft_costs)


async def _start(writer: WriterConfig, engines: AsyncExitStack) -> Engine:
    """The engine of `writer`, which ends with `engines`."""
    with _environment(writer.placement.env):
        engine: Engine = await create_engine(
            writer.engine.kind, writer.model, dict(writer.engine.options), cpu_cores=writer.placement.cpu_cores
        )
    engines.push_async_callback(engine.shutdown)
    return engine


async def _time(engine: Engine, writer: WriterConfig, tell: Callable[[], None]) -> RoleCosts:
    costs = await measure(engine, writer.model, time.perf_counter, tell)
    most = writer.engine.options.get("max_num_seqs", costs.max_num_seqs)
    return costs.model_copy(update={"max_num_seqs": int(most), "writer": writer.model_dump(mode="json")})


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
