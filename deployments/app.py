"""From a configuration to a Ray Serve application. The only place that wraps classes with Ray.

Promises: every role is a deployment of its own, in its own processes, with the resources that the config names; the
same function serves `lookahead serve`, `serve run deployments.app:build profile=local` and `serve deploy`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.errors import ConfigError, LookaheadError, RoleUnavailable
from actors.messages import SpeculationStats
from deployments.autoscaling_config import AutoscalingConfig
from deployments.build_args import BuildArgs
from deployments.config import Config, CoordinatorConfig
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.keeper import Keeper
from deployments.coordinator.pipeline import Roles
from deployments.coordinator.pools import DraftPool, Pool, TargetPool, VerifierPool
from deployments.gateway.api import create_app
from deployments.gateway.front_queue import FrontQueue
from deployments.gateway.stay import Stay
from deployments.gateway.unbroken import Perseverance, Unbroken
from deployments.generation import GenerationRequest, Keep, Output
from deployments.lingering import Lingering
from deployments.link.client import Link
from deployments.link.frames import Address
from deployments.link.members import Members
from deployments.link.over_serve import answers, answers_or_why, listen, members
from deployments.live_settings import changed
from deployments.process_log import log_to_stderr
from deployments.replicas import DraftReplica, TargetReplica, VerifierReplica
from deployments.sections import PlacementConfig
from deployments.server.disconnects import Disconnects
from deployments.telemetry.metrics import merge, of_replica, start_metrics, token_metrics
from deployments.trace_asking import TraceAsking

logger = logging.getLogger("lookahead.gateway")

ASKED = ("coordinator", "gateway")
"""Roles whose reports say what is asked for. They have settings of autoscaling also where they keep their number: Serve
collects no reports otherwise."""
ASK_S = 5.0
"""How long a role may take to say that it is there."""
COORDINATOR_METHODS = frozenset(
    {"generate", "hand_over", "can_write", "readiness", "trace_began", "trace_parts", "metrics"}
)


class CoordinatorReplica:
    """`Coordinator` over connections to the roles."""

    _has_begun = False
    """Whether it may be serving: settings that cannot be keep a replica from starting, and end none that works."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        config: Config,
        target: DeploymentHandle[Any],
        draft: DeploymentHandle[Any] | None,
        verifier: DeploymentHandle[Any],
    ) -> None:
        log_to_stderr()
        wait_s = config.speculation.replica_timeout_s
        # Without draft or verifier requests go on: neither has to stay for them.
        self._roles = {"target": members("target", target, lambda: self._server.is_needed)}
        others = {"draft": draft, "verifier": verifier}
        self._roles |= {role: members(role, handle) for role, handle in others.items() if handle is not None}
        drafter = DraftPool(self._roles["draft"], wait_s) if draft is not None else None
        roles = Roles(TargetPool(self._roles["target"], wait_s), drafter, VerifierPool(self._roles["verifier"], wait_s))
        self._config = config
        self._coordinator = Coordinator(config, roles, serve.get_replica_context().replica_id.unique_id)
        absent = config.autoscaling.may_be_absent() if config.autoscaling is not None else set()
        self._needed = {role: found for role, found in self._roles.items() if role not in absent}
        kept = config.coordinator
        self._keeper = Keeper(self._coordinator.generate, kept.max_kept_requests, kept.max_kept_bytes)
        capacity = config.coordinator.placement.max_ongoing_requests
        self._server = await listen(self, COORDINATOR_METHODS, capacity)

    async def link(self) -> Address:
        """Where the gateways call."""
        self._has_begun = True
        return self._server.address

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """As `Keeper.generate`."""
        return self._keeper.generate(request)

    async def hand_over(self, stream_id: str, owner: str, only: Keep | None = None) -> list[GenerationRequest]:
        """As `Keeper.hand_over`."""
        return await self._keeper.hand_over(stream_id, owner, only)

    async def readiness(self) -> dict[str, bool]:
        """Which roles answer now, of those that may not be scaled to zero."""
        return dict(zip(self._needed, await asyncio.gather(*map(_answers, self._needed.values())), strict=True))

    async def can_write(self) -> bool:
        """Whether the target answers now. Nobody else is waited for: without draft or verifier requests go on."""
        return await _answers(self._roles["target"])

    async def trace(self, request_id: str) -> dict[str, Any] | None:
        """As `Coordinator.trace`."""
        return self._coordinator.trace(request_id)

    async def trace_began(self, request_id: str) -> float | None:
        """When the request of that trace began; None if there is none."""
        return self._coordinator.trace_began(request_id)

    def trace_parts(self, request_id: str) -> AsyncGenerator[bytes, None]:
        """The trace as JSON; nothing if there is none."""
        return self._coordinator.trace_parts(request_id)

    async def metrics(self) -> tuple[str, str]:
        """This replica's name, and as `Coordinator.metrics`, with that name on what only grows."""
        replica = self._coordinator.replica
        return replica, of_replica(self._coordinator.metrics(), replica)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls it with the deployment's `user_config`: at the start, and when it changes.

        Raises ConfigError for settings that cannot be only at the start; later that would end every replica."""
        try:
            self._coordinator.reconfigure(changed(self._config, user_config))
        except ConfigError as error:
            if not self._has_begun:
                raise
            self._coordinator.refuse(error)
        self._has_begun = True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve hands to the autoscaling policy: as `Coordinator.demand`."""
        return self._coordinator.demand()

    async def __del__(self) -> None:
        """Serve calls and awaits this when the replica is stopped."""
        if hasattr(self, "_server"):
            await self._server.drain()
            await self._keeper.drain()  # gateways take it to another coordinator, or its clients come for it
            await self._server.drain()
            await self._keeper.close()
            await self._server.close()
            await asyncio.to_thread(self._coordinator.close)
        await asyncio.gather(*(role.aclose() for role in self._roles.values()))


