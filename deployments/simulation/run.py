"""Runs a scenario: every mode over the same texts and arrivals, and what came out.

Promises: the same scenario gives the same figures; requests that are under way at the end count with the tokens that
they committed, and only whole ones have a latency.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployments.coordinator.control.controller import Controller
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Cluster, Coordinator, Ended, Pool
from deployments.simulation.controlled import Controlled
from deployments.simulation.costs import EngineCost
from deployments.simulation.decisions import Decisions
from deployments.simulation.engine import Engine
from deployments.simulation.passages import Passages
from deployments.simulation.recorded import read_scripts
from deployments.simulation.request import Request
from deployments.simulation.scenario import FailureScenario, Scenario
from deployments.simulation.scripts import RandomScript, Script, uniform

Tell = Callable[[str, float], None]
"""Is told the mode that runs, and which part of it is done, from 0 to 1."""
ARRIVALS = 7919
"""Keeps the draws of arrivals apart from others of the same seed."""
NUM_PARTS = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """One mode. Rates are over the whole duration; None where nothing was finished."""

    mode: str
    num_requests: int
    """Finished ones."""
    num_refused: int
    num_failed: int
    num_committed_steps: int
    num_executed_steps: int
    """Steps that engines wrote to their end, kept or not."""
    num_verdicts: int
    num_lost_calls: int
    output_tokens: int
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    latency_p50_s: float | None
    latency_p95_s: float | None
    first_step_p50_s: float | None
    goodput_rps: float | None
    accept_rate: float | None
    user_tokens_per_s: float | None
    """Tokens a second of a request, median."""
    target_busy: float
    draft_busy: float
    verifier_busy: float
    """Shares of the time in which an engine of the role had work."""
    target_batch: float
    draft_batch: float
    """Mean sequences in an engine."""
    coordinator_busy: float
    """Share of the coordinators' cores that is taken; 0 where hearing costs nothing."""
    verifier_full: float
    """Share of the verifiers' places that is taken: at 1 verdicts wait."""
    calls_mb_per_s: float
    """What calls carry to engines, in 10^6 bytes."""
    duration_s: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run_scenario(scenario: Scenario, tell: Tell = lambda mode, part: None) -> list[Outcome]:
    """All modes of `scenario`, in its order."""
    script = script_of(scenario)
    return [Run(scenario, mode, script).outcome(tell) for mode in scenario.speculation.modes]


def script_of(scenario: Scenario) -> Callable[[int], Script]:
    """The text of each request."""
    text = scenario.text
    if text.recorded is not None:
        recorded = read_scripts(Path(text.recorded))
        return lambda number: recorded[number % len(recorded)]
    return lambda number: RandomScript(
        text.seed + number + 1,
        text.num_steps,
        text.alpha,
        text.mean_tokens,
        text.sigma,
        text.equal_share if scenario.verifier.replicas else 1.0,
        text.length_effect,
    )


def settings_of(scenario: Scenario, mode: str) -> SessionSettings:
    """What every request asks for."""
    speculation = scenario.speculation
    return settings_for(
        {"target_all_gpus": "target", "controlled": "lookahead"}.get(mode, mode),
        speculation.max_lookahead,
        max_target_steps=speculation.max_target_steps,
        verifier="simulated" if scenario.verifier.replicas else None,
        takes_hints=speculation.hint_gain > 1.0,
    )


def settings_for(
    mode: str,
    max_lookahead: int,
    *,
    max_target_steps: int | None = None,
    verifier: str | None = "simulated",
    takes_hints: bool = False,
) -> SessionSettings:
    """Settings of simulated requests."""
    return SessionSettings(
        session_id="",
        target_prompt=(),
        draft_prompt=(),
        vocabulary="",
        max_tokens=10**9,
        mode=mode,
        max_lookahead=max_lookahead,
        max_target_steps=max_target_steps,
        verifier=verifier,
        token_speculation="hints" if takes_hints else "none",
    )


