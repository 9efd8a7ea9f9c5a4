"""The controller of one pair of models: how deep each request looks ahead, or whether the target streams alone. Pure.

Promises: a depth changes at most once in `MIN_DWELL` steps of its request and only for a gain that lasts, unless it is
predicted to do harm; what is not known is tried out in small parts whose predicted cost stays below a share of
all steps; every decision says why in words. Clocks are handed in by the requests.
"""

from __future__ import annotations

from collections.abc import Callable

from deployments.coordinator.control.choice import Candidate, Conditions, Outlook, choose, outlook
from deployments.coordinator.control.estimates import Estimates, Streaming
from deployments.coordinator.control.guidance import Guidance
from deployments.coordinator.control.pacer import Manner, Pacer
from deployments.coordinator.events import Decision

BASELINE_STEPS = 2.0
"""Streamed steps that are measured before anything is speculated: what all is compared with."""
TRUST = 1.5
"""The target's batch grows at most by this factor over the largest that was measured."""
MIN_DWELL = 3
SWITCH_COST = 0.15
"""Steps that must be missed, by prediction, before another depth is taken: a large gain is taken at once, a small one
when it lasts, and noise around a break-even point changes nothing."""
HARM = 0.1
"""A depth that is predicted to cost so much is left at once."""
PROBE_STEPS = 3
MOST_PROBES = 3.0
"""Steps of allowance that are saved up at most."""
PROBE_OVERHEAD = 0.3
"""Steps that going there and back costs."""
MOST_LOSS = 0.9
"""A probe counts as costing at most this part of its steps, whatever is predicted."""


class _View:
    """What one request can choose, the others being at their planned depths."""

    def __init__(self, conditions: Conditions, candidates: list[Candidate], depths: list[int], place: int) -> None:
        self._conditions = conditions
        self._candidates = candidates
        self._depths = depths
        self._place = place
        self._seen: dict[int, Outlook] = {}

    def gain(self, depth: int, over: int) -> float:
        """What all write more at `depth` than at depth `over`, over what one writes without looking ahead."""
        share = self._outlook(0).tokens_per_s / len(self._candidates)
        return (self._outlook(depth).tokens_per_s - self._outlook(over).tokens_per_s) / share

    def reason(self, depth: int) -> str:
        """Why `depth` is chosen, in words."""
        seen = self._outlook(depth)
        return (
            f"{'looking ahead pays' if depth else 'the target alone is faster'}: acceptance "
            f"{self._candidates[self._place].alpha:.2f}, a draft step takes {seen.c:.2f} of a target step, "
            f"{seen.num_sequences:.1f} sequences in the target's batch"
        )

    def _outlook(self, depth: int) -> Outlook:
        if depth not in self._seen:
            depths = [*self._depths[: self._place], depth, *self._depths[self._place + 1 :]]
            self._seen[depth] = outlook(self._conditions, self._candidates, depths)
        return self._seen[depth]


