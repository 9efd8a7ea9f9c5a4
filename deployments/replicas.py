"""What runs inside the replicas of draft, target and verifier: a role over an engine, called over a link.

Promises: a replica is ready only when its model is; one whose engine dies goes with it, and Serve replaces it; one that
is to stop finishes what it was called for, the last target all requests that run, then ends its engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.draft import Draft
from actors.engines import create_engine
from actors.engines.start_turn import turn
from actors.errors import LookaheadError
from actors.messages import JudgeRequest, SpeculationStats, Verdict
from actors.roles import Engine, Scorer
from actors.start_phases import StartPhases
from actors.target import TargetModel
from actors.verifier import StepVerifier, create_verifier
from actors.writer import ModelWriter
from deployments.config import Config
from deployments.coordinator.pools import DraftPool, TargetPool, WriterPool
from deployments.engine_watch import EngineWatch
from deployments.link.frames import Address
from deployments.link.over_serve import listen, members
from deployments.link.server import LinkServer
from deployments.live_settings import changed
from deployments.process_log import log_to_stderr
from deployments.sections import PlacementConfig, WriterConfig
from deployments.telemetry.auditing import deployed

logger = logging.getLogger(__name__)

WRITER_METHODS = frozenset(
    {"describe", "encode", "render", "add_hints", "speculation_stats", "label_probabilities", "token_logprobs"}
)
DRAFT_METHODS = WRITER_METHODS | {"look_ahead", "look_ahead_in_parts"}
TARGET_METHODS = WRITER_METHODS | {"decode", "step", "progress", "stream"}


async def start_engine(
    config: WriterConfig, placement: PlacementConfig, phases: StartPhases, *, sets_sampling: bool = False
) -> Engine:
    """The engine that `config` describes, in this process; `phases` gets what took how long. Where the replica's
    `placement` has a part of a card, it starts when no other on that card does (`actors.engines.start_turn`). Of a
    model that `sets_sampling` the generation config says how tokens are drawn where a request does not; of others it is
    not read. Where the configuration sets no seed, each replica draws random numbers of its own."""
    replica = serve.get_replica_context().replica_id.unique_id
    engine = config.engine
    options = dict(engine.options)
    if engine.kind == "vllm":
        if not sets_sampling:
            options.setdefault("generation_config", "vllm")
        options.setdefault("seed", _seed_of(replica))
    # The engine's own process joins this cluster, whose workers it takes for tensor parallelism. vLLM sees to that only
    # where nobody has said how its processes start, as `actors.engines.vllm` does.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    cores, own_turn = config.placement.cpu_cores, _turn(placement, phases)
    return await create_engine(engine.kind, config.model, options, cores, replica, phases, turn=own_turn)


def _seed_of(replica: str) -> int:
    """31 bits for an engine's own random numbers. With vLLM's default, 0, all replicas would draw the same ones, and
    two choices of one request that go to two of them would be the same text."""
    return zlib.crc32(replica.encode()) % 2**31


@contextlib.asynccontextmanager
async def _turn(placement: PlacementConfig, phases: StartPhases) -> AsyncIterator[None]:
    """The body has the turn of the replica's cards, if it has parts of some."""
    async with contextlib.AsyncExitStack() as held:
        if placement.shares_card:
            with phases.measure("turn"):
                await held.enter_async_context(turn(map(str, ray.get_gpu_ids())))
        yield


class WriterReplica:
    """What the replicas of draft and target have in common."""

    _writer: ModelWriter
    _server: LinkServer
    _watch: EngineWatch
    _phases: StartPhases

    async def _listen(self, methods: frozenset[str], config: WriterConfig) -> None:
        capacity = (await self._writer.describe()).max_num_seqs or config.placement.max_ongoing_requests
        self._server = await listen(self._writer, methods, capacity)
        self._watch = EngineWatch(self._writer.check_health, self._server)

    async def link(self) -> Address:
        """Where the role itself is called."""
        return self._server.address

    async def speculation_stats(self) -> tuple[str, SpeculationStats | None]:
        """This replica's name, and as `Writer.speculation_stats`."""
        return self._server.replica, await self._writer.speculation_stats()

    async def start_seconds(self) -> dict[str, float]:
        """How long each phase of this replica's start took."""
        return self._phases.seconds

    async def num_running(self) -> int:
        """Generations now in this replica's engine."""
        return self._writer.num_running()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve hands to the autoscaling policy: the engine's load."""
        load = self._writer.load()
        return {"running": load.num_running, "waiting": load.num_waiting, "cache_use": load.cache_use}

    async def check_health(self) -> None:
        """Serve's health check."""
        await self._writer.check_health()

    async def __del__(self) -> None:
        """Serve calls and awaits this when the replica is stopped."""
        if hasattr(self, "_server"):
            await self._server.drain()
            self._watch.stop()
            await self._server.close()
        if hasattr(self, "_writer"):
            await self._writer.shutdown()