class Run:
    """One mode of a scenario on a clock of its own."""

    def __init__(self, scenario: Scenario, mode: str, script: Callable[[int], Script]) -> None:
        self._mode = mode
        self._num_gpus = scenario.num_gpus
        if mode == "target_all_gpus":
            scenario = scenario.all_gpus
        self._scenario = scenario
        self._clock = clock = Clock()
        verdict = EngineCost(((1, scenario.verifier.latency_s),), max_num_seqs=scenario.verifier.at_once)
        self._pools = {
            "target": Pool(clock, scenario.target.cost("target"), scenario.target.replicas),
            "draft": Pool(clock, scenario.draft.cost("draft"), scenario.draft.replicas),
            "verifier": Pool(clock, verdict, scenario.verifier.replicas),
        }
        settings, controller = settings_of(scenario, mode), Controller()
        coordinator = scenario.coordinator
        num = coordinator.replicas if coordinator.message_s else 0
        self._coordinators = [Coordinator(clock, coordinator.message_s) for _ in range(num)]
        controlled = lambda number: Controlled(settings, controller, clock, number)  # noqa: E731
        self._cluster = Cluster(
            clock,
            Decisions(settings),
            self._pools["target"],
            self._pools["draft"],
            self._pools["verifier"],
            network_s=scenario.network_s,
            hint_gain=scenario.hint_gain,
            mind=controlled if mode == "controlled" else None,
            coordinators=self._coordinators,
        )
        self._passages = Passages(script)
        self._num_begun = self._num_drawn = self._num_refused = self._num_in_flight = 0
        self._arrive()
        for failure in scenario.failures:
            self._plan(failure)

    def outcome(self, tell: Tell) -> Outcome:
        """Runs to the end of the scenario."""
        clock, duration = self._clock, self._scenario.duration_s
        for part in range(1, NUM_PARTS + 1):
            clock.run_until(duration * part / NUM_PARTS)
            tell(self._mode, part / NUM_PARTS)
        return self._figures()

    # --- arrivals ----------------------------------------------------------------------------------------------------

    def _arrive(self) -> None:
        arrivals = self._scenario.arrivals
        if arrivals.users is not None:
            for user in range(arrivals.users):
                # Spread over the first step, so that users do not march in step.
                self._clock.after(uniform(ARRIVALS, user), self._ask_again)
        else:
            self._clock.after(self._gap(), self._ask_at_random)

    def _ask_again(self) -> None:
        self._ask(lambda: self._clock.after(0.0, self._ask_again))

    def _ask_at_random(self) -> None:
        """Requests at the highest rate come at random, and so many of them ask as the present rate says."""
        arrivals, number = self._scenario.arrivals, self._num_drawn
        full = arrivals.max_in_flight is not None and self._num_in_flight >= arrivals.max_in_flight
        if uniform(ARRIVALS + 1, self._scenario.text.seed, number) < self._present_rate() / self._highest_rate():
            if full:
                self._num_refused += 1
            else:
                self._ask(lambda: None)
        self._clock.after(self._gap(), self._ask_at_random)

    def _highest_rate(self) -> float:
        arrivals = self._scenario.arrivals
        return max(arrivals.rate or 0.0, arrivals.rate_from or 0.0)

    def _present_rate(self) -> float:
        arrivals, now = self._scenario.arrivals, self._clock.now
        rate, begin = arrivals.rate or 0.0, arrivals.rate_from
        return rate if begin is None or now >= arrivals.ramp_s else begin + (rate - begin) * now / arrivals.ramp_s

    def _gap(self) -> float:
        """Seconds until the next one: exponential."""
        self._num_drawn += 1
        return -math.log(1.0 - uniform(ARRIVALS, self._scenario.text.seed, self._num_drawn)) / self._highest_rate()

    def _ask(self, then: Callable[[], None]) -> None:
        number = self._num_begun
        self._num_begun += 1
        self._num_in_flight += 1

        def ended(result: Ended) -> None:
            self._num_in_flight -= 1
            self._cluster.counts.ended.append(result)
            then()

        Request(self._cluster, number, self._passages.of(number), self._scenario.text.prompt_tokens, ended)

    # --- failures ----------------------------------------------------------------------------------------------------

    def _plan(self, failure: FailureScenario) -> None:
        for pool, engine in self._struck(failure):
            self._clock.after(failure.at_s, engine.die)
            self._clock.after(failure.back_s, lambda pool=pool, engine=engine: pool.come_back(engine))  # type: ignore[misc]

    def _struck(self, failure: FailureScenario) -> list[tuple[Pool, Engine]]:
        if failure.role is not None:
            pool = self._pools[failure.role]
            chosen = pool.engines if failure.replica is None else [pool.engines[failure.replica]]
            return [(pool, engine) for engine in chosen]
        struck, first = [], 0
        for role in ("target", "draft"):
            size = (self._scenario.target if role == "target" else self._scenario.draft).gpus
            for engine in self._pools[role].engines:
                nodes = range(
                    first // self._scenario.gpus_per_node, (first + size - 1) // self._scenario.gpus_per_node + 1
                )
                if failure.node in nodes:
                    struck.append((self._pools[role], engine))
                first += size
        return struck

    # --- figures -----------------------------------------------------------------------------------------------------

    def _figures(self) -> Outcome:
        counts, scenario = self._cluster.counts, self._scenario
        whole = [one for one in counts.ended if not one.failed]
        latencies = sorted(one.ended_s - one.started_s for one in whole)
        paces = sorted(one.num_tokens / (one.ended_s - one.started_s) for one in whole)
        firsts = sorted(one.first_step_s - one.started_s for one in whole)
        accepted, recovered = sum(one.num_accepted for one in whole), sum(one.num_recovered for one in whole)
        goal = scenario.latency_goal_s
        duration = scenario.duration_s
        return Outcome(
            mode=self._mode,
            num_requests=len(whole),
            num_refused=self._num_refused,
            num_failed=len(counts.ended) - len(whole),
            num_committed_steps=counts.num_committed,
            num_executed_steps=counts.num_executed,
            num_verdicts=counts.num_verdicts,
            num_lost_calls=counts.num_lost_calls,
            output_tokens=counts.num_committed_tokens,
            tokens_per_s=counts.num_committed_tokens / duration,
            tokens_per_s_per_gpu=counts.num_committed_tokens / duration / self._num_gpus,
            latency_p50_s=quantile(latencies, 0.5),
            latency_p95_s=quantile(latencies, 0.95),
            first_step_p50_s=quantile(firsts, 0.5),
            goodput_rps=None if goal is None else sum(latency <= goal for latency in latencies) / duration,
            accept_rate=accepted / (accepted + recovered) if accepted + recovered else None,
            user_tokens_per_s=quantile(paces, 0.5),
            target_busy=self._busy("target"),
            draft_busy=self._busy("draft"),
            verifier_busy=self._busy("verifier"),
            target_batch=self._batch("target"),
            draft_batch=self._batch("draft"),
            coordinator_busy=sum(min(c.busy_s, duration) for c in self._coordinators)
            / (max(len(self._coordinators), 1) * duration),
            verifier_full=self._batch("verifier") / scenario.verifier.at_once,
            calls_mb_per_s=counts.num_sent_tokens * scenario.coordinator.bytes_per_token / 1e6 / duration,
            duration_s=duration,
        )

    def _busy(self, role: str) -> float:
        engines = self._pools[role].engines
        return sum(e.busy_s for e in engines) / (len(engines) * self._scenario.duration_s) if engines else 0.0

    def _batch(self, role: str) -> float:
        engines = self._pools[role].engines
        return sum(e.sequence_seconds for e in engines) / (len(engines) * self._scenario.duration_s) if engines else 0.0


def quantile(ordered: list[float], share: float) -> float | None:
    """By the nearest rank; None of nothing."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