async def _answers(role: Members) -> bool:
    try:
        await Pool(role, ASK_S).call("describe", "")
    except LookaheadError:
        return False
    return True


class CoordinatorBackend:
    """The gateway's `Backend` over the coordinators; `writers` are the roles whose engines count tokens."""

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        wait_s: float,
        writers: Mapping[str, DeploymentHandle[Any]],
        kept: CoordinatorConfig,
        is_used: Callable[[], bool] = lambda: False,
    ) -> None:
        self._handle = handle
        self._writers = writers
        self._coordinators = members("coordinator", handle, is_used, self._look_round)
        self._traces = TraceAsking(handle, self._coordinators, ASK_S)
        self._seen: tuple[tuple[Link, ...], ...] = ()
        """Which coordinators there were when it was looked last, and which of them were leaving."""
        self._pool = Pool(self._coordinators, wait_s)
        unbroken = Unbroken(self._generate, Perseverance(patience_s=wait_s))
        bounds = kept.max_kept_requests, kept.max_kept_bytes
        self._lingering = Lingering(unbroken.generate, self._hand_over, *bounds)

    def generate(self, request: GenerationRequest, stay: Stay | None = None) -> AsyncIterator[Output]:
        """As `Backend.generate`."""
        return self._lingering.generate(request, stay)

    def _generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """The same, by one coordinator. Choices that may be fetched together are written, and kept, by the same one."""
        session = request.request_id if request.keep is None else request.keep.stream_id
        return self._pool.items("generate", session, request)

    def _look_round(self) -> None:
        """Gateways that come later never find a coordinator that is leaving: what can be fetched goes on at one that
        stays, as soon as that can write. Until then whoever asks them is told to ask again."""
        there, leaving = seen = self._coordinators.links, self._coordinators.leaving
        if seen != self._seen and 0 < len(leaving) < len(there):
            self._lingering.move(self._can_write, self._take)
        self._seen = seen

    async def _can_write(self) -> bool:
        try:
            return bool(await Pool(self._coordinators, 2 * ASK_S).call("can_write", ""))
        except LookaheadError:
            return False

    async def _take(self, *asked: str | Keep) -> list[GenerationRequest]:
        """As `Keeper.hand_over`, of the coordinators that are leaving."""
        told = await self._coordinators.answers(ASK_S, "hand_over", *asked, links=self._coordinators.leaving)
        return [request for answer in told if isinstance(answer, list) for request in answer]

    async def drain(self) -> None:
        """Wait until no stream is here that its client may come back for."""
        await self._lingering.drain()

    async def aclose(self) -> None:
        """End the connections to the coordinators, and what is read over them."""
        await self._lingering.close()
        await self._coordinators.aclose()

    async def hand_over(self, stream_id: str, owner: str) -> list[GenerationRequest | Exception]:
        """As `Backend.hand_over`. While those who stay cannot write, one that is leaving, and perhaps not known here,
        may have what is not found."""
        found = await self._lingering.hand_over(stream_id, owner)
        if not found and not await self._can_write():
            return [RoleUnavailable("No coordinator can write yet.")]
        return found

    async def _hand_over(self, *asked: str | Keep) -> list[GenerationRequest | Exception]:
        """The same, by the coordinators: any may have them."""
        told, trouble = await self._ask("hand_over", *asked)
        found = [request for answer in told if isinstance(answer, list) for request in answer]
        return found if trouble is None else [*found, trouble]

    async def _ask(self, method: str, *args: Any) -> tuple[list[Any], RoleUnavailable | None]:
        """What the coordinators say to `method`, most of them twice, and an error unless all that Serve knows answer.

        They are asked over their links as well: Serve does not ask those that are to stop and finish what they have,
        and its calls bring no long answers.
        """
        by_serve, by_links = await asyncio.gather(
            answers_or_why(self._handle, ASK_S, method, *args), self._coordinators.answers(ASK_S, method, *args)
        )
        told = [each for each in (*by_serve, *by_links) if not isinstance(each, BaseException)]
        if not (silent := [repr(each) for each in by_serve if isinstance(each, BaseException)]):
            return told, None
        return told, RoleUnavailable(f"Not every coordinator could be asked for {method}: {', '.join(silent)}.")

    async def readiness(self) -> dict[str, bool]:
        """As `Backend.readiness`."""
        try:
            ready: dict[str, bool] = await Pool(self._coordinators, 2 * ASK_S).call("readiness", "")
        except LookaheadError:
            return {"coordinator": False}
        return {"coordinator": True} | ready

    async def trace(self, request_id: str) -> bytes | None:
        """As `Backend.trace`: any coordinator may have it."""
        return await self._traces.trace(request_id)

    async def metrics(self) -> str:
        """As `Backend.metrics`: of all coordinators, and what the engines of all writers count."""
        (told, trouble), counted, started = await asyncio.gather(  # at once: one that is frozen is waited for once
            self._ask("metrics"),
            asyncio.gather(*(self._token_stats(role, handle) for role, handle in self._writers.items())),
            asyncio.gather(*(_starts(role, handle) for role, handle in self._writers.items())),
        )
        if trouble is not None:
            logger.warning("%s", trouble)
        texts: dict[str, str] = dict(each for each in told if isinstance(each, tuple))  # of each replica once
        engines = token_metrics(one for each in counted for one in each)
        starts = start_metrics([pair for pairs in started for pair in pairs])
        return merge([*texts.values(), engines, starts])

    async def _token_stats(self, role: str, handle: DeploymentHandle[Any]) -> list[tuple[str, str, SpeculationStats]]:
        """Role, name and counts of each replica that is there; a role that is not has nothing to say."""
        try:
            found = await answers(handle, ASK_S, "speculation_stats")
        except Exception:  # metrics are read most when something is broken
            return []
        told = [each for each in found if isinstance(each, tuple)]
        return [(role, replica, stats) for replica, stats in told if stats is not None]


