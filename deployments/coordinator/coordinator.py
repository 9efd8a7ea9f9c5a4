"""The coordinator: makes a session of each request and drives it. Knows Ray only through its roles.

Promises: a request's wishes and the deployment's defaults are settled before any work starts; what cannot be served is
refused before `Opened`; each request goes by what the roles say of themselves now, since others may have taken their
place; whatever ends a request, its calls end, its trace is kept and it is counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from actors.errors import (
    AttemptsExhausted,
    LookaheadError,
    OtherVocabulary,
    RequestError,
    RoleUnavailable,
)
from actors.messages import Prompt, StepRule, TokenIds
from deployments.config import Config, scores_alone
from deployments.coordinator.breaker import Fuse
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.pacer import Manner, Pacer
from deployments.coordinator.demand import Demand
from deployments.coordinator.events import Command, DraftAvailable, Event
from deployments.coordinator.fitting import require_room
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.latency import Bounds
from deployments.coordinator.pipeline import MAX_DRAFT_RETRY_S, Patience, Pipeline, Roles
from deployments.coordinator.reasoning import rendered
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings, SpecReasonOptions, max_tokens_of, sampling_of
from deployments.coordinator.vigilance import Vigilance
from deployments.generation import GenerationRequest, Opened, Output
from deployments.speculation_config import SpeculationConfig
from deployments.telemetry.auditing import Auditing, terms_of
from deployments.telemetry.kept_traces import KeptTraces
from deployments.telemetry.metrics import Metrics, RequestMetrics
from deployments.telemetry.trace import TraceRecorder
from deployments.telemetry.trace_json import json_parts
from deployments.verifier_config import accepts_only_equal, suits_specreason

logger = logging.getLogger(__name__)

DRAFT_PROMPT_S = 1.0
"""A request waits so much longer for the draft than for the target to render its prompt, of which long ones take a
while and wait for one another; then it goes on without, until the draft answers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request gets, after its wishes and the defaults. `verifier` None: only equal steps are accepted."""

    mode: str
    max_lookahead: int
    verifier: str | None
    token_speculation: str
    branches: int = 1
    is_controlled: bool = False
    """Whether the controller chooses the depth; `max_lookahead` is the most it may choose."""
    may_guide: bool = False
    """Whether the target may write one stream with the draft's words as hints: only equal steps count, or the
    controller chooses how to speculate and no verifier was asked for by name."""


def settle(config: Config, request: GenerationRequest) -> Plan:
    """The plan for `request`; RequestError names the wish that cannot be met."""
    wishes, defaults = request.speculation, config.speculation
    mode = wishes.mode or defaults.mode
    if mode != "target" and config.draft is None:
        raise RequestError(f"This deployment has no draft model, so mode {mode!r} is not possible.", "speculation.mode")
    if wishes.fidelity is not None and wishes.fidelity not in defaults.fidelities:
        known = ", ".join(defaults.fidelities)
        raise RequestError(
            f"Fidelity {wishes.fidelity!r} is not configured; there are: {known}.", "speculation.fidelity"
        )
    scores = scores_alone(mode)
    if scores and wishes.fidelity is not None:
        raise RequestError(f"Mode {mode!r} keeps no fidelity: it compares with no target step.", "speculation.fidelity")
    named = defaults.specreason.verifier if scores else defaults.fidelities[wishes.fidelity or defaults.fidelity]
    verifier = wishes.verifier or named
    _check_verifier(config, verifier, mode)
    is_exact = not scores and accepts_only_equal(config.verifier.verifiers[verifier])
    depth = wishes.max_lookahead if wishes.max_lookahead is not None else defaults.max_lookahead
    token_speculation = wishes.token_speculation or defaults.token_speculation
    if wishes.branches is not None and wishes.branches > 1 and mode != "lookahead":
        raise RequestError(f"Mode {mode!r} has no branches; mode 'lookahead' has.", "speculation.branches")
    branches = (wishes.branches or defaults.branches) if mode == "lookahead" else 1
    is_simple = mode == "lookahead" and branches == 1  # branches are versions of whole steps
    is_controlled = is_simple and wishes.controller is not False and defaults.controller.enabled
    if wishes.controller and not is_controlled:
        where = "in mode 'lookahead' without branches" if defaults.controller.enabled else "nowhere in this deployment"
        raise RequestError(f"The controller works {where}; leave it out.", "speculation.controller")
    is_open = is_exact or (is_controlled and wishes.verifier is None)
    may_guide = is_simple and token_speculation == "hints" and is_open
    checked_by = None if is_exact else verifier
    return Plan(mode, depth, checked_by, token_speculation, branches, is_controlled, may_guide)


def _check_verifier(config: Config, verifier: str, mode: str) -> None:
    """RequestError unless there is such a verifier and, where `mode` scores, it can judge a draft step alone."""
    verifiers = config.verifier.verifiers
    if verifier not in verifiers:
        known = ", ".join(verifiers)
        raise RequestError(f"There is no verifier {verifier!r}; there are: {known}.", "speculation.verifier")
    if scores_alone(mode) and not suits_specreason(verifiers[verifier]):
        able = ", ".join(name for name, checks in verifiers.items() if suits_specreason(checks)) or "none"
        raise RequestError(
            f"Mode {mode!r} has draft steps judged alone, which no check of {verifier!r} can do. "
            f"Verifiers that can: {able}.",
            "speculation.verifier",
        )


@dataclass(frozen=True, slots=True)
class DraftPrompt:
    """The draft's rendering of a prompt; None: it is not there, or `refuses` the prompt."""

    token_ids: TokenIds | None = None
    vocabulary: str = ""
    refuses: bool = False


