"""Runs a check over recorded pairs, through the verifier that a deployment would ask.

Promises: what is measured is the check in its place: pairs that an earlier check of its cascade decides never reach it,
here as there. Its own zones are opened, so that it gives every pair that reaches it a score and decides none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args
from uuid import uuid4

from actors.errors import ConfigError, ServiceError
from actors.messages import JudgeRequest, Verdict
from deployments.calibration.curve import Scored
from deployments.calibration.pairs import StepPair
from deployments.calibration.side_by_side import for_each
from deployments.config import Config
from deployments.verifier_config import Check
from deployments.verifier_config import Scored as ScoredCheck

BEFORE, OPEN = "before-the-calibrated", "calibrated"
"""Names of two verifiers that are added: the cascade up to the check under measurement, and that check alone."""

Judge = Callable[[JudgeRequest], Awaitable[Verdict]]
TOPS: dict[str, float] = {
    section.model_fields["kind"].default: section.top
    for section in get_args(get_args(Check)[0])
    if issubclass(section, ScoredCheck)
}
"""Checks with a score, and the highest one, as their settings say."""


@dataclass(frozen=True, slots=True)
class Place:
    """A check of a verifier of the configuration."""

    verifier: str
    index: int
    check: Check

    @property
    def kind(self) -> str:
        """The check's kind, which is its name in verdicts."""
        return self.check.kind


@dataclass(slots=True)
class Result:
    """What came of the pairs. `decided` counts those that never reached the check by the check and the decision that
    ended them (``exact accepted``), `num_unscored` those it had no score for, the first one for
    `unscored_reason`."""

    scored: list[Scored] = field(default_factory=list)
    decided: Counter[str] = field(default_factory=Counter)
    decided_right: Counter[str] = field(default_factory=Counter)
    num_unscored: int = 0
    num_unlabelled: int = 0
    unscored_reason: str = ""

    def count(self, verdict: Verdict, same: bool) -> None:
        """Add a pair that `verdict` ended."""
        ended = f"{verdict.verifier.rpartition('/')[2]} {'accepted' if verdict.accepted else 'rejected'}"
        self.decided[ended] += 1
        self.decided_right[ended] += verdict.accepted == same


def find_place(config: Config, verifier: str | None, kind: str | None) -> Place:
    """Where the check `kind` stands in `verifier`: by default the last check with a score, of the default fidelity's
    verifier, or of `balanced` where that one scores nothing. ConfigError if there is none."""
    fidelities = config.speculation.fidelities
    name = verifier or fidelities[config.speculation.fidelity]
    if verifier is None and not any(check.kind in TOPS for check in config.verifier.verifiers[name]):
        name = fidelities.get("balanced", name)
    cascade = config.verifier.verifiers.get(name)
    if cascade is None:
        known = ", ".join(config.verifier.verifiers)
        raise ConfigError(f"There is no verifier {name!r}; there are: {known}.", "verifier")
    wanted = [index for index, check in enumerate(cascade) if check.kind in TOPS and kind in (None, check.kind)]
    if not wanted:
        what = f"check {kind!r}" if kind else "check"
        raise ConfigError(
            f"The verifier {name!r} has no {what} with a score (those with one: {', '.join(TOPS)}); "
            "name another with --verifier and --check.",
            "verifier",
        )
    return Place(name, wanted[-1], cascade[wanted[-1]])


def opened(config: Config, place: Place) -> Config:
    """`config` with the verifiers `BEFORE` and `OPEN`; the latter decides nothing but at the top of its scale. Verdicts
    may take their time."""
    zones = place.check.model_copy(update={"accept": TOPS[place.kind], "reject": 0.0, "calibration": ()})
    before = config.verifier.verifiers[place.verifier][: place.index]
    verifiers = {**config.verifier.verifiers, OPEN: [zones]} | ({BEFORE: before} if before else {})
    speculation = config.speculation.model_copy(update={"verdict_timeout_s": 600.0})
    verifier = config.verifier.model_copy(update={"verifiers": verifiers})
    return config.model_copy(update={"verifier": verifier, "speculation": speculation})


async def label(
    pairs: Sequence[StepPair],
    judge: Judge,
    verifier: str,
    concurrency: int,
    tick: Callable[[], None],
    keep: Callable[[StepPair, str | None], None] = lambda pair, reason: None,
) -> list[StepPair]:
    """The pairs with the verdicts of `verifier` as their labels. A pair of which no check was sure, or whose verdict
    failed, has none. `keep` is given each one as soon as it is judged, with the reason where it has no label.

    ServiceError if all verdicts failed.
    """
    failures: list[str] = []

    async def one(pair: StepPair) -> StepPair:
        reason: str | None
        try:
            verdict = await _verdict(pair, judge, verifier)
        except ServiceError as error:
            failures.append(str(error))
            labelled, reason = replace(pair, same=None, labelled_by=None), str(error)
        else:
            # Where a check decided, it is named behind the verifier.
            is_sure = verdict.verifier != verifier
            labelled = replace(
                pair, same=verdict.accepted if is_sure else None, labelled_by=verifier if is_sure else None
            )
            reason = None if is_sure else verdict.reason
        keep(labelled, reason)
        tick()
        return labelled

    labelled = await for_each(one, pairs, concurrency)
    if pairs and len(failures) == len(pairs):
        raise ServiceError(failures[0])
    return labelled


async def measure(
    pairs: Sequence[StepPair], judge: Judge, place: Place, concurrency: int, tick: Callable[[], None]
) -> Result:
    """The scores that the check gives the labelled pairs that reach it; `tick` is called once a pair."""
    labelled = [pair for pair in pairs if pair.same is not None]
    result = Result(num_unlabelled=len(pairs) - len(labelled))
    if place.index:
        verdicts = await _judge_all(labelled, judge, BEFORE, concurrency, lambda: None)
        for pair, verdict in zip(labelled, verdicts, strict=True):
            if verdict.verifier != BEFORE:
                result.count(verdict, bool(pair.same))
                tick()
        labelled = [pair for pair, verdict in zip(labelled, verdicts, strict=True) if verdict.verifier == BEFORE]
    verdicts = await _judge_all(labelled, judge, OPEN, concurrency, tick)
    for pair, verdict in zip(labelled, verdicts, strict=True):
        # Below the zones, that is without having been unsure, it rejects for a reason of its own, such as a floor.
        if verdict.verifier != OPEN and not verdict.accepted and (verdict.score or 0.0) >= 0.0:
            result.count(verdict, bool(pair.same))
        elif verdict.score is None:
            result.num_unscored += 1
            result.unscored_reason = result.unscored_reason or verdict.reason
        else:
            result.scored.append(Scored(verdict.score, bool(pair.same)))
    return result


async def _judge_all(
    pairs: Sequence[StepPair], judge: Judge, verifier: str, concurrency: int, tick: Callable[[], None]
) -> list[Verdict]:
    """The verdict on each pair, `concurrency` at a time. ServiceError for one that says nothing of the steps."""

    async def one(pair: StepPair) -> Verdict:
        verdict = await _verdict(pair, judge, verifier)
        tick()
        return verdict

    return await for_each(one, pairs, concurrency)


async def _verdict(pair: StepPair, judge: Judge, verifier: str) -> Verdict:
    """ServiceError for one that says nothing of the steps."""
    verdict = await judge(pair.request(verifier, f"{verifier}-{uuid4().hex}"))
    if verdict.has_failed:
        raise ServiceError(f"A pair could not be judged: {verdict.reason}.")
    return verdict
