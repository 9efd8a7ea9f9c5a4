"""What runs inside the replicas of draft, target and verifier: a role over an engine, behind methods that Serve calls.

Promises: a replica is ready only when its model is; every stream says `TAKEN` before anything else, so that callers
can bound their wait for a replica; a dead engine fails the health check, so that Serve replaces the replica; the engine
is shut down with the replica.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.draft import Draft
from actors.engines import create_engine
from actors.messages import (
    Delta,
    JudgeRequest,
    Piece,
    Prefix,
    Prompt,
    RoleInfo,
    SpeculationStats,
    Step,
    StepRequest,
    TokenIds,
    Verdict,
)
from actors.roles import Engine, Scorer
from actors.target import TargetModel
from actors.verifier import create_verifier
from actors.writer import ModelWriter
from deployments.config import Config, WriterConfig
from deployments.coordinator.pools import TAKEN, DraftPool, TargetPool


async def start_engine(config: WriterConfig) -> Engine:
    """The engine that `config` describes, in this process."""
    replica = serve.get_replica_context().replica_id.unique_id
    engine = config.engine
    return await create_engine(
        engine.kind, config.model, dict(engine.options), cpu_cores=config.placement.cpu_cores, replica=replica
    )


class WriterReplica:
    """What the replicas of draft and target have in common."""

    _writer: ModelWriter

    async def describe(self) -> RoleInfo:
        """As `Writer.describe`."""
        return await self._writer.describe()

    async def encode(self, prompt: Prompt) -> TokenIds:
        """As `Writer.encode`."""
        return await self._writer.encode(prompt)

    async def label_probabilities(self, prompt: Prompt, labels: Sequence[str], session_id: str) -> tuple[float, ...]:
        """As `Target.label_probabilities`."""
        return await self._writer.label_probabilities(prompt, labels, session_id)

    async def token_logprobs(self, prefix: Prefix, piece: Piece, session_id: str) -> tuple[float, ...]:
        """As `Scorer.token_logprobs`."""
        return await self._writer.token_logprobs(prefix, piece, session_id)

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Writer.add_hints`."""
        await self._writer.add_hints(call_id, session_id, hints)

    async def speculation_stats(self) -> SpeculationStats | None:
        """As `Writer.speculation_stats`."""
        return await self._writer.speculation_stats()

    async def num_running(self) -> int:
        """Generations now in this replica's engine."""
        return self._writer.num_running()

    async def check_health(self) -> None:
        """Serve's health check."""
        await self._writer.check_health()

    async def __del__(self) -> None:
        """Serve calls and awaits this when the replica is stopped."""
        if hasattr(self, "_writer"):
            await self._writer.shutdown()


class DraftReplica(WriterReplica):
    """A draft model."""

    async def __init__(self, config: WriterConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        self._draft = Draft(await start_engine(config))
        self._writer = self._draft

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[str | Step, None]:
        """As `Drafter.look_ahead`, after `TAKEN`."""
        yield TAKEN
        async with aclosing(self._draft.look_ahead(request, depth)) as steps:
            async for step in steps:
                yield step

    async def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[str | Piece | Step, None]:
        """As `Drafter.look_ahead_in_parts`, after `TAKEN`."""
        yield TAKEN
        async with aclosing(self._draft.look_ahead_in_parts(request, depth, part_tokens)) as items:
            async for item in items:
                yield item


class TargetReplica(WriterReplica):
    """A target model."""

    async def __init__(self, config: WriterConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        self._target = TargetModel(await start_engine(config))
        self._writer = self._target

    async def step(self, request: StepRequest) -> AsyncGenerator[str | Step, None]:
        """As `Target.step`, after `TAKEN`."""
        yield TAKEN
        yield await self._target.step(request)

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[str | Delta | Step, None]:
        """As `Target.progress`, after `TAKEN`."""
        yield TAKEN
        async with aclosing(self._target.progress(request, every_s)) as items:
            async for item in items:
                yield item

    async def stream(self, request: StepRequest) -> AsyncGenerator[str | Delta, None]:
        """As `Target.stream`, after `TAKEN`."""
        yield TAKEN
        async with aclosing(self._target.stream(request)) as deltas:
            async for delta in deltas:
                yield delta


class VerifierReplica:
    """The verifier, with handles to the engines that its judges use."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: Config, target: DeploymentHandle[Any], draft: DeploymentHandle[Any] | None
    ) -> None:
        wait_s = config.speculation.verdict_timeout_s
        scorers: dict[str, Scorer] = {"target": TargetPool(target, "target", wait_s)}
        if draft is not None:
            scorers["draft"] = DraftPool(draft, "draft", wait_s)
        self._judge: ModelWriter | None = None
        if config.verifier.judge is not None:
            self._judge = scorers["own"] = TargetModel(await start_engine(config.verifier.judge))
        checks = {
            name: [check.model_dump() for check in cascade] for name, cascade in config.verifier.verifiers.items()
        }
        self._verifier = await create_verifier(checks, scorers)

    async def judge(self, request: JudgeRequest) -> Verdict:
        """As `Verifier.judge`."""
        return await self._verifier.judge(request)

    async def describe(self) -> str:
        """Any answer: the verifier is there."""
        return "verifier"

    async def check_health(self) -> None:
        """Serve's health check."""
        if self._judge is not None:
            await self._judge.check_health()

    async def __del__(self) -> None:
        """Serve calls and awaits this when the replica is stopped."""
        if getattr(self, "_judge", None) is not None:
            await self._judge.shutdown()  # type: ignore[union-attr]