class DraftReplica(WriterReplica):
    """A draft model."""

    async def __init__(self, config: WriterConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        log_to_stderr()
        self._phases = StartPhases()
        self._writer = Draft(await start_engine(config, config.placement, self._phases))
        await self._listen(DRAFT_METHODS, config)


class TargetReplica(WriterReplica):
    """A target model."""

    async def __init__(self, config: WriterConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        log_to_stderr()
        self._phases = StartPhases()
        self._writer = TargetModel(await start_engine(config, config.placement, self._phases, sets_sampling=True))
        await self._listen(TARGET_METHODS, config)


class VerifierReplica:
    """The verifier, with connections to the engines that its judges use."""

    _has_begun = False
    """As `CoordinatorReplica._has_begun`."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: Config, target: DeploymentHandle[Any], draft: DeploymentHandle[Any] | None
    ) -> None:
        log_to_stderr()
        wait_s = config.speculation.verdict_timeout_s
        self._asked = [members("target", target)]
        self._pools: dict[str, WriterPool] = {"target": TargetPool(self._asked[0], wait_s)}
        if draft is not None:
            self._asked.append(members("draft", draft))
            self._pools["draft"] = DraftPool(self._asked[1], wait_s)
        scorers: dict[str, Scorer] = {**self._pools}
        self._judge: ModelWriter | None = None
        if config.verifier.judge is not None:
            engine = await start_engine(config.verifier.judge, config.verifier.placement, StartPhases())
            self._judge = scorers["own"] = TargetModel(engine)
        self._config = self._started = config
        self._scorers = scorers
        self._verifier, self._rules = await self._made(config)
        capacity = config.verifier.placement.max_ongoing_requests
        self._server = await listen(self, {"judge", "describe"}, capacity)
        self._watch = EngineWatch(self._judge.check_health, self._server) if self._judge is not None else None

    async def _made(self, config: Config) -> tuple[StepVerifier, dict[str, str]]:
        """The verifier of `config`, and the digests of its checks, as the audit log names them."""
        checks = {
            name: [check.model_dump() for check in cascade] for name, cascade in config.verifier.verifiers.items()
        }
        terms = deployed(config)
        return await create_verifier(checks, self._scorers), {name: terms.rules(name) for name in checks}

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls it with the deployment's `user_config`: at the start, and when it changes. What is being judged
        ends as it began.

        Raises for settings that cannot be (ConfigError) or whose models cannot be had (WeightsError) only at the start;
        later that would end every replica."""
        try:
            config = changed(self._started, user_config)
            if config.verifier.verifiers != self._config.verifier.verifiers:
                self._verifier, self._rules = await self._made(config)
            for pool in self._pools.values():
                pool.set_wait(config.speculation.verdict_timeout_s)
            self._config = config
        except LookaheadError as error:
            if not self._has_begun:
                raise
            logger.error("The changed settings are refused, the former stay: %s", error)
        self._has_begun = True

    async def link(self) -> Address:
        """Where the role itself is called."""
        self._has_begun = True
        return self._server.address

    async def judge(self, request: JudgeRequest) -> Verdict:
        """As `Verifier.judge`, with the digest of the checks that judged."""
        rules = self._rules
        verdict = await self._verifier.judge(request)
        return replace(verdict, rules=rules[request.verifier])

    async def describe(self) -> str:
        """Any answer: the verifier is there."""
        return "verifier"

    async def check_health(self) -> None:
        """Serve's health check."""
        if self._judge is not None:
            await self._judge.check_health()

    async def __del__(self) -> None:
        """Serve calls and awaits this when the replica is stopped."""
        if hasattr(self, "_server"):
            await self._server.drain()
            if self._watch is not None:
                self._watch.stop()
            await self._server.close()
        await asyncio.gather(*(role.aclose() for role in getattr(self, "_asked", ())))
        if getattr(self, "_judge", None) is not None:
            await self._judge.shutdown()  # type: ignore[union-attr]
