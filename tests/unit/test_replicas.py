"""What a replica tells those who call it, and whoever reads its log."""

from __future__ import annotations

import inspect
import io
import logging
import re
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.messages import RoleInfo
from actors.start_phases import StartPhases
from actors.target import TargetModel
from deployments import app, process_log, replicas
from deployments.replicas import TARGET_METHODS, WriterReplica, start_engine
from deployments.sections import EngineConfig, PlacementConfig, WriterConfig


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
    replica._watch.stop()
    assert told == [capacity]


async def test_what_a_replica_s_engine_counts_has_the_replica_s_name() -> None:
    writer = TargetModel(ScriptedEngine(ScriptOptions()))
    replica: Any = SimpleNamespace(_writer=writer, _server=SimpleNamespace(replica="a"))
    assert await WriterReplica.speculation_stats(replica) == ("a", await writer.speculation_stats())


@pytest.mark.parametrize(
    ("sets_sampling", "kind", "set_by", "told"),
    [
        (True, "vllm", {}, {}),
        (False, "vllm", {}, {"generation_config": "vllm"}),
        (False, "vllm", {"generation_config": "/folder"}, {"generation_config": "/folder"}),
        (False, "scripted", {}, {}),
    ],
)
async def test_only_the_target_s_generation_config_says_how_tokens_are_drawn(
    monkeypatch: pytest.MonkeyPatch, sets_sampling: bool, kind: Any, set_by: dict[str, Any], told: dict[str, Any]
) -> None:
    """Of another's nothing is taken, and so nothing is said to be left out."""
    options = await options_of(monkeypatch, "r", EngineConfig(kind=kind, options=set_by), sets_sampling)
    assert {name: value for name, value in options.items() if name != "seed"} == told


async def options_of(
    monkeypatch: pytest.MonkeyPatch, replica: str, engine: EngineConfig, sets_sampling: bool = True
) -> dict[str, Any]:
    """With which options the replica so named makes its engine."""
    monkeypatch.setenv("RAY_ADDRESS", "here")
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id=replica))
    monkeypatch.setattr(replicas.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(replicas.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="here"))
    asked: list[dict[str, Any]] = []

    async def create_engine(kind: str, model: str, options: dict[str, Any], *_: object, **__: object) -> None:
        asked.append(options)

    monkeypatch.setattr(replicas, "create_engine", create_engine)
    config = WriterConfig(model="m", engine=engine)
    await start_engine(config, config.placement, StartPhases(), sets_sampling=sets_sampling)
    return asked[0]


async def test_each_replica_draws_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EngineConfig(kind="vllm")
    seeds = [(await options_of(monkeypatch, replica, engine))["seed"] for replica in ("a1b2", "c3d4", "a1b2")]
    assert seeds[0] == seeds[2] != seeds[1]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert engine.options == {}, "what all replicas share stays"
    set_by = EngineConfig(kind="vllm", options={"seed": 5})
    assert (await options_of(monkeypatch, "a1b2", set_by))["seed"] == 5
    assert "seed" not in await options_of(monkeypatch, "a1b2", EngineConfig(kind="scripted"))


def test_what_goes_wrong_is_in_the_standard_error_that_the_process_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve may have put a logger in the place of `sys.stderr`, which drops what it is given."""
    written, taken = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", written)
    monkeypatch.setattr(sys, "stderr", taken)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for _ in range(2):
        process_log.log_to_stderr()
    logging.getLogger("lookahead.gateway").error("Request %s failed.", "r-1")
    logging.getLogger("deployments.coordinator").info("Nobody has to know.")
    line = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ERROR lookahead\.gateway: Request r-1 failed\.\n"
    assert re.fullmatch(line, written.getvalue())
    assert taken.getvalue() == ""


class Began(Exception):
    """The log was asked for."""


ROLES = (
    app.GatewayReplica,
    app.CoordinatorReplica,
    replicas.TargetReplica,
    replicas.DraftReplica,
    replicas.VerifierReplica,
)


@pytest.mark.parametrize("role", ROLES)
async def test_every_replica_has_its_log_before_anything_can_go_wrong(
    monkeypatch: pytest.MonkeyPatch, role: type[Any]
) -> None:
    def log_to_stderr() -> None:
        raise Began

    monkeypatch.setattr(sys.modules[role.__module__], "log_to_stderr", log_to_stderr)
    _, *arguments = inspect.signature(role.__init__).parameters

    async def start() -> None:
        if (started := role.__init__(SimpleNamespace(), *arguments)) is not None:
            await started

    with pytest.raises(Began):
        await start()
