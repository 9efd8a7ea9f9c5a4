"""What the sections of the configuration share: how strict they are, which model a role holds, and where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from actors.engines.scripted import script_options
from actors.errors import ConfigError

Fidelity = Literal["exact", "strict", "balanced", "fast"]

GPUS_OF_WORKERS = "set num_gpus: 0 and one bundle of one GPU a worker"
PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""vLLM's options that give an engine more than one worker."""


class Strict(BaseModel):
    """Base of every section: unknown keys are errors, values do not change, and an error does not repeat them: some
    are secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class PlacementConfig(Strict):
    """Where replicas of one role run. Everything here is Ray's own word for it."""

    num_replicas: Annotated[int, Field(ge=1)] = 1
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    resources: dict[str, float] = {}
    """Custom resources, which pin a role to node types (``{"target": 0.001}``)."""
    placement_group_bundles: list[dict[str, float]] | None = None
    """One bundle a tensor-parallel worker; the first one also holds the replica."""
    placement_group_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    cpu_cores: str | None = None
    """CPU engines: the cores the engine's threads are bound to (``"0"``, ``"0-3"``)."""
    env: dict[str, str] = {}
    """Environment of the replica, set before the engine is made. No secrets: Ray logs it in plain text."""
    max_ongoing_requests: PositiveInt = 256
    """Of a gateway's HTTP requests, Serve's limit. Calls of other roles pass Serve by: with so many a replica counts as
    full, unless its engine says itself when it is, and takes more all the same."""
    autoscaling: dict[str, Any] | None = None
    """Ray Serve's `autoscaling_config`; replaces `num_replicas`. Serve's default policy sees the calls of gateways
    only: for other roles it has to name another one."""
    grace_s: PositiveFloat = 3600.0
    """So long a replica that is asked to stop may take to finish what it has; Serve's own 20 s would cut streams."""
    max_surge_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """When replicas are replaced: so many of them, rounded up, start before as many of the former are asked to stop.
    0: those are asked first, and a role of one replica may be away for a while."""

    @model_validator(mode="after")
    def _fits_into_the_first_bundle(self) -> PlacementConfig:
        bundles = self.placement_group_bundles
        if bundles is None:
            return self
        if not bundles or not all(any(bundle.values()) for bundle in bundles):
            raise ValueError("placement_group_bundles needs at least one bundle, and something in each of them")
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus} | self.resources
        lacking = [
            f"{name} {bundles[0].get(name, 0.0):g} of {amount:g}"
            for name, amount in wanted.items()
            if bundles[0].get(name, 0.0) < amount
        ]
        if lacking:
            few = ", ".join(lacking)
            if bundles[0].get("GPU", 0.0) < self.num_gpus:
                few += f"; where vLLM's workers take the GPUs of bundles, {GPUS_OF_WORKERS}"
            raise ValueError(f"the first of placement_group_bundles also holds the replica, and has only {few}")
        return self

    @property
    def names_policy(self) -> bool:
        """Whether `autoscaling` has a policy of its own in the place of Serve's default."""
        policy = (self.autoscaling or {}).get("policy")
        return isinstance(policy, Mapping) and policy.get("policy_function") is not None

    @property
    def gpus(self) -> list[float]:
        """How much of a GPU each process of a replica has: the replica itself, then its bundles."""
        return [self.num_gpus, *(bundle.get("GPU", 0.0) for bundle in self.placement_group_bundles or [])]

    @property
    def shares_card(self) -> bool:
        """Whether a replica has a part of a GPU, so that others may have the rest of it."""
        return any(gpus % 1 for gpus in self.gpus)


class EngineConfig(Strict):
    """Which engine runs the model. `options` are handed to the engine unchanged: any `AsyncEngineArgs` field for
    ``vllm`` (but `model`), any field of `actors.engines.scripted.ScriptOptions` for ``scripted``."""

    kind: Literal["vllm", "scripted"] = "vllm"
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _known(self) -> EngineConfig:
        if self.kind == "scripted":  # vLLM's are known where vLLM is
            try:
                script_options(self.options)
            except ConfigError as error:
                raise ValueError(error.message) from error
        return self


def check_gpus(engine: EngineConfig, placement: PlacementConfig) -> None:
    """ValueError where Ray gives the engine's workers their GPUs and a replica placed like this has some itself: for
    those vLLM waits without a word, for ever where they are of the workers' bundles, else for half an hour."""
    in_bundles = any(placement.gpus[1:])
    several = any(engine.options.get(name, 1) != 1 for name in PARALLEL)
    own_choice = "ray" if in_bundles and several else "mp"  # vLLM's, where the option is not set
    backend = engine.options.get("distributed_executor_backend") or own_choice
    if engine.kind == "vllm" and backend == "ray" and placement.num_gpus:
        theirs = "the GPUs of placement_group_bundles" if in_bundles else "GPUs of their own from Ray"
        raise ValueError(
            f"vLLM's workers take {theirs}, and would wait for what the replica holds (num_gpus is "
            f"{placement.num_gpus:g}): {GPUS_OF_WORKERS}"
        )


class WriterConfig(Strict):
    """A role that writes: draft or target."""

    model: str
    """``package:NAME``, ``hf:ORG/NAME`` (or ``ORG/NAME``), a folder, a ``.gguf`` file, or ``dummy:NAME`` (a shape
    without weights); ``int8:`` before any of them makes an int8 copy of it, once; ``short:`` before all of it one that
    writes frequent tokens only, for drafts."""
    engine: EngineConfig = EngineConfig()
    placement: PlacementConfig = PlacementConfig()

    @model_validator(mode="after")
    def _leaves_workers_their_gpus(self) -> WriterConfig:
        check_gpus(self.engine, self.placement)
        return self
