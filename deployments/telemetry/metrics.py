"""Prometheus metrics of one coordinator replica, in vLLM's manner lifted to steps, and those of all replicas in one.

Promises: an observer of a pipeline that never raises and never waits; names and labels are those of the HTTP contract;
`merge` puts together what several replicas say, so that one scrape of any gateway shows the whole deployment, and with
`of_replica` a replica that is missing from a scrape makes no counter fall;
`token_metrics` puts the engines' own counts of token-level speculation beside it;
a request that several coordinators write, one after the other, is in each histogram of requests once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from actors.errors import OtherVocabulary
from actors.messages import SpeculationStats
from deployments.coordinator.events import (
    Cancel,
    Command,
    Commit,
    Continued,
    Decision,
    DraftStep,
    Event,
    Finish,
    Judge,
    Judged,
    Outcome,
    Placed,
    Promoted,
    Retired,
    StartDraft,
    StartStream,
    StartTarget,
    TargetStep,
)
from deployments.generation import SpeculationSummary, Standing

disable_created_metrics()  # type: ignore[no-untyped-call]  # times of creation do not add up over replicas

SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)

TIMED_VERDICTS = frozenset({None, "verifier_late"})
"""By what a verdict may be degraded whose time is known: a verifier that failed or was not asked has taken none."""

LARGEST = frozenset({"lookahead_lookahead_depth", "lookahead_settings_refused"})
"""Of these the largest value over replicas is shown; all others add up."""


class Metrics:
    """All that one coordinator replica counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, r = Counter, self.registry
        self.draft_steps = counter("lookahead_num_draft_steps", "Draft steps that arrived.", registry=r)
        self.accepted_steps = counter("lookahead_num_accepted_steps", "Draft steps that were committed.", registry=r)
        self.recovered_steps = counter(
            "lookahead_num_recovered_steps", "Target steps committed in the place of a rejected draft step.", registry=r
        )
        self.target_steps = counter(
            "lookahead_num_target_steps", "Target steps committed without a draft step to judge.", registry=r
        )
        self.accepted_per_position = counter(
            "lookahead_num_accepted_steps_per_pos",
            "Committed draft steps by how many uncommitted steps stood before them when they arrived.",
            ["position"],
            registry=r,
        )
        self.step_seconds = Histogram(
            "lookahead_step_seconds", "Time an engine took for one step.", ["role"], buckets=SECONDS, registry=r
        )
        self.verdict_seconds = Histogram(
            "lookahead_verdict_seconds", "Time of one verdict.", ["verifier"], buckets=SECONDS, registry=r
        )
        self.depth = Gauge(
            "lookahead_lookahead_depth", "Depth chosen last, or of the look-ahead that was started last.", registry=r
        )
        self.in_flight = Gauge("lookahead_requests_in_flight", "Requests under way.", registry=r)
        self.first_step_seconds = Histogram(
            "lookahead_time_to_first_step_seconds", "Request to first committed step.", buckets=SECONDS, registry=r
        )
        self.request_seconds = Histogram(
            "lookahead_request_seconds", "Request to its end.", ["mode"], buckets=SECONDS, registry=r
        )
        self.cancelled = counter(
            "lookahead_cancelled_steps", "Calls that were cancelled.", ["role", "reason"], registry=r
        )
        self.degraded = counter(
            "lookahead_degraded", "Requests that ran with less than they asked for.", ["reason"], registry=r
        )
        self.wasted = counter(
            "lookahead_wasted_tokens", "Tokens of whole steps that were thrown away.", ["role"], registry=r
        )
        self.settings_refused = Gauge(
            "lookahead_settings_refused",
            "1 while a change of settings was refused and the former are used.",
            registry=r,
        )
        self.output_tokens = counter("lookahead_output_tokens", "Committed tokens.", registry=r)
        self.audit_records = counter("lookahead_audit_records", "Records written to the audit log.", registry=r)
        self.audit_lost = counter(
            "lookahead_audit_lost_records", "Records that the audit log could not take.", registry=r
        )

    def count_audited(self, num_written: int, num_lost: int) -> None:
        """What became of records of the audit log; from any thread."""
        self.audit_records.inc(num_written)
        self.audit_lost.inc(num_lost)

    def text(self) -> str:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()


