"""The controller of one pair of models: how deep each request looks ahead, or whether the target streams alone. Pure.

Promises: a depth changes at most once in `MIN_DWELL` steps of its request and only for a gain that lasts, unless it is
predicted to do harm; what is not known is tried out in small parts whose predicted cost stays below a share of
all steps; every decision says why in words; a step that changes nothing takes no more time, on average, however many
requests there are. Clocks are handed in by the requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from deployments.coordinator.control.batch_cost import TargetCost
from deployments.coordinator.control.choice import Candidate, Conditions, Outlook, choose, outlook, window
from deployments.coordinator.control.estimates import Estimates, Streaming
from deployments.coordinator.control.guidance import Guidance
from deployments.coordinator.control.pacer import Manner, Pacer
from deployments.coordinator.control.ways import Ways
from deployments.coordinator.events import Decision

ENOUGH = 1.5
"""Streamed steps in a batch of this size that make the target alone known: what all is compared with."""
FIRST_TRUST, TRUST = 1.5, 2.0
"""The target's batch grows at most by this factor over the largest that was measured; by the first one until it was
seen what more sequences cost."""
FIRST_SEQUENCES = 6
"""The target's batch may be as large before anything is measured: one user looks ahead from the first step on, and of
many users at once most begin with the target alone."""
FIRST_DEPTH = 1
"""Nobody looks further ahead before it is measured what more sequences cost."""
MIN_DWELL = 3
SWITCH_COST = 0.15
"""Steps that must be missed, by prediction, before another depth is taken: a large gain is taken at once, a small one
when it lasts, and noise around a break-even point changes nothing."""
HARM = 0.1
"""A depth that is predicted to cost so much is left at once."""
LARGE = 0.15
"""Where the target's times are new, a gain that is predicted to be so large is taken within a step."""
PROBE_STEPS, WATCH_STEPS = 2, 4
"""What something costs shows sooner than what is accepted."""
PROMISING = 1.2
"""Where a look-ahead of one step would make a request so much faster if the target's batch were free, it is tried;
else it is only watched what would be accepted."""
PROBE_OVERHEAD = 0.3
"""Steps that going there and back costs."""
FIRST_ALLOWANCE, MOST_ALLOWANCE = 1.0, 20.0
"""Steps that may be lost to trying at the beginning, and are saved up at most."""
STEPS_BETWEEN_PROBES = 30
ALONE_APART = 300
"""Steps of each request after which the target alone is tried again, however well it is known: that it has become
faster shows nowhere else."""
LEAST_SPEED = 0.1
"""No way of writing is taken to be slower than this part of the target's pace."""


@dataclass(frozen=True)
class _Plan:
    """A depth for each request, worked out when so many had been asked for."""

    depths: dict[str, int]
    made_at: int


