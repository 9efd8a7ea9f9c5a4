"""Whom a calibration asks: the roles of a deployment that runs, or a verifier in this process where no model is asked.

Promises: the deployed roles are those that serve requests, over the same handles; checks that need no engine (texts,
embeddings) are run without a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.errors import ConfigError
from actors.messages import StepRule
from deployments.calibration.record import Recorder
from deployments.calibration.scoring import Judge
from deployments.config import Config
from deployments.link.members import Members

CALL_S = 600.0
"""How long one verdict may take: nobody waits for it but this command."""


def asks_models(config: Config, verifiers: Sequence[str]) -> bool:
    """Whether a check of `verifiers` asks an engine."""
    return any(hasattr(check, "engine") for name in verifiers for check in config.verifier.verifiers[name])


async def local_judge(config: Config, verifiers: Sequence[str]) -> Judge:
    """The verifiers in this process, with their models loaded."""
    from actors.verifier import create_verifier

    cascades = {name: [check.model_dump() for check in config.verifier.verifiers[name]] for name in verifiers}
    return (await create_verifier(cascades, {})).judge


def deployed_judge() -> Judge:
    """The verifier of the application that runs on this machine."""
    from deployments.coordinator.pools import VerifierPool

    return VerifierPool(_members("verifier"), CALL_S).judge


def deployed_recorder(config: Config, max_tokens: int, temperature: float) -> Recorder:
    """Target and draft of the application that runs on this machine. ConfigError if it has no draft."""
    from deployments.bench.problems import INSTRUCTION
    from deployments.coordinator.pools import DraftPool, TargetPool

    if config.draft is None:
        raise ConfigError("There is no draft in this configuration, so there are no pairs to record.", "draft")
    step = config.speculation.step
    return Recorder(
        TargetPool(_members("target"), CALL_S),
        DraftPool(_members("draft"), CALL_S),
        StepRule(step.boundary, step.max_tokens, config.reasoning.close),
        temperature,
        max_tokens,
        INSTRUCTION,
    )


def _members(role: str) -> Members:
    from ray import serve

    from deployments.link.over_serve import members
    from deployments.server.launch import APP_NAME

    return members(role, serve.get_deployment_handle(role, APP_NAME))