class RequestMetrics:
    """Counts one request while it runs; of one that goes on behind `resume`, what is added to its counts."""

    def __init__(
        self,
        metrics: Metrics,
        mode: str,
        clock: Callable[[], float],
        resume: Standing | None = None,
        *,
        is_kept: bool = False,
    ) -> None:
        """`is_kept`: another coordinator may go on with it where this one is told to end it."""
        counts = resume.counts if resume is not None else None
        self._before = counts if counts is not None else SpeculationSummary(mode)
        self._metrics = metrics
        self._mode = mode
        self._clock = clock
        self._start = clock() - (resume.elapsed_s if resume is not None else 0.0)
        self._is_kept = is_kept
        self._is_finished = False
        self._roles: dict[int, str] = {}
        self._place: dict[int, int] = {}
        self._target_tokens: dict[int, int] = {}
        self._position: dict[int, int] = {}
        self._open: set[int] = set()
        self._committed = resume is not None and resume.num_tokens > 0
        self._decided = False
        metrics.in_flight.inc()

    def on_command(self, command: Command) -> None:
        """As `Observer.on_command`."""
        m = self._metrics
        if isinstance(command, StartDraft):
            self._roles[command.call] = "draft"
            if not self._decided:
                m.depth.set(command.depth)
        elif isinstance(command, Decision):
            self._decided = True
            m.depth.set(command.depth)
        elif isinstance(command, StartTarget):
            self._roles[command.call] = "target"
            self._position[command.call] = command.position
            self._open.add(command.position)
        elif isinstance(command, Continued):
            self._position[command.call] = command.position
            self._open.add(command.position)
        elif isinstance(command, StartStream):
            self._roles[command.call] = "target"
        elif isinstance(command, Judge):
            self._roles[command.call] = "verifier"
        elif isinstance(command, Cancel):
            m.cancelled.labels(self._roles.get(command.call, "unknown"), command.reason).inc()
        elif isinstance(command, Placed):
            m.draft_steps.inc()
            at = command.position if command.beside is None else command.beside
            self._place[command.position] = sum(position < at for position in self._open)
        elif isinstance(command, Promoted):
            self._promote(command)
        elif isinstance(command, Retired):
            self._retired(command)
        elif isinstance(command, Commit):
            m.output_tokens.inc(command.output.num_tokens)
            if not self._committed:
                self._committed = True
                m.first_step_seconds.observe(self._clock() - self._start)
        elif isinstance(command, Finish):
            self._is_finished = True

    def on_event(self, event: Event) -> None:
        """As `Observer.on_event`."""
        if isinstance(event, DraftStep):
            self._metrics.step_seconds.labels("draft").observe(event.step.elapsed_s)
        elif isinstance(event, TargetStep):
            self._metrics.step_seconds.labels("target").observe(event.step.elapsed_s)
            self._target_tokens[self._position.get(event.call, -1)] = len(event.step.token_ids)
        elif isinstance(event, Judged) and event.degraded in TIMED_VERDICTS:
            self._metrics.verdict_seconds.labels(event.verdict.verifier).observe(event.verdict.latency_s)

    def close(self, summary: SpeculationSummary | None, failure: Exception | None = None) -> None:
        """The request is over here, however it ended; `summary` is None if it never began."""
        m = self._metrics
        m.in_flight.dec()
        if not self._may_go_on(failure):
            m.request_seconds.labels(self._mode).observe(self._clock() - self._start)
        if summary is None:
            return
        m.wasted.labels("draft").inc(summary.rejected_tokens - self._before.rejected_tokens)
        m.target_steps.inc(summary.num_target_steps - self._before.num_target_steps)
        for reason in summary.degraded:
            if reason not in self._before.degraded:
                m.degraded.labels(reason).inc()

    def _may_go_on(self, failure: Exception | None) -> bool:
        """Whether the request may be over here only, for all that is known here."""
        if failure is not None:
            return isinstance(failure, OtherVocabulary)
        return self._is_kept and not self._is_finished

    def _promote(self, command: Promoted) -> None:
        """What the target wrote, or writes, is for another position now."""
        self._target_tokens[command.by] = self._target_tokens.pop(command.position, 0)
        self._open.discard(command.position)
        self._open.add(command.by)
        for call, position in self._position.items():
            if position == command.position:
                self._position[call] = command.by

    def _retired(self, command: Retired) -> None:
        m = self._metrics
        self._open.discard(command.position)
        place = self._place.pop(command.position, 0)
        tokens = self._target_tokens.pop(command.position, 0)
        if command.outcome is Outcome.ACCEPTED:
            m.accepted_steps.inc()
            m.accepted_per_position.labels(str(place)).inc()
        elif command.outcome is Outcome.RECOVERED:
            m.recovered_steps.inc()
        elif command.outcome is Outcome.CANCELLED:
            m.wasted.labels("target").inc(tokens)


