"""Runs a scenario: every mode over the same texts and arrivals, and what came out.

Promises: the same scenario gives the same figures; requests that are under way at the end count with the tokens that
they committed, and only whole ones have a latency.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from deployments.coordinator.control.controller import Controller
from deployments.coordinator.strategies import STRATEGIES
from deployments.simulation.arrivals import Arrivals, Then
from deployments.simulation.asking import GUIDED, guided_texts_of, guiding_of, pools_of, script_of, settings_of
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Cluster, Coordinator, Ended, Mind, Pool
from deployments.simulation.controlled import Controlled
from deployments.simulation.decisions import Decisions
from deployments.simulation.engine import Engine
from deployments.simulation.front import RETRY_S, Front
from deployments.simulation.guided_request import GuidedRequest
from deployments.simulation.outcome import Outcome, quantile
from deployments.simulation.own_session import OwnSession
from deployments.simulation.passages import Passages
from deployments.simulation.request import Request
from deployments.simulation.scaling import Scaling
from deployments.simulation.scenario import Scenario
from deployments.simulation.scenario_sections import FailureScenario
from deployments.simulation.scripts import Script

Tell = Callable[[str, float], None]
"""Is told the mode that runs, and which part of it is done, from 0 to 1."""
NUM_PARTS = 200


def run_scenario(scenario: Scenario, tell: Tell = lambda mode, part: None) -> list[Outcome]:
    """All modes of `scenario`, in its order."""
    script = script_of(scenario)
    return [Run(scenario, mode, script).outcome(tell) for mode in scenario.speculation.modes]


class Run:
    """One mode of a scenario on a clock of its own."""

    def __init__(self, scenario: Scenario, mode: str, script: Callable[[int], Script]) -> None:
        self._mode = mode
        self._num_gpus = scenario.num_gpus
        if mode == "target_all_gpus":
            scenario = scenario.all_gpus
        self._scenario = scenario
        self._clock = clock = Clock()
        self._pools = pools_of(scenario, mode, clock)
        settings, controller = settings_of(scenario, mode), Controller()
        self._guiding = guiding_of(scenario, mode, controller, clock) if mode in GUIDED else None
        coordinator = scenario.coordinator
        num = coordinator.replicas if coordinator.message_s else 0
        self._coordinators = [Coordinator(clock, coordinator.message_s) for _ in range(num)]
        mind: Callable[[int], Mind] | None = None
        if mode == "controlled":
            mind = lambda number: Controlled(settings, controller, clock, number)  # noqa: E731
        elif not STRATEGIES[settings.mode].sees_places_only:
            mind = lambda number: OwnSession(settings)  # noqa: E731
        self._cluster = Cluster(
            clock,
            Decisions(settings) if mind is None else None,
            self._pools["target"],
            self._pools["draft"],
            self._pools["verifier"],
            network_s=scenario.network_s,
            hint_gain=scenario.hint_gain,
            mind=mind,
            coordinators=self._coordinators,
            wrote=self._wrote if scenario.admission is not None else None,
        )
        self._front = Front(clock, scenario.admission) if scenario.admission is not None else None
        rules = scenario.autoscaling
        self._scaling = Scaling(clock, rules, self._pools, self._demand) if rules is not None else None
        self._passages = Passages(script)
        self._texts = guided_texts_of(scenario, script) if self._guiding is not None else None
        self._live: dict[int, Request | GuidedRequest] = {}
        self._num_begun = self._num_refused = 0
        Arrivals(clock, scenario.arrivals, scenario.text.seed, self._ask).begin()
        for failure in scenario.failures:
            self._plan(failure)

    def outcome(self, tell: Tell) -> Outcome:
        """Runs to the end of the scenario."""
        clock, duration = self._clock, self._scenario.duration_s
        for part in range(1, NUM_PARTS + 1):
            clock.run_until(duration * part / NUM_PARTS)
            tell(self._mode, part / NUM_PARTS)
        return self._figures()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _ask(self, then: Then) -> None:
        number, asked_s, most = self._num_begun, self._clock.now, self._scenario.arrivals.max_in_flight
        self._num_begun += 1
        begin = partial(self._begin, number, asked_s, then)
        if self._front is not None:
            self._front.ask(number, self._scenario.text.prompt_tokens, begin, lambda wait_s: self._refuse(then, wait_s))
        elif most is not None and len(self._live) >= most:
            self._refuse(then, RETRY_S)
        else:
            begin()

    def _refuse(self, then: Then, wait_s: float) -> None:
        self._num_refused += 1
        then(wait_s)

    def _begin(self, number: int, asked_s: float, then: Then) -> None:
        def ended(result: Ended) -> None:
            result.started_s = asked_s
            self._live.pop(number, None)
            self._cluster.counts.ended.append(result)
            if self._front is not None:
                self._front.ended(number)
            then(0.0)

        num_prompt = self._scenario.text.prompt_tokens
        if self._guiding is not None and self._texts is not None:
            text = self._texts(number)
            self._live[number] = GuidedRequest(self._cluster, self._guiding, number, text, num_prompt, ended)
        else:
            self._live[number] = Request(self._cluster, number, self._passages.of(number), num_prompt, ended)

    def _wrote(self, number: int, num_tokens: int) -> None:
        if self._front is not None:
            self._front.wrote(number, num_tokens)

    def _demand(self) -> dict[str, dict[str, float]]:
        """As coordinator and gateway report: `deployments.coordinator.demand.Demand.stats`, `Admission.held_back`."""
        live = list(self._live.values())
        calls = [role for request in live for role in request.roles_asked]
        waiting = sum(request.is_waiting for request in live)
        speculates = self._mode not in ("target", "target_all_gpus")
        asked: dict[str, float] = {
            "requests": len(live),
            "speculating": len(live) if speculates else 0,
            "waiting_requests": waiting,
            "waiting_tokens": waiting * self._scenario.text.prompt_tokens,
            **{f"{role}_calls": calls.count(role) for role in self._pools},
        }
        return {"coordinator": asked, "gateway": {} if self._front is None else self._front.held_back()}

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
        duration, mean_gpus = scenario.duration_s, self._mean_gpus()
        return Outcome(
            mode=self._mode,
            num_requests=len(whole),
            num_refused=self._num_refused,
            refused=self._front.refused if self._front is not None else {},
            num_failed=len(counts.ended) - len(whole),
            num_committed_steps=counts.num_committed,
            num_executed_steps=counts.num_executed,
            num_verdicts=counts.num_verdicts,
            num_lost_calls=counts.num_lost_calls,
            output_tokens=counts.num_committed_tokens,
            tokens_per_s=counts.num_committed_tokens / duration,
            tokens_per_s_per_gpu=counts.num_committed_tokens / duration / mean_gpus,
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
            wait_p95_s=quantile(sorted(self._front.waits), 0.95) if self._front is not None else None,
            mean_gpus=mean_gpus,
            replicas=tuple(self._scaling.changes) if self._scaling is not None else (),
            duration_s=duration,
        )

    def _mean_gpus(self) -> float:
        if self._scaling is None:
            return float(self._num_gpus)
        sizes = {"target": self._scenario.target.gpus, "draft": self._scenario.draft.gpus}
        return sum(size * self._scaling.mean_replicas(role) for role, size in sizes.items())

    def _busy(self, role: str) -> float:
        return self._of_replicas(role, lambda engine: engine.busy_s)

    def _batch(self, role: str) -> float:
        return self._of_replicas(role, lambda engine: engine.sequence_seconds)

    def _of_replicas(self, role: str, integral: Callable[[Engine], float]) -> float:
        """The mean over the replicas and the time."""
        pool = self._pools[role]
        num = len(pool.engines) if self._scaling is None else self._scaling.mean_replicas(role)
        total = sum(integral(engine) for engine in [*pool.engines, *pool.retired])
        return total / (num * self._scenario.duration_s) if num else 0.0
