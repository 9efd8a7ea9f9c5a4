"""Starts the engines of a configuration in this process and times them, each alone.

Promises: the second engine starts when the first one has ended; both are shut down whatever happens; the
environment of the configuration is set while an engine lives, and what that and its start set is taken back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from actors.engines import create_engine
from actors.errors import ConfigError
from actors.roles import Engine
from deployments.calibration.engine_times import measure, num_parts
from deployments.config import Config
from deployments.sections import WriterConfig
from deployments.simulation.cost_file import CostFile, RoleCosts
from deployments.simulation.strangers import unknown_guesses

COSTS_FILE = "costs.yaml"


async def time_engines(config: Config, bar: Callable[[str, int], Callable[[], None]]) -> CostFile:
    """Target and draft of `config`. ConfigError if it has no draft, or an engine guesses tokens in a way that costs
    know nothing of."""
    if config.draft is None:
        raise ConfigError("There is no draft in this configuration; both engines are timed.", "draft")
    for role, writer in (("target", config.target), ("draft", config.draft)):
        if (method := unknown_guesses(writer)) is not None:
            raise ConfigError(
                f"The {role} guesses tokens by {method}. Costs are of engines that guess by method hints without a "
                "model, or not at all: simulations and plans know no others. Calibrate it so, and bench it as it is.",
                f"{role}.engine.options.speculative_config",
            )
    target = await _time(config.target, bar("target", num_parts()))
    draft = await _time(config.draft, bar("draft", num_parts()))
    return CostFile(
        source=f"lookahead calibrate --engine, {config.name}",
        target=target,
        draft=draft,
        settings=config.model_dump(mode="json", include={"reasoning", "speculation", "verifier"}),
    )


async def _time(writer: WriterConfig, tell: Callable[[], None]) -> RoleCosts:
    with _environment(writer.placement.env):
        engine: Engine = await create_engine(
            writer.engine.kind, writer.model, dict(writer.engine.options), cpu_cores=writer.placement.cpu_cores
        )
        try:
            costs = await measure(engine, writer.model, time.perf_counter, tell)
        finally:
            await engine.shutdown()
    return costs.model_copy(update={"writer": writer.model_dump(mode="json")})


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Engines set what suits themselves, for a process in which no other one starts."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
