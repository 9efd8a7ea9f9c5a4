"""What a replica tells those who call it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.messages import RoleInfo
from actors.target import TargetModel
from deployments import replicas
from deployments.replicas import TARGET_METHODS, WriterReplica
from deployments.sections import PlacementConfig, WriterConfig


@pytest.mark.parametrize(("most", "capacity"), [(128, 128), (None, 512)])
async def test_a_replica_s_capacity_is_what_its_engine_works_on_at_once(
    monkeypatch: pytest.MonkeyPatch, most: int | None, capacity: int
) -> None:
    class Bounded(ScriptedEngine):
        def describe(self) -> RoleInfo:
            return replace(super().describe(), max_num_seqs=most)

    told: list[int] = []

    async def listen(served: object, methods: object, capacity: int) -> Any:
        told.append(capacity)

    monkeypatch.setattr(replicas, "listen", listen)
    replica: Any = SimpleNamespace(_writer=TargetModel(Bounded(ScriptOptions())))  # Serve's own awaits its `__del__`
    # The engine's default is none of its options.
    config = WriterConfig(model="m", placement=PlacementConfig(max_ongoing_requests=512))
    await WriterReplica._listen(replica, TARGET_METHODS, config)
    assert told == [capacity]
