"""The verifier role: named cascades of checks, cheap ones first.

Promises: every call for a configured verifier ends in a verdict. A step is accepted only because one check said so,
named in the verdict; where no check is sure, or the one that is asked fails or cannot read the step, it is rejected;
the last of these is an answer, and no failure. Equal requests are judged once: while that runs and as long as the
verdict is remembered; a caller that is cancelled takes it from no other.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.errors import ConfigError, RequestError
from actors.messages import JudgeRequest, Prefix, Step, TokenIds, Verdict
from actors.roles import Scorer
from actors.verifiers import build_check
from actors.verifiers.check import Check, Decision
from actors.verifiers.shared import SharedWork

logger = logging.getLogger(__name__)

NUM_REMEMBERED = 4096
"""Verdicts that are remembered: a few hundred bytes each."""


class StepVerifier:
    """Judges steps by the checks of the verifier that a request names, in their order, until one decides."""

    def __init__(self, verifiers: Mapping[str, Sequence[Check]], num_remembered: int = NUM_REMEMBERED) -> None:
        if empty := [name for name, checks in verifiers.items() if not checks]:
            raise ConfigError(f"The verifier {empty[0]!r} has no checks.", f"verifier.verifiers.{empty[0]}")
        self._verifiers = {name: tuple(checks) for name, checks in verifiers.items()}
        self._shared = SharedWork[Verdict](num_remembered, keep=lambda verdict: not verdict.has_failed)

    async def judge(self, request: JudgeRequest) -> Verdict:
        """A verdict; its `verifier` is ``NAME/CHECK`` where one check decided.

        RequestError if no verifier is named so.
        """
        if request.verifier not in self._verifiers:
            known = ", ".join(self._verifiers)
            raise RequestError(
                f"There is no verifier {request.verifier!r}; there are: {known}.", "speculation.verifier"
            )
        started = time.perf_counter()
        checks = self._verifiers[request.verifier]
        key = request_key(request, any(check.reads_context for check in checks))
        verdict, is_cached = await self._shared.result(key, lambda: _decide(request, checks))
        reason = f"{verdict.reason} (judged before)" if is_cached else verdict.reason
        return replace(verdict, reason=reason, is_cached=is_cached, latency_s=time.perf_counter() - started)


async def _decide(request: JudgeRequest, checks: Sequence[Check]) -> Verdict:
    """The first sure check decides. `score` and `probability` are its own, or the last ones that a check before it
    gave, which was unsure."""
    name = request.verifier
    reasons: list[str] = []
    score: float | None = None
    probability: float | None = None
    for num_asked, check in enumerate(checks, 1):
        decided_by = f"{name}/{check.name}"
        try:
            opinion = await check.check(request)
        except RequestError as error:
            # It works, and this one step is too much for its model: others need not do without verdicts for that. How
            # soon it says so tells nothing of how long its verdicts take.
            logger.warning("The check %s cannot read a step, which is rejected: %s", decided_by, error)
            reason = f"the check {check.name} cannot read the step: {error}"
            num_unasked = len(checks) - num_asked + 1
            return Verdict(False, name, reason, score, probability=probability, num_unasked=num_unasked)
        except Exception as error:
            # A verifier that is broken costs speed; one that guesses would cost the answer.
            logger.exception("The check %s failed; the step is rejected.", decided_by)
            reason = f"the check {check.name} failed: {str(error) or type(error).__name__}"
            return Verdict(False, decided_by, reason, score, probability=probability, has_failed=True)
        if opinion.score is not None:
            score, probability = opinion.score, opinion.probability
        if opinion.decision is not Decision.UNSURE:
            return Verdict(
                opinion.decision is Decision.ACCEPT,
                decided_by,
                opinion.reason,
                score,
                probability=probability,
                num_unasked=len(checks) - num_asked,
            )
        reasons.append(f"{check.name}: {opinion.reason}")
    reason = f"no check was sure ({'; '.join(reasons)})"
    return Verdict(False, name, reason, score, probability=probability)


def request_key(request: JudgeRequest, with_context: bool) -> bytes:
    """Equal for requests that are judged alike: the verifier and what its checks read of the request. Whose request it
    is and how long the steps took is no part of it."""
    read: list[object] = [request.verifier, _read(request.draft), request.target and _read(request.target)]
    if with_context:
        tokens = (_digest(request.draft.token_ids), request.draft.vocabulary)
        read += [request.question, request.context, tokens, request.prefix and _before(request.prefix)]
        read.append(request.vocabulary)
    # repr keeps neighbouring texts apart: no two lists read alike.
    return hashlib.sha256(repr(read).encode()).digest()


def _read(step: Step) -> tuple[str, str]:
    return step.text, step.ending


def _before(prefix: Prefix) -> tuple[object, ...]:
    pieces = tuple((piece.text, _digest(piece.token_ids), piece.vocabulary) for piece in prefix.pieces)
    return _digest(prefix.prompt_ids), pieces, prefix.cache_salt


def _digest(token_ids: TokenIds) -> bytes:
    """Stands for `token_ids`: tens of thousands of numbers as decimals would take longer than many a check."""
    return hashlib.sha256(array("q", token_ids)).digest()


async def create_verifier(
    verifiers: Mapping[str, Sequence[Mapping[str, object]]], scorers: Mapping[str, Scorer]
) -> StepVerifier:
    """A verifier with all models loaded. `verifiers` holds for each name the checks' settings, each with its ``kind``.

    ConfigError for settings that cannot be, WeightsError for a model that cannot be loaded.
    """
    built = {
        name: [await asyncio.to_thread(_build, name, settings, scorers) for settings in checks]
        for name, checks in verifiers.items()
    }
    return StepVerifier(built)


def _build(name: str, settings: Mapping[str, object], scorers: Mapping[str, Scorer]) -> Check:
    if "kind" not in settings:
        raise ConfigError(f"A check of the verifier {name!r} has no kind.", f"verifier.verifiers.{name}")
    options = {key: value for key, value in settings.items() if key != "kind"}
    return build_check(str(settings["kind"]), options, scorers)
