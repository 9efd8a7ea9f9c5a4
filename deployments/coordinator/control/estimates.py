"""What one pair of models does, measured from the events of all its requests. Pure: times are handed in.

Promises: every estimate forgets, so that another load or another kind of text is noticed; a cancelled call teaches
nothing about times and counts in the load only while it ran.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.messages import Delta, Step
from deployments.coordinator.control.batch_cost import BatchCost, TargetCost
from deployments.coordinator.control.means import Mean, Meter, Rate

UNKNOWN_ALPHA = 0.7
"""A fresh server looks ahead: that it pays is supposed until it is measured."""
POOL_MEMORY = 200.0
"""Steps of all requests that the pool's estimates look back on."""
REQUEST_PRIOR = 16.0
"""The pool's acceptance rate counts as so many of a request's own steps."""
REQUEST_MEMORY = 40.0
PART_PASSES = 2
"""The words of a step teach what a pass takes before the step is done, in parts of at least so many passes."""
PART_WEIGHT = 0.5
"""Such a part counts as so much of a step, while less than `NEWS` steps are known of a batch of its size."""
NEWS = 1.5


@dataclass(slots=True)
class _Call:
    """A call under way: when it, or its last step, began, and what the batch's integral was then."""

    is_target: bool
    began: float
    integral: float
    num_tokens: int = 0
    is_first: bool = True
    part: _Part | None = None
    """What it has written since its last part that counted; None until its first tokens came."""


@dataclass(slots=True)
class _Part:
    """Some tokens of a step, as in `_Call`."""

    began: float
    integral: float
    num_read: int
    """Such calls that had read their prompts by then."""
    num_tokens: int = 0
    num_passes: float = 0.0


@dataclass(frozen=True, slots=True)
class Streaming:
    """A step of a stream: its tokens, the mean batch and the seconds a token. The first one has the call's start in
    it."""

    num_tokens: int
    num_sequences: float
    token_s: float
    is_first: bool


class Engine:
    """The replicas of one role: which there are, and how busy they are with our calls and with others'."""

    def __init__(self) -> None:
        self.meter = Meter()
        self._replicas: set[str] = set()
        self._others = Mean(0.0, 0.0, 20.0)

    @property
    def num_replicas(self) -> int:
        """Replicas that have answered; at least one."""
        return max(len(self._replicas), 1)

    @property
    def others(self) -> float:
        """Sequences in one replica that are not ours."""
        return self._others.value

    @property
    def num_sequences(self) -> float:
        """Sequences in one replica now."""
        return self.meter.num / self.num_replicas + self.others

    def saw(self, replica: str, num_running: int) -> None:
        """A step ended in `replica`, where `num_running` sequences were running, it included; 0: unknown."""
        self._replicas.add(replica)
        if num_running:
            self._others.add(max(num_running - self.meter.num / self.num_replicas, 0.0))

    def mean_sequences(self, since: float, integral: float, now: float) -> float:
        """Sequences in one replica on average since then."""
        elapsed = now - since
        ours = (self.meter.integral(now) - integral) / elapsed if elapsed > 0.0 else float(self.meter.num)
        return ours / self.num_replicas + self.others