def token_metrics(counted: Iterable[tuple[str, str, SpeculationStats]]) -> str:
    """What the engines counted, each with its role and its replica, in Prometheus' text format and vLLM's names. Read
    when it is asked for, so it costs nothing otherwise. Replicas do not add up, as in `of_replica`.
    """
    registry = CollectorRegistry()

    def counter(name: str, words: str, *labels: str) -> Counter:
        return Counter(f"lookahead_token_{name}", words, ["role", "replica", *labels], registry=registry)

    drafts = counter("num_drafts", "Proposals of tokens, one a sequence and forward pass.")
    proposed = counter("num_draft_tokens", "Tokens that were proposed.")
    accepted = counter("num_accepted_tokens", "Proposed tokens that the model agreed with.")
    places = counter("num_accepted_tokens_per_pos", "Accepted tokens by their place in the proposal.", "position")
    proposed_by = counter("num_draft_tokens_by_source", "Tokens that hints and n-grams proposed.", "source")
    accepted_by = counter("num_accepted_tokens_by_source", "Accepted tokens of hints and n-grams.", "source")
    for role, replica, stats in counted:
        drafts.labels(role, replica).inc(stats.num_drafts)
        proposed.labels(role, replica).inc(stats.num_draft_tokens)
        accepted.labels(role, replica).inc(stats.num_accepted_tokens)
        for position, number in enumerate(stats.accepted_per_position):
            places.labels(role, replica, str(position)).inc(number)
        for source, num_proposed, num_accepted in (
            ("hint", stats.num_hint_tokens, stats.num_hint_accepted_tokens),
            ("ngram", stats.num_ngram_tokens, stats.num_ngram_accepted_tokens),
        ):
            if num_proposed:
                proposed_by.labels(role, replica, source).inc(num_proposed)
                accepted_by.labels(role, replica, source).inc(num_accepted)
    return generate_latest(registry).decode()


def start_metrics(starts: Iterable[tuple[str, Mapping[str, float]]]) -> str:
    """How long the replicas that run took to start, each with its role, in Prometheus' text format: the slowest of each
    role and phase."""
    slowest: dict[tuple[str, str], float] = {}
    for role, phases in starts:
        for phase, seconds in phases.items():
            slowest[role, phase] = max(slowest.get((role, phase), 0.0), seconds)
    registry = CollectorRegistry()
    gauge = Gauge("lookahead_replica_start_seconds", "Time of the slowest start.", ["role", "phase"], registry=registry)
    for (role, phase), seconds in slowest.items():
        gauge.labels(role, phase).set(seconds)
    return generate_latest(registry).decode()


def of_replica(text: str, replica: str) -> str:
    """`text` with a label `replica` on all that only grows: in a sum over replicas one that does not answer once would
    look like a counter that began anew, and what it had counted would count twice."""
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values: _Values = {}
    for name, family in families.items():
        label = {} if family.type == "gauge" else {"replica": replica}
        values[name] = {_key(sample.name, sample.labels | label): sample.value for sample in family.samples}
    return _written(families, values)


def merge(texts: Iterable[str]) -> str:
    """Several replicas' metrics in one, in Prometheus' text format: what has the same labels is added up."""
    families: dict[str, Metric] = {}
    sums: _Values = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            families.setdefault(family.name, family)
            values = sums.setdefault(family.name, {})
            for sample in family.samples:
                key = _key(sample.name, sample.labels)
                before = values.get(key, 0.0)
                values[key] = max(before, sample.value) if family.name in LARGEST else before + sample.value
    return _written(families, sums)


_Key = tuple[str, tuple[tuple[str, str], ...]]
_Values = dict[str, dict[_Key, float]]
"""By family: by the name and labels of a sample."""


def _key(name: str, labels: Mapping[str, str]) -> _Key:
    return name, tuple(sorted(labels.items()))


def _written(families: Mapping[str, Metric], values: _Values) -> str:
    registry = CollectorRegistry()
    registry.register(_Collected(families, values))
    return generate_latest(registry).decode()


class _Collected:
    """A collector of values, in the shape that `generate_latest` prints."""

    def __init__(self, families: Mapping[str, Metric], values: _Values) -> None:
        self._families = families
        self._values = values

    def collect(self) -> Iterable[Metric]:
        """All families with their samples."""
        for name, family in self._families.items():
            collected = Metric(name, family.documentation, family.type)
            for (sample, labels), value in self._values[name].items():
                collected.add_sample(sample, dict(labels), value)
            yield collected