class _View:
    """What one request can choose, the others being at their planned depths."""

    def __init__(self, conditions: Conditions, candidates: list[Candidate], depths: list[int], place: int) -> None:
        self._conditions = conditions
        self._candidates = candidates
        self._depths = depths
        self._place = place
        self._seen: dict[int, Outlook] = {}

    def gain(self, depth: int, over: int) -> float:
        """What all write more at `depth` than at depth `over`, others included, over what one of ours writes without
        looking ahead."""
        share = self._outlook(0).tokens_per_s / len(self._candidates)
        return (self._outlook(depth).total_per_s - self._outlook(over).total_per_s) / share

    def loss_alone(self) -> float:
        """What all would write less with the target alone, others included, over what ours would write then."""
        alone = outlook(self._conditions, self._candidates, [0] * len(self._candidates))
        planned = outlook(self._conditions, self._candidates, self._depths)
        return max((planned.total_per_s - alone.total_per_s) / alone.tokens_per_s, 0.0)

    @property
    def speed_up_if_free(self) -> float:
        """Of a look-ahead of one step, if it cost the target nothing."""
        seen, one = self._outlook(0), self._candidates[self._place]
        return window(self._conditions, one.kind, 1, seen.c, seen.step_s).speed_up

    def loss_watching(self) -> float:
        """What one writes less while the draft's steps are only compared, over what it writes then."""
        num, target = self._outlook(0).num_sequences, self._conditions.target
        watched_s = target.window_s(num) + self._candidates[self._place].verdict_tokens_s
        return max(watched_s / target.stream_s(num) - 1.0, 0.0)

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
        self._guidances: dict[frozenset[bool], Guidance] = {}
        """By whether the guided requests of a time are sampled."""
        self._ways: dict[str, Ways] = {}
        self._pacers: dict[str, Pacer] = {}
        self._plans: dict[TargetCost, _Plan] = {}
        """By the target's times in requests of one kind."""
        self._num_planned = 0
        self._cost: TargetCost = self.estimates.target_cost
        """The target's times in requests like the one that is weighed."""
        self._allowance = FIRST_ALLOWANCE
        """In steps of each request."""
        self._since_probe = 0.0
        self._since_alone = {True: 0.0, False: 0.0}
        """Steps of each request since a stream was timed, by `Manner.looks_up`."""
        self._since_refusal = math.inf
        """Steps of each request since the target alone was not tried, because it would have cost too much."""

    def guides(self, steps: str, *, is_exact: bool, is_sampled: bool = False) -> bool:
        """Whether a request that begins now is guided, where a window is possible as well; `steps` and `is_sampled` as
        in `Manner`."""
        ways = self._ways.setdefault(steps, Ways(is_exact))
        return ways.guides(len(self._pacers), self._guidance(is_sampled).pays)

    def open(self, name: str, manner: Manner, clock: Callable[[], float]) -> Pacer:
        """A request begins; `name` is unique."""
        pacer = Pacer(name, manner, self.estimates, self, clock)
        self._pacers[name] = pacer
        self._plans.clear()
        if len(self._pacers) > 1:
            for other in self._pacers.values():
                other.is_typical = False
        self.decide(pacer)
        return pacer

    def leave(self, pacer: Pacer) -> None:
        """`pacer`'s request is over."""
        if self._pacers.pop(pacer.name, None) is not None:
            self._plans.clear()
            ways = self._ways.get(pacer.manner.steps)
            if ways is not None and pacer.is_typical and pacer.manner.has_ways:
                ways.finished(pacer.manner.is_guided, *pacer.written)

    def streamed(self, pacer: Pacer, step: Streaming) -> None:
        """The target streamed a step of `pacer`, as decided last. One without hints says nothing of the target alone
        while others have some: its passes check their words as well."""
        guided, looks_up = pacer.takes_hints, pacer.manner.looks_up
        if not guided:
            if self._has_hints:
                return
            self._since_alone[looks_up] = 0.0
        if looks_up:
            self._guidance(pacer.manner.is_sampled).streamed(step, guided)
        else:  # where hints are withdrawn the text is looked up still
            pacer.target_cost.add_stream(step.num_sequences, step.token_s)

    def learnt(self, pacer: Pacer) -> None:
        """Something new is known of the target's times while a step of `pacer` is written: a depth that was a guess is
        chosen again, one that does harm is left, one that gains much more is taken."""
        if pacer.max_depth == 0 or pacer.manner.is_guided:
            return
        self._plans.clear()
        self._cost = pacer.target_cost
        wanted, current, view = self._planned(pacer), pacer.depth_ahead, self._view(pacer)
        deeper = wanted > current > 0 and view.gain(wanted, over=current) > LARGE
        if pacer.num_steps == 0 or deeper or (wanted != current and view.gain(0, over=current) > HARM):
            pacer.probe_until = None
            self._take(pacer, wanted, view)

    def decide(self, pacer: Pacer) -> None:
        """A step of `pacer` was committed, or it begins: its decision for what comes next."""
        part = 1.0 / max(len(self._pacers), 1)
        self._allowance = min(self._allowance + self._probe_share * part, MOST_ALLOWANCE)
        self._since_probe += part
        self._since_alone[pacer.manner.looks_up] += part
        self._since_refusal += part
        if pacer.max_depth == 0:
            why = "the verifier gives no verdicts" if pacer.rests else "there is nothing to look ahead with"
            self._set(pacer, 0, f"the target writes alone: {why}", 1.0)
        elif pacer.manner.is_guided:
            self._guide(pacer)
        elif pacer.probe_until is not None and pacer.num_steps < pacer.probe_until:
            return
        else:
            pacer.probe_until = None
            self._weigh(pacer)

    # --- guiding -----------------------------------------------------------------------------------------------------

    @property
    def _has_hints(self) -> bool:
        return any(pacer.takes_hints for pacer in self._pacers.values())

    @property
    def _guided(self) -> list[Pacer]:
        """Those for which it is decided here whether they have hints, and that can have some now."""
        return [pacer for pacer in self._pacers.values() if pacer.manner.is_guided and pacer.max_depth > 0]

    def _guidance(self, is_sampled: bool) -> Guidance:
        """Whether hints pay for the guided requests of now and for one that is sampled or not. Where tokens are sampled
        hints come true less often, so greedy requests, sampled ones, and both at once are measured apart."""
        kinds = frozenset(pacer.manner.is_sampled for pacer in self._guided) | {is_sampled}
        if kinds not in self._guidances:
            self._guidances[kinds] = Guidance(self.estimates.target_cost, self._probe_share)
        return self._guidances[kinds]

    def _guide(self, pacer: Pacer) -> None:
        """The way of `pacer`, and of all others where theirs is another one: what one does costs the others, so nothing
        is learnt while only some have hints."""
        guided, guidance = self._guided, self._guidance(pacer.manner.is_sampled)
        guides, reason, speed_up = guidance.decide(self.estimates.target.num_sequences, len(guided))
        turned = [one for one in guided if one is not pacer and one.takes_hints != guides]
        if turned or (pacer.num_steps > 0 and pacer.takes_hints != guides):
            self.estimates.time_anew()
        for one in (pacer, *turned):
            one.is_typical &= guides
            self._set(one, one.max_depth if guides else 0, reason, speed_up)

    # --- weighing ----------------------------------------------------------------------------------------------------

    def _weigh(self, pacer: Pacer) -> None:
        self._cost = pacer.target_cost
        wanted, current = self._planned(pacer), pacer.depth_ahead
        if wanted == current:
            pacer.missed *= 0.5
        may_probe = self._may_probe(pacer)
        if wanted == current and not pacer.decision.watches and pacer.num_steps > 0 and not may_probe:
            return
        view = self._view(pacer)
        if wanted != current and not self._may_switch(pacer, view, wanted):
            wanted = current
        if wanted != current or not (may_probe and self._probe(pacer, view)):
            self._take(pacer, wanted, view)

    def _take(self, pacer: Pacer, depth: int, view: _View) -> None:
        """`pacer` goes to `depth` because of what `view` says of it."""
        watches = depth > 0 and not self._cost.is_known
        reason = "nothing is known of the target's times yet" if watches else view.reason(depth)
        self._set(pacer, depth, reason, 1.0 + view.gain(depth, over=0), watches=watches)

    def _may_switch(self, pacer: Pacer, view: _View, wanted: int) -> bool:
        current = pacer.depth_ahead
        pacer.missed += max(view.gain(wanted, over=current), 0.0)
        if pacer.num_steps == 0 or view.gain(0, over=current) > HARM:
            return True
        has_lasted = pacer.is_guess or pacer.num_steps - pacer.changed_at >= MIN_DWELL
        return has_lasted and pacer.missed > SWITCH_COST

    def _situation(self) -> tuple[list[Candidate], Conditions]:
        """All requests, in the order of `_pacers`, and the engines. Takes longer the more requests there are."""
        estimates = self.estimates
        candidates = [pacer.candidate for pacer in self._pacers.values()]
        if not self._cost.shows_growth:
            candidates = [replace(one, max_depth=min(one.max_depth, FIRST_DEPTH)) for one in candidates]
        conditions = Conditions(
            self._cost,
            estimates.draft_cost,
            estimates.spread,
            estimates.target.others,
            estimates.draft.others,
            estimates.target.num_replicas,
            estimates.draft.num_replicas,
        )
        return candidates, conditions

    def _view(self, pacer: Pacer) -> _View:
        candidates, conditions = self._situation()
        names, depths = list(self._pacers), self._plans[self._cost].depths
        return _View(conditions, candidates, [depths[name] for name in names], names.index(pacer.name))

    def _planned(self, pacer: Pacer) -> int:
        """The best depth of `pacer`; those of all are worked out anew after every half step of each request."""
        self._num_planned += 1
        cost = self._cost
        plan = self._plans.get(cost)
        if plan is None or self._num_planned - plan.made_at > len(self._pacers) / 2:
            candidates, conditions = self._situation()
            trust = TRUST if cost.shows_growth else FIRST_TRUST
            depths = choose(conditions, candidates, max(trust * cost.largest_known, FIRST_SEQUENCES))
            plan = self._plans[cost] = _Plan(dict(zip(self._pacers, depths, strict=True)), self._num_planned)
        return plan.depths[pacer.name]

    def _may_probe(self, pacer: Pacer) -> bool:
        """Whether it is time to try something, as far as that shows without weighing what all requests could do."""
        if self._allowance <= PROBE_OVERHEAD or self._since_probe < STEPS_BETWEEN_PROBES:
            return False
        return pacer.decision.depth == 0 or self._wants_alone(pacer)

    def _probe(self, pacer: Pacer, view: _View) -> bool:
        """Whether now is tried out what is not chosen: by `pacer` a look-ahead of one step where it streams, or by all
        the target alone, since what one request costs the others shows only then."""
        if pacer.decision.depth > 0:
            return self._probe_alone(view)
        if view.speed_up_if_free < PROMISING:
            return self._try([pacer], 1, "what would be accepted", view.loss_watching(), watches=True)
        loss, speed = max(view.gain(0, over=1), 0.0), 1.0 + view.gain(1, over=0)
        if not self._try([pacer], 1, "a look-ahead of one step", loss / max(speed, LEAST_SPEED)):
            return False
        self._cost.doubt_windows(self.estimates.target.num_sequences + 1.0)
        return True

    @property
    def _num_alone(self) -> float:
        """Sequences in one of the target's replicas if all requests streamed."""
        target = self.estimates.target
        return len(self._pacers) / target.num_replicas + target.others

    def _wants_alone(self, pacer: Pacer) -> bool:
        """Whether the target alone is little known or was long ago, and nobody has hints beside it. Where it was too
        dear, it is for some time: it is asked again after a step of each request."""
        if self._since_refusal < 1.0:
            return False
        is_known = self._cost.evidence(self._num_alone) >= ENOUGH
        is_recent = self._since_alone[pacer.manner.looks_up] < ALONE_APART
        return not (is_known and is_recent) and not self._has_hints

    def _probe_alone(self, view: _View) -> bool:
        """Whether now all try the target alone, which is wanted."""
        if not self._try(list(self._pacers.values()), 0, "the target alone", view.loss_alone()):
            self._since_refusal = 0.0
            return False
        self._cost.doubt(self._num_alone, PROBE_STEPS)
        return True

    def _try(self, pacers: list[Pacer], depth: int, what: str, loss: float, *, watches: bool = False) -> bool:
        """Let `pacers` go to `depth` for a while, each losing `loss` of each step, if that can be afforded."""
        num_steps = WATCH_STEPS if watches else PROBE_STEPS
        cost = (PROBE_OVERHEAD + num_steps * loss) * len(pacers) / len(self._pacers)
        if cost > self._allowance:
            return False
        self._allowance -= cost
        self._since_probe = 0.0
        for pacer in pacers:
            if pacer.candidate.max_depth > 0:
                pacer.probe_until, pacer.is_typical = pacer.num_steps + num_steps, False
                verb = "watching" if watches else "trying out"
                self._set(pacer, depth, f"{verb} {what} for {num_steps} steps", 1.0, watches=watches)
        return True

    def _set(self, pacer: Pacer, depth: int, reason: str, speed_up: float, *, watches: bool = False) -> None:
        before = pacer.decision
        if (depth, watches) != (before.depth, before.watches) or pacer.num_steps == 0:
            pacer.changed_at, pacer.missed = pacer.num_steps, 0.0
            pacer.decision = Decision(depth, reason, speed_up, watches)
            pacer.is_guess = not self._cost.shows_growth