class Controller:
    """Shared by all requests of one coordinator. `probe_share`: steps of the target's pace, for each that is written,
    that may be lost to trying out what is not chosen."""

    def __init__(self, probe_share: float = 0.007) -> None:
        self._probe_share = probe_share
        self.estimates = Estimates()
        self._guidance = Guidance(self.estimates.target_cost)
        self._pacers: dict[str, Pacer] = {}
        self._plan: dict[str, int] = {}
        self._plan_age = 0
        self._allowance = 0.0
        self._has_speculated = False

    def open(self, name: str, manner: Manner, clock: Callable[[], float]) -> Pacer:
        """A request begins; `name` is unique."""
        pacer = Pacer(name, manner, self.estimates, self, clock)
        self._pacers[name] = pacer
        self._plan.clear()
        self.decide(pacer)
        return pacer

    def leave(self, pacer: Pacer) -> None:
        """`pacer`'s request is over."""
        if self._pacers.pop(pacer.name, None) is not None:
            self._plan.clear()

    def streamed(self, pacer: Pacer, step: Streaming) -> None:
        """The target streamed a step of `pacer`, as decided last."""
        if pacer.manner.is_guided and pacer.max_depth > 0:
            self._guidance.streamed(step, pacer.decision.depth > 0)
        else:
            self.estimates.target_cost.add_stream(step.num_sequences, step.token_s)

    def decide(self, pacer: Pacer) -> None:
        """A step of `pacer` was committed, or it begins: its decision for what comes next."""
        estimates = self.estimates
        self._allowance = min(self._allowance + self._probe_share, MOST_PROBES)
        if pacer.max_depth == 0:
            self._set(pacer, 0, "the target writes alone: there is nothing to look ahead with", 1.0)
        elif pacer.manner.is_guided:
            num_guided = sum(p.manner.is_guided for p in self._pacers.values())
            guides, reason, speed_up = self._guidance.decide(estimates.target.num_sequences, num_guided)
            self._set(pacer, pacer.max_depth if guides else 0, reason, speed_up)
        elif estimates.target_cost.num_streamed < BASELINE_STEPS and not self._has_speculated:
            self._set(pacer, 0, "the target alone is measured first", 1.0)
        elif pacer.probe_until is not None and pacer.num_steps < pacer.probe_until:
            return
        else:
            pacer.probe_until = None
            self._weigh(pacer)

    # --- weighing ----------------------------------------------------------------------------------------------------

    def _weigh(self, pacer: Pacer) -> None:
        names, candidates, conditions = self._situation()
        planned = self._planned(names, candidates, conditions)
        wanted, current = planned[pacer.name], pacer.decision.depth
        if wanted == current:
            pacer.missed *= 0.5
        if wanted == current and pacer.num_steps > 0 and self._allowance < PROBE_OVERHEAD:
            return
        view = _View(conditions, candidates, [planned[name] for name in names], names.index(pacer.name))
        if wanted != current and not self._may_switch(pacer, view, wanted):
            wanted = current
        if wanted != current or not self._probe(pacer, view):
            self._set(pacer, wanted, view.reason(wanted), 1.0 + view.gain(wanted, over=0))

    def _may_switch(self, pacer: Pacer, view: _View, wanted: int) -> bool:
        current = pacer.decision.depth
        pacer.missed += max(view.gain(wanted, over=current), 0.0)
        if pacer.num_steps == 0 or view.gain(0, over=current) > HARM:
            return True
        return pacer.num_steps - pacer.changed_at >= MIN_DWELL and pacer.missed > SWITCH_COST

    def _situation(self) -> tuple[list[str], list[Candidate], Conditions]:
        estimates = self.estimates
        names = list(self._pacers)
        candidates = [self._pacers[name].candidate for name in names]
        conditions = Conditions(
            estimates.target_cost,
            estimates.draft_cost,
            estimates.verdict_s.value / estimates.step_tokens.value,
            estimates.spread,
            estimates.target.others,
            estimates.draft.others,
            estimates.target.num_replicas,
            estimates.draft.num_replicas,
        )
        return names, candidates, conditions

    def _planned(self, names: list[str], candidates: list[Candidate], conditions: Conditions) -> dict[str, int]:
        """The best depths, worked out anew after every quarter of a step of each request."""
        self._plan_age += 1
        if not self._plan or self._plan_age > len(names) / 4:
            known = self.estimates.target_cost.largest_known
            depths = choose(conditions, candidates, max(TRUST * known, known + 1.5))
            self._plan, self._plan_age = dict(zip(names, depths, strict=True)), 0
        return self._plan

    def _probe(self, pacer: Pacer, view: _View) -> bool:
        """Whether `pacer` now tries out what is not chosen: looking ahead where the target streams, or the stream."""
        current = pacer.decision.depth
        other = 0 if current else 1
        if other == 0 and self.estimates.target_cost.num_streamed >= BASELINE_STEPS:
            return False
        loss = min(max(view.gain(current, over=other), 0.0), MOST_LOSS)
        cost = PROBE_OVERHEAD + PROBE_STEPS * loss / (1.0 - loss)  # a slower step takes longer, too
        if cost > self._allowance or any(p.probe_until is not None for p in self._pacers.values()):
            return False
        self._allowance -= cost
        pacer.probe_until = pacer.num_steps + PROBE_STEPS
        what = "the target alone" if other == 0 else "a look-ahead of one step"
        self._set(pacer, other, f"trying out {what} for {PROBE_STEPS} steps", 1.0 + view.gain(other, over=0))
        return True

    def _set(self, pacer: Pacer, depth: int, reason: str, speed_up: float) -> None:
        self._has_speculated |= depth > 0
        if depth != pacer.decision.depth or pacer.num_steps == 0:
            pacer.changed_at, pacer.missed = pacer.num_steps, 0.0
            pacer.decision = Decision(depth, reason, speed_up)