class Coordinator:
    """One replica of the brain."""

    def __init__(self, config: Config, roles: Roles, replica: str = "0", controller: Controller | None = None) -> None:
        """`replica` names its counters and the files of the audit log; `controller` has learnt from other requests, a
        new one knows nothing. Raises ConfigError where the files cannot be written."""
        self._config = config
        self._roles = roles
        self.replica = replica
        self._metrics = Metrics()
        self._demand = Demand()
        self._auditing = Auditing(config, replica, self._metrics.count_audited)
        self._traces = KeptTraces()
        self._draft_vocabulary: str | None = None
        """Of the draft that answered last: one that is away now may be back before the request ends."""
        self._draft_away_s = self._draft_away_until = 0.0
        """After the draft did not answer, requests do not wait for it for a while, longer each time: there may be none,
        where it is scaled to zero. Those that begin without it take it in when it answers."""
        self._vigilance = _vigilance(config.speculation)
        control = config.speculation.controller
        self._controller = controller or Controller(control.probe_share) if control.enabled else None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """One completion: `Opened`, then `Committed` ..., then `Finished`; behind `request.resume`, if it is given.

        Of one that is finished there only its end is told: it is to be kept beside other choices of its stream.
        Raises RequestError and ContextTooLong before `Opened`; AttemptsExhausted and DeadlineExceeded at any time, and
        OtherVocabulary, where another target took the place of the one that began: it goes on if it is asked again.
        """
        if request.resume is not None and request.resume.finished is not None:
            yield request.resume.finished
            return
        plan = settle(self._config, request)
        clock = asyncio.get_running_loop().time
        metrics = RequestMetrics(self._metrics, plan.mode, clock, request.resume, is_kept=request.keep is not None)
        demand = self._demand.open(plan.mode != "target")
        trace = TraceRecorder(request.request_id, plan.mode, time.time(), clock, self._config.telemetry.trace_texts)
        self._traces.keep(trace, self._config.telemetry.max_traces)
        audit = self._auditing.recorder(request)
        session: Session | GuidedSession | None = None
        pacer: Pacer | None = None
        failure: Exception | None = None
        try:
            settings = await self._settings(request, plan)
            takes_hints = settings.takes_hints
            demand.num_prompt_tokens = len(settings.target_prompt)
            is_sampled = settings.sampling.temperature > 0
            steps = f"{plan.verifier or 'exact'}, {settings.rule.boundary}, {'sampled' if is_sampled else 'greedy'}"
            wish = plan.token_speculation if takes_hints else "hints"  # an engine without hints takes no notice of it
            may_draft = self._draft_vocabulary == settings.vocabulary and not settings.draft_refuses
            takes_hints = takes_hints and may_draft and settings.may_hint
            can_guide = guides = takes_hints and plan.may_guide
            if guides and plan.is_controlled and self._controller is not None:
                guides = self._controller.guides(steps, is_exact=plan.verifier is None, is_sampled=is_sampled)
            depth = plan.max_lookahead if plan.is_controlled else 0
            manner = Manner(depth, steps, guides, can_guide, is_sampled, wish)
            pacer = self._pacer(settings.session_id, manner, clock)
            decide = pacer.decide if pacer is not None and plan.is_controlled else None
            session = GuidedSession(settings, decide) if guides else Session(settings, decide)
            if audit is not None:
                audit.begin(terms_of(settings, guides))
            yield Opened(request.request_id, len(settings.target_prompt))
            seen_by = (trace, metrics, demand, pacer, audit, self)
            observers = tuple(observer for observer in seen_by if observer is not None)
            patience = self._patience(request)
            prompt = request.prompt.of(settings.vocabulary)
            pipeline = Pipeline(session, self._roles, prompt, patience, observers, self._vigilance)
            async with aclosing(pipeline.run()) as outputs:
                async for output in outputs:
                    yield output
        except Exception as error:
            failure = error
            if isinstance(error, LookaheadError):
                trace.close(error)
            if isinstance(error, RoleUnavailable) and not isinstance(error, OtherVocabulary):
                raise AttemptsExhausted(error.message, error.param) from error
            raise
        finally:
            if pacer is not None:
                pacer.close()
            trace.close()
            demand.close()
            summary = session.summary() if session is not None else None
            metrics.close(summary, failure)
            if audit is not None:
                audit.close(summary, failure)

    def on_command(self, command: Command) -> None:
        """As `Observer.on_command`: nothing follows for other requests."""

    def on_event(self, event: Event) -> None:
        """As `Observer.on_event`: where one request has found the draft again, others need not wait to ask it."""
        if isinstance(event, DraftAvailable):
            self._draft_is_back(event.vocabulary)

    def close(self) -> None:
        """Write what of the audit log is not written yet."""
        self._auditing.close()

    def reconfigure(self, config: Config) -> None:
        """From now on requests begin under `config`; those under way end as they began."""
        if config.speculation.controller != self._config.speculation.controller:
            control = config.speculation.controller
            self._controller = Controller(control.probe_share) if control.enabled else None
        if _judged_by(config) != _judged_by(self._config):
            self._vigilance = _vigilance(config.speculation)
        self._config = config
        self._auditing.reconfigure(config)
        self._metrics.settings_refused.set(0)

    def refuse(self, error: LookaheadError) -> None:
        """Settings that cannot be were to be taken over: what was stays, and the metrics say so."""
        logger.error("The changed settings are refused, the former stay: %s", error)
        self._metrics.settings_refused.set(1)

    def trace(self, request_id: str) -> dict[str, Any] | None:
        """The trace of a recent request of this replica."""
        trace = self._traces.get(request_id)
        return trace.as_dict() if trace is not None else None

    def trace_began(self, request_id: str) -> float | None:
        """When it began: `started_at` of that trace."""
        trace = self._traces.get(request_id)
        return trace.started_at if trace is not None else None

    async def trace_parts(self, request_id: str) -> AsyncGenerator[bytes, None]:
        """That trace as JSON, in parts between which other requests go on; nothing if there is none."""
        if (trace := self._traces.get(request_id)) is not None:
            async for part in json_parts(trace.told()):
                yield part

    def metrics(self) -> str:
        """This replica's metrics in Prometheus' text format."""
        return self._metrics.text()

    def demand(self) -> dict[str, float]:
        """As `Demand.stats`: what this replica's requests ask of the deployment now."""
        return self._demand.stats()

    def _pacer(self, name: str, manner: Manner, clock: Callable[[], float]) -> Pacer | None:
        """Who decides how deep this request looks ahead; of others the controller sees what they cost."""
        return self._controller.open(name, manner, clock) if self._controller is not None else None

    def _patience(self, request: GenerationRequest) -> Patience:
        speculation = self._config.speculation
        is_rest = request.resume is not None
        return Patience(speculation.verdict_timeout_s, speculation.draft_retry_s, request.timeout_s, is_rest)

    async def _settings(self, request: GenerationRequest, plan: Plan) -> SessionSettings:
        """The settings of `request`. What is asked costs far less than a step."""
        config, target = self._config, self._roles.target
        asked, drafts = _as_begun(request), plan.mode != "target"
        await require_room(target, asked)
        draft = asyncio.create_task(self._draft_prompt(asked, drafts))
        try:
            info, prompt, marks = await rendered(target, asked, config.reasoning)
            draft_prompt = await self._in_time(draft)
        finally:
            draft.cancel()
        question = asked.question
        if asked.token_ids is not None:
            if draft_prompt.vocabulary not in ("", info.vocabulary):  # it has read them as its own
                draft_prompt = DraftPrompt(refuses=True)
            if drafts and plan.verifier is not None:
                question = await target.decode(asked.token_ids, info.vocabulary)
        step, spec = config.speculation.step, config.speculation.specreason
        thinks = marks.close is not None and marks.starts_open
        return SessionSettings(
            session_id=uuid.uuid4().hex,
            target_prompt=prompt,
            draft_prompt=draft_prompt.token_ids,
            vocabulary=info.vocabulary,
            max_tokens=max_tokens_of(request, len(prompt), info),
            rule=StepRule(request.speculation.boundary or step.boundary, step.max_tokens, marks.close),
            sampling=sampling_of(request, info),
            stop=request.stop,
            marks=marks,
            mode=plan.mode,
            speculate_content=config.speculation.scope == "all" and not thinks,
            max_lookahead=plan.max_lookahead,
            max_target_steps=config.speculation.max_target_steps,
            branches=plan.branches,
            max_nodes=config.speculation.max_nodes,
            branch_temperature=config.speculation.branch_temperature,
            verifier=plan.verifier,
            question=question,
            cache_salt=request.prompt.cache_salt,
            max_attempts=config.speculation.max_attempts,
            spans=config.speculation.spans,
            specreason=SpecReasonOptions(spec.num_target_steps, spec.max_draft_tokens),
            progress_s=config.speculation.progress_s,
            max_progress_s=config.speculation.silence.target_min_s / 4,
            restart_in_step=config.speculation.restart_in_step,
            token_speculation=plan.token_speculation,
            takes_hints=info.takes_hints,
            draft_part_tokens=config.speculation.draft_part_tokens if info.takes_hints else 0,
            num_nearby_hints=config.speculation.num_nearby_hints,
            draft_vocabulary=draft_prompt.vocabulary,
            draft_refuses=draft_prompt.refuses,
            resume=request.resume,
            num_takeovers=request.num_takeovers,
        )

    async def _draft_prompt(self, prompt: Prompt, wanted: bool) -> DraftPrompt:
        """The draft's rendering of the prompt, if there is one: without a draft the target goes on alone."""
        is_away = asyncio.get_running_loop().time() < self._draft_away_until
        if not wanted or self._roles.drafter is None or is_away:
            return DraftPrompt()
        try:
            info, (token_ids,) = await self._roles.drafter.render(prompt)
        except (RequestError, OtherVocabulary) as error:
            logger.info("The draft cannot serve a request: %s", error)
            return DraftPrompt(refuses=True)
        except LookaheadError:
            self._draft_is_away()
            return DraftPrompt()
        self._draft_is_back(info.vocabulary)
        return DraftPrompt(token_ids, info.vocabulary)

    async def _in_time(self, draft: asyncio.Task[DraftPrompt]) -> DraftPrompt:
        """What `draft` makes of the prompt, of which the target's rendering is there."""
        try:
            return await asyncio.wait_for(draft, DRAFT_PROMPT_S)
        except TimeoutError:
            self._draft_is_away()
            return DraftPrompt()

    def _draft_is_back(self, vocabulary: str) -> None:
        self._draft_away_s = self._draft_away_until = 0.0
        self._draft_vocabulary = vocabulary

    def _draft_is_away(self) -> None:
        """It did not answer: nobody waits for it for a while. Those that waited at the same time count as one."""
        now = asyncio.get_running_loop().time()
        if now < self._draft_away_until:
            return
        self._draft_away_s = min(2 * self._draft_away_s or self._config.speculation.draft_retry_s, MAX_DRAFT_RETRY_S)
        self._draft_away_until = now + self._draft_away_s


def _as_begun(request: GenerationRequest) -> Prompt:
    """The prompt of `request`. Where it goes on, the token ids of its prompt are of the vocabulary in which it was
    written so far: a target of another one, which took the place of the first, would read another text."""
    pieces = request.resume.pieces if request.resume is not None else ()
    return request.prompt.of(pieces[-1].vocabulary if pieces else "")


def _judged_by(config: Config) -> tuple[object, ...]:
    """What the limits rest on: with other bounds, or other checks, what was learnt says nothing."""
    speculation = config.speculation
    timing = speculation.silence, speculation.verdict_timeout_s, speculation.draft_retry_s
    return *timing, config.verifier.verifiers


def _vigilance(speculation: SpeculationConfig) -> Vigilance:
    silence = speculation.silence
    return Vigilance(
        Bounds(silence.target_min_s, max(silence.target_min_s, silence.target_max_s), silence.factor),
        Bounds(silence.draft_min_s, max(silence.draft_min_s, silence.draft_max_s), silence.factor),
        Bounds(
            min(silence.verdict_min_s, speculation.verdict_timeout_s), speculation.verdict_timeout_s, silence.factor
        ),
        Fuse(silence.max_failures, speculation.draft_retry_s),
    )