async def _starts(role: str, handle: DeploymentHandle[Any]) -> list[tuple[str, dict[str, float]]]:
    """How long the replicas of `role` took to start; those that are there."""
    try:
        found = await answers(handle, ASK_S, "start_seconds")
    except Exception:  # as above
        return []
    return [(role, seconds) for seconds in found if isinstance(seconds, dict)]


class GatewayReplica:
    """The HTTP side."""

    def __init__(
        self,
        config: Config,
        coordinator: DeploymentHandle[Any],
        target: DeploymentHandle[Any],
        draft: DeploymentHandle[Any] | None,
    ) -> None:
        log_to_stderr()
        self._config = config
        writers = {"target": target} | ({} if draft is None else {"draft": draft})
        wait_s = config.speculation.replica_timeout_s
        self._queue = FrontQueue(config, time.monotonic)
        self._backend = CoordinatorBackend(
            coordinator, wait_s, writers, config.coordinator, lambda: self._queue.is_in_use
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve asks for the application when the replica starts."""
        # Serve's proxy echoes x-request-id itself; twice would make clients read "id, id".
        app = create_app(self._config, lambda: self._backend, echo_request_id=False, queue=self._queue)
        app.add_middleware(Disconnects)
        return app

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve hands to the autoscaling policy: as `FrontQueue.held_back`."""
        return self._queue.held_back()

    async def __del__(self) -> None:
        """Serve calls and awaits this when the replica is stopped and all responses have ended."""
        await self._backend.drain()
        await self._backend.aclose()


def build(args: BuildArgs | dict[str, Any]) -> serve.Application:
    """The application for `serve run` and `serve deploy`, which hand over their arguments as a mapping."""
    return compose(BuildArgs.model_validate(args).resolve())


def compose(config: Config) -> serve.Application:
    """The application for `config`: gateway -> coordinator -> target, draft, verifier."""
    scaling = config.autoscaling
    target = _deployment(TargetReplica, "target", config.target.placement, scaling).bind(config.target)
    draft = None
    if config.draft is not None:
        draft = _deployment(DraftReplica, "draft", config.draft.placement, scaling).bind(config.draft)
    verifier = _deployment(VerifierReplica, "verifier", config.verifier.placement, scaling).bind(config, target, draft)
    coordinator = _deployment(CoordinatorReplica, "coordinator", config.coordinator.placement, scaling).bind(
        config, target, draft, verifier
    )
    gateway = serve.ingress()(GatewayReplica)
    return _deployment(gateway, "gateway", config.gateway.placement, scaling).bind(config, coordinator, target, draft)


def _deployment(
    cls: type, name: str, placement: PlacementConfig, scaling: AutoscalingConfig | None
) -> serve.Deployment:
    """`cls` as a deployment where `placement` says; ConfigError for what Serve or Ray refuses."""
    options: dict[str, Any] = {
        "name": name,
        "max_ongoing_requests": placement.max_ongoing_requests,
        "graceful_shutdown_timeout_s": placement.grace_s,
        "graceful_shutdown_wait_loop_s": 0.1,
        "max_surge_percent": placement.max_surge_percent,
        "user_config": {} if hasattr(cls, "reconfigure") else None,
        "ray_actor_options": {
            "num_cpus": placement.num_cpus,
            "num_gpus": placement.num_gpus,
            "resources": placement.resources,
            "runtime_env": {"env_vars": placement.env},
        },
    }
    if placement.autoscaling is not None:
        options["autoscaling_config"] = placement.autoscaling
    elif scaling is not None and (scaling.role(name) is not None or name in ASKED):
        options["autoscaling_config"] = _autoscaling(name, placement, scaling)
    else:
        options["num_replicas"] = placement.num_replicas
    if placement.placement_group_bundles is not None:
        options["placement_group_bundles"] = placement.placement_group_bundles
        options["placement_group_strategy"] = placement.placement_group_strategy
    try:
        return serve.deployment(**options)(cls)
    except (TypeError, ValueError) as error:  # what Serve and Ray say of it may have several lines
        said = " ".join(str(error).split())
        raise ConfigError(f"{name}.placement cannot be used: {said}", f"{name}.placement") from error


def _autoscaling(name: str, placement: PlacementConfig, scaling: AutoscalingConfig) -> dict[str, Any]:
    """Serve's settings for a role that grows with demand, or is one of `ASKED`; delays are the policy's."""
    role = scaling.role(name)
    least, most = (role.min_replicas, role.max_replicas) if role is not None else (placement.num_replicas,) * 2
    return {
        "min_replicas": least,
        "max_replicas": most,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "policy": {
            "policy_function": "deployments.autoscaling.serve_policy:RolePolicy",
            "policy_kwargs": {"role": name, "rules": scaling.rules()},
        },
    }
