"""The audit log of one coordinator replica, as the configuration wants it: a recorder for each request, or none.

Promises: without `telemetry.audit.path` nothing is recorded and nothing is opened; what every record says of the
deployment is made once for each configuration, and a request's records go by the one that it began under.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import metadata

from deployments.config import Config
from deployments.coordinator.settings import SessionSettings
from deployments.generation import GenerationRequest
from deployments.telemetry.audit import AuditRecorder, Deployed, Terms
from deployments.telemetry.audit_log import AuditLog


class Auditing:
    """`count(num_written, num_lost)` is told from the writer's thread. ConfigError where nothing can be written."""

    def __init__(self, config: Config, replica: str, count: Callable[[int, int], None]) -> None:
        audit = config.telemetry.audit
        self._texts = audit.texts
        self._deployed = deployed(config)
        self._log: AuditLog | None = None
        if audit.path is not None:
            head = self._deployed.head()
            self._log = AuditLog(audit.path, replica, head, max_bytes=audit.max_bytes, keep=audit.keep, count=count)

    def recorder(self, request: GenerationRequest) -> AuditRecorder | None:
        """Who observes `request`; None where nothing is recorded."""
        if self._log is None:
            return None
        return AuditRecorder(request, self._deployed, self._texts, time.time, self._log.append)

    def reconfigure(self, config: Config) -> None:
        """From now on requests are recorded under `config`, but for its `telemetry`, which does not change."""
        now = deployed(config)
        if now == self._deployed:
            return
        self._deployed = now
        if self._log is not None:
            self._log.renew(now.head())

    def close(self) -> None:
        """Write what is not written yet."""
        if self._log is not None:
            self._log.close()


def deployed(config: Config) -> Deployed:
    """What records say of the deployment of `config`."""
    try:
        package = metadata.version("lookahead-serve")
    except metadata.PackageNotFoundError:
        package = "unknown"
    verifiers = config.verifier.verifiers
    checks = {name: [check.model_dump(mode="json") for check in cascade] for name, cascade in verifiers.items()}
    draft = config.draft.model if config.draft is not None else None
    return Deployed(checks, {"package": package, "target": config.target.model, "draft": draft})


def terms_of(settings: SessionSettings, is_guided: bool) -> Terms:
    """How a request with `settings` is decided."""
    return Terms(
        run=settings.session_id,
        mode=settings.mode,
        verifier=None if is_guided else settings.verifier,
        max_lookahead=settings.max_lookahead,
        branches=settings.branches,
        is_guided=is_guided,
        boundary=settings.rule.boundary,
        vocabulary=settings.vocabulary,
        sampling=settings.sampling,
    )
