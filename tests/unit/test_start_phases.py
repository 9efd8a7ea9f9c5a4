"""What a start took, and where it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from actors.engines import create_engine
from actors.start_phases import StartPhases, read_ahead
from deployments.telemetry.metrics import merge, start_metrics


def test_an_engine_tells_what_its_start_took() -> None:
    phases = StartPhases()
    asyncio.run(create_engine("scripted", "scripted", {"role": "target"}, phases=phases))
    assert list(phases.seconds) == ["engine"]
    with phases.measure("engine"), phases.measure("more"):
        pass
    assert list(phases.seconds) == ["engine", "more"]


def test_the_slowest_start_of_each_role_and_phase_is_shown() -> None:
    starts = [("target", {"import": 3.0, "engine": 9.0}), ("target", {"import": 4.0}), ("draft", {"engine": 2.0})]
    (family,) = text_string_to_metric_families(merge([start_metrics(starts)]))
    shown = {(s.labels["role"], s.labels["phase"]): s.value for s in family.samples}
    assert shown == {("target", "import"): 4.0, ("target", "engine"): 9.0, ("draft", "engine"): 2.0}


def test_weights_that_cannot_be_read_ahead_stop_nobody(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0" * 4096)
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    read_ahead(tmp_path)
    read_ahead(tmp_path / "missing")
