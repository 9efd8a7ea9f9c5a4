"""The verifier role: named cascades of checks, cheap ones first.

Promises: every call for a configured verifier ends in a verdict. A step is accepted only because one check said so,
named in the verdict; where no check is sure, or the one that is asked fails, it is rejected. Nothing is kept between
calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from actors.errors import ConfigError, RequestError
from actors.messages import JudgeRequest, Verdict
from actors.roles import LabelScorer
from actors.verifiers import build_check
from actors.verifiers.check import Check, Decision

logger = logging.getLogger(__name__)


class StepVerifier:
    """Judges steps by the checks of the verifier that a request names, in their order, until one decides."""

    def __init__(self, verifiers: Mapping[str, Sequence[Check]]) -> None:
        if empty := [name for name, checks in verifiers.items() if not checks]:
            raise ConfigError(f"The verifier {empty[0]!r} has no checks.", f"verifier.verifiers.{empty[0]}")
        self._verifiers = {name: tuple(checks) for name, checks in verifiers.items()}

    async def judge(self, request: JudgeRequest) -> Verdict:
        """A verdict; its `verifier` is ``NAME/CHECK`` where one check decided.

        RequestError if no verifier is named so.
        """
        name = request.verifier
        if name not in self._verifiers:
            known = ", ".join(self._verifiers)
            raise RequestError(f"There is no verifier {name!r}; there are: {known}.", "speculation.verifier")
        started = time.perf_counter()
        reasons: list[str] = []
        score: float | None = None
        for check in self._verifiers[name]:
            decided_by = f"{name}/{check.name}"
            try:
                opinion = await check.check(request)
            except Exception as error:
                # A verifier that is broken costs speed; one that guesses would cost the answer.
                logger.exception("The check %s failed; the step is rejected.", decided_by)
                reason = f"the check {check.name} failed: {str(error) or type(error).__name__}"
                return Verdict(False, decided_by, reason, latency_s=time.perf_counter() - started)
            if opinion.decision is not Decision.UNSURE:
                accepted = opinion.decision is Decision.ACCEPT
                return Verdict(accepted, decided_by, opinion.reason, opinion.score, time.perf_counter() - started)
            reasons.append(f"{check.name}: {opinion.reason}")
            score = opinion.score if opinion.score is not None else score
        return Verdict(False, name, f"no check was sure ({'; '.join(reasons)})", score, time.perf_counter() - started)


async def create_verifier(
    verifiers: Mapping[str, Sequence[Mapping[str, object]]], scorers: Mapping[str, LabelScorer]
) -> StepVerifier:
    """A verifier with all models loaded. `verifiers` holds for each name the checks' settings, each with its ``kind``.

    ConfigError for settings that cannot be, WeightsError for a model that cannot be loaded.
    """
    built = {
        name: [await asyncio.to_thread(_build, name, settings, scorers) for settings in checks]
        for name, checks in verifiers.items()
    }
    return StepVerifier(built)


def _build(name: str, settings: Mapping[str, object], scorers: Mapping[str, LabelScorer]) -> Check:
    if "kind" not in settings:
        raise ConfigError(f"A check of the verifier {name!r} has no kind.", f"verifier.verifiers.{name}")
    options = {key: value for key, value in settings.items() if key != "kind"}
    return build_check(str(settings["kind"]), options, scorers)