class Estimates:
    """Of one pair of models, over all its requests. Calls are named by whatever the caller likes, uniquely."""

    def __init__(self) -> None:
        self._alphas: dict[str, Rate] = {}
        self.step_tokens = Mean(50.0, 0.5, POOL_MEMORY)
        self._log_tokens, self._log_squares = Mean(0.0, 0.0, POOL_MEMORY), Mean(0.0, 0.0, POOL_MEMORY)
        self.verdict_s = Mean(0.0, 1.0, POOL_MEMORY)
        """Mean wait of a position for its verdict; 0 where the steps were equal."""
        self.target_cost, self.draft_cost = TargetCost(), BatchCost()
        self.target, self.draft = Engine(), Engine()
        self._calls: dict[object, _Call] = {}
        self._reading: set[object] = set()
        """The target's calls for steps that have not written yet."""
        self._num_read = 0

    def alpha(self, steps: str) -> Rate:
        """The acceptance rate of such steps, by tokens."""
        if steps not in self._alphas:
            self._alphas[steps] = Rate(UNKNOWN_ALPHA, 2.0, POOL_MEMORY, POOL_MEMORY / 8.0)
        return self._alphas[steps]

    # --- calls -------------------------------------------------------------------------------------------------------

    def begin(self, call: object, now: float, *, is_target: bool, is_step: bool = True) -> None:
        """`call` starts; `is_step`: it writes steps, not a stream."""
        engine = self.target if is_target else self.draft
        engine.meter.begin(now)
        self._calls[call] = _Call(is_target, now, engine.meter.integral(now))
        if is_target and is_step:
            self._reading.add(call)

    def end(self, call: object, now: float) -> None:
        """`call` is over or was cancelled; nothing happens if it is not known."""
        known = self._calls.pop(call, None)
        self._reading.discard(call)
        if known is not None:
            (self.target if known.is_target else self.draft).meter.end(now)

    def step(self, call: object, step: Step, now: float) -> None:
        """`call` has written `step`: the only one of a target's call, the next one of a draft's."""
        known = self._calls.get(call)
        if known is None:
            return
        engine = self.target if known.is_target else self.draft
        engine.saw(step.replica, step.num_running)
        num, token_s = self._sample(known, engine, len(step.token_ids), now)
        if known.is_target:
            self.target_cost.add_window(num, token_s)
        else:
            self.draft_cost.add(num, token_s)

    def progress(self, call: object, delta: Delta, now: float) -> bool:
        """The target's `call` wrote `delta` of its step meanwhile. Whether that says something new: little was known of
        the time of a pass with a batch of this size, and most of the batch did not read prompts meanwhile."""
        known = self._calls.get(call)
        if known is None:
            return False
        if call in self._reading:
            self._reading.remove(call)
            self._num_read += 1
        part, is_news = known.part, False
        num_reading = len(self._reading) + self._num_read - part.num_read if part is not None else 0
        if part is not None and 2 * num_reading < self.target.meter.num:
            part.num_tokens += len(delta.token_ids)
            part.num_passes += delta.num_passes or len(delta.token_ids)
            if part.num_passes < PART_PASSES or now <= part.began:
                return False
            num = self.target.mean_sequences(part.began, part.integral, now)
            is_news = self.target_cost.evidence_of_passes(num) < NEWS
            self.target_cost.add_part(num, (now - part.began) / part.num_passes, PART_WEIGHT)
        known.part = _Part(now, self.target.meter.integral(now), self._num_read)
        return is_news

    def streamed(self, call: object, num_tokens: int, ends_step: bool, now: float) -> Streaming | None:
        """The stream `call` gave tokens; what the step that they end took, if they end one."""
        known = self._calls.get(call)
        if known is None:
            return None
        known.num_tokens += num_tokens
        if not ends_step or known.num_tokens == 0:
            return None
        num, token_s = self._sample(known, self.target, known.num_tokens, now)
        streaming = Streaming(known.num_tokens, num, token_s, known.is_first)
        self._length(known.num_tokens)
        known.num_tokens, known.is_first = 0, False
        return streaming

    def _sample(self, call: _Call, engine: Engine, num_tokens: int, now: float) -> tuple[float, float]:
        """Mean batch and seconds a token since the call's last step; the next step begins."""
        num = engine.mean_sequences(call.began, call.integral, now)
        token_s = (now - call.began) / max(num_tokens, 1)
        call.began, call.integral = now, engine.meter.integral(now)
        return num, token_s

    @property
    def spread(self) -> float:
        """How unequal steps are: standard deviation of the logarithm of their tokens."""
        return math.sqrt(max(self._log_squares.value - self._log_tokens.value**2, 0.0))

    def _length(self, num_tokens: int) -> None:
        self.step_tokens.add(float(num_tokens))
        log = math.log(max(num_tokens, 1))
        self._log_tokens.add(log)
        self._log_squares.add(log**2)

    # --- steps -------------------------------------------------------------------------------------------------------

    def decided(self, accepted: bool, num_tokens: int, steps: str, own: Rate) -> None:
        """A draft step was committed, or replaced by one of `num_tokens` tokens; `own` is the request's estimate.
        Weighted by tokens: long steps are rejected more often, and it is tokens that count."""
        weight = num_tokens / self.step_tokens.value
        self.alpha(steps).add(accepted, weight)
        own.add(accepted, weight)
        self._length(num_tokens)


def request_alpha() -> Rate:
    """The acceptance rate of one request; `over` the pool's while it is young."""
    return Rate(UNKNOWN_ALPHA, REQUEST_PRIOR, REQUEST_MEMORY, REQUEST_MEMORY / 5.0)
