"""The engines stop soon after a client has left, a stop string has come or a step was rejected, by their own logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.engines.control_folder import read_logs
from deployments.bench.cancellation import CAUSES, rows, run_trials
from deployments.bench.cancelled_calls import Generation
from tests.cluster.conftest import Served

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

SOON_MS = 250.0
"""Half of all trials, with other work beside them. `docs/benchmarks-serving.md` has what a machine at rest does."""


async def test_engines_stop_soon(served: Served) -> None:
    causes = [(cause, mode) for cause, mode in CAUSES if cause != "deadline"]  # this server has none that is short
    trials = await run_trials(served.url, 4, causes)
    folder = Path(served.config.target.engine.options["control"])
    found = rows(trials, [Generation.of(entry) for entry in read_logs(folder)])
    assert {(row["cause"], row["mode"]) for row in found} == set(causes)
    assert all(row["num_measured"] >= 2 for row in found), found
    assert all(row["p50_ms"] < SOON_MS for row in found), found
