"""What one pair of models does, measured from the events of all its requests. Pure: times are handed in.

Promises: every estimate forgets, so that another load or another kind of text is noticed; a cancelled call teaches
nothing about times and counts in the load only while it ran. A call shares the batch of the replica that it is in,
never that of all replicas together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
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
MOST_WEIGHT = 4.0
"""A step counts as so many of mean length at most: what became of a single one, however long, is one trial."""
PART_PASSES = 2
"""The words of a step teach what a pass takes before the step is done, in parts of at least so many passes."""
PART_WEIGHT = 0.5
"""Such a part counts as so much of a step, while less than `NEWS` steps are known of a batch of its size."""
NEWS = 1.5
NOW = 2.0
"""Steps that tell how many sequences of others there are now."""
LEAST_TIMED = 4
"""The time of fewer tokens of a stream says nothing."""
FORGET_CALL_S = 100.0
"""A replica that took no part in so many seconds of calls for each one that is at work counts as gone: where nothing is
asked nobody is forgotten, and one that was idle comes back with its next answer."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The integrals of an engine's meters at a time: of all our calls, of those not placed, and of those in each
    replica."""

    at: float
    all: float
    unplaced: float
    placed: Mapping[str, float]


@dataclass(slots=True)
class _Call:
    """A call under way: the engine's mark of when it, or its last step, began."""

    is_target: bool
    mark: Mark
    token_speculation: str
    """What its request wishes, as in `Manner`."""
    replica: str = ""
    """Where it runs; unknown until its first words came."""
    num_tokens: int = 0
    """Of its step, so far."""
    is_untimed: bool = False
    """Its step is timed from its next words on."""
    num_untimed: int = 0
    """Those of its tokens that came before."""
    num_read: int = 0
    """As `_Part.num_read`, for its step."""
    part: _Part | None = None
    """What it has written since its last part that counted; None until its first tokens came."""


@dataclass(slots=True)
class _Part:
    """Some tokens of a step, as in `_Call`."""

    mark: Mark
    num_read: int
    """Such calls that had read their prompts by then."""
    num_tokens: int = 0
    num_passes: float = 0.0


@dataclass(frozen=True, slots=True)
class Streaming:
    """A step of a stream: its tokens, the mean batch and the seconds a token, from when its prompt was read."""

    num_tokens: int
    num_sequences: float
    token_s: float
    is_timed: bool
    """Whether its time says something: it has enough tokens, and not too many prompts were read meanwhile."""


class _Replica:
    """One replica: our calls that are known to run there, and how many others do."""

    def __init__(self, now: float) -> None:
        self.meter = Meter()
        self.since = now
        """When it was first heard of."""
        self.used_s = 0.0
        """The seconds of all calls of its role when one of them last began or ended in it."""
        self.others = Mean(0.0, 0.0, 20.0)
        """Less than none where our calls are counted before they arrive: only the mean says something."""
        self.others_now = Mean(0.0, 0.0, NOW)
        """What was seen last of them, by which steps are timed: they come and go as ours do."""


class Engine:
    """The replicas of one role: which there are, and how busy each is with our calls and with others'."""

    def __init__(self) -> None:
        self.meter = Meter()
        """All our calls."""
        self._unplaced = Meter()
        """Those of them of which it is not known yet where they run: they count as spread evenly."""
        self._replicas: dict[str, _Replica] = {}

    @property
    def num_replicas(self) -> int:
        """Replicas that have answered and are not gone; at least one."""
        return max(len(self._replicas), 1)

    @property
    def others(self) -> float:
        """Sequences in one replica that are not ours, on average."""
        seen = [one.others.value for one in self._replicas.values() if one.others.weight > 0.0]
        return max(sum(seen) / len(seen), 0.0) if seen else 0.0

    @property
    def num_sequences(self) -> float:
        """Sequences in one replica now, on average."""
        return self.meter.num / self.num_replicas + self.others

    def begin(self, now: float) -> None:
        """One more call of ours."""
        self.meter.begin(now)
        self._unplaced.begin(now)
        self._forget(now)

    def place(self, before: str, replica: str, now: float) -> None:
        """One of our calls is in `replica`, and not in `before`, as it was taken to be; "": it was not placed."""
        self._meter(before, now).end(now)
        self._meter(replica, now).begin(now)

    def end(self, replica: str, now: float) -> None:
        """A call of ours in `replica` is over; "": it was not placed."""
        self.meter.end(now)
        self._meter(replica, now).end(now)

    def saw(self, replica: str, num_running: int, now: float) -> None:
        """A step of a placed call ended in `replica`, where `num_running` sequences were running, it included; 0:
        unknown."""
        if num_running:
            one = self._used(replica, now)
            num_others = num_running - one.meter.num - self._unplaced.num / self.num_replicas
            one.others.add(num_others)
            one.others_now.add(num_others)

    def mark(self, now: float) -> Mark:
        """What `mean_sequences` takes for the beginning."""
        placed = {name: one.meter.integral(now) for name, one in self._replicas.items()}
        return Mark(now, self.meter.integral(now), self._unplaced.integral(now), placed)

    def mean_sequences(self, replica: str, since: Mark, now: float) -> float:
        """Sequences in `replica` on average since then; "": in one of all."""
        elapsed = now - since.at
        if not replica:
            ours = (self.meter.integral(now) - since.all) / elapsed if elapsed > 0.0 else float(self.meter.num)
            return ours / self.num_replicas + self.others
        one = self._replicas.get(replica) or _Replica(now)
        placed, unplaced = float(one.meter.num), float(self._unplaced.num)
        if elapsed > 0.0:
            then = since.placed.get(replica, 0.0) if since.at >= one.since else 0.0
            placed = (one.meter.integral(now) - then) / elapsed
            unplaced = (self._unplaced.integral(now) - since.unplaced) / elapsed
        others = max(one.others_now.value, 0.0) if one.others_now.weight > 0.0 else self.others
        return placed + unplaced / self.num_replicas + others

    def _meter(self, replica: str, now: float) -> Meter:
        return self._used(replica, now).meter if replica else self._unplaced

    def _used(self, name: str, now: float) -> _Replica:
        one = self._replicas.setdefault(name, _Replica(now))
        one.used_s = self.meter.integral(now)
        return one

    def _forget(self, now: float) -> None:
        """Replicas that are idle while others work: most likely they are gone."""
        num_busy = sum(one.meter.num > 0 for one in self._replicas.values())
        before_s = self.meter.integral(now) - FORGET_CALL_S * max(num_busy, 1)
        gone = [name for name, one in self._replicas.items() if one.meter.num == 0 and one.used_s < before_s]
        for name in gone:
            del self._replicas[name]


class _Steps:
    """What is known of steps of one kind, as in `Manner.steps`."""

    def __init__(self) -> None:
        self.alpha = Rate(UNKNOWN_ALPHA, 2.0, POOL_MEMORY, POOL_MEMORY / 8.0)
        self.num_tokens = Mean(50.0, 0.5, POOL_MEMORY)
        self.verdict_s = Mean(0.0, 1.0, POOL_MEMORY)
        """Mean wait of a position for its verdict; 0 where the steps were equal."""


class Estimates:
    """Of one pair of models, over all its requests. Calls are named by whatever the caller likes, uniquely."""

    def __init__(self) -> None:
        self._steps: defaultdict[str, _Steps] = defaultdict(_Steps)
        self._log_tokens, self._log_squares = Mean(0.0, 0.0, POOL_MEMORY), Mean(0.0, 0.0, POOL_MEMORY)
        self.target_cost, self.draft_cost = TargetCost(), BatchCost()
        self._other_target_costs = {"ngram": TargetCost(streams_like=self.target_cost), "none": TargetCost()}
        self.target, self.draft = Engine(), Engine()
        self._calls: dict[object, _Call] = {}
        self._reading: set[object] = set()
        """The target's calls that have not written yet."""
        self._num_read = 0

    def alpha(self, steps: str) -> Rate:
        """The acceptance rate of such steps, by tokens."""
        return self._steps[steps].alpha

    def target_cost_of(self, token_speculation: str) -> TargetCost:
        """The target's times in requests with this wish (`Manner.token_speculation`); `target_cost` is that of hints.
        What is guessed inside a step makes it faster. A stream without hints takes as long with ``hints`` as with
        ``ngram``: both look the text up."""
        return self._other_target_costs.get(token_speculation, self.target_cost)

    def verdict_tokens_s(self, steps: str) -> float:
        """Seconds of a verdict over the tokens of such a step."""
        known = self._steps[steps]
        return known.verdict_s.value / known.num_tokens.value

    # --- calls -------------------------------------------------------------------------------------------------------

    def begin(self, call: object, now: float, *, is_target: bool, token_speculation: str = "hints") -> None:
        """`call` starts, for a request with this wish."""
        engine = self.target if is_target else self.draft
        engine.begin(now)
        self._calls[call] = _Call(is_target, engine.mark(now), token_speculation)
        if is_target:
            self._reading.add(call)

    def end(self, call: object, now: float) -> None:
        """`call` is over or was cancelled; nothing happens if it is not known."""
        known = self._calls.pop(call, None)
        self._reading.discard(call)
        if known is not None:
            (self.target if known.is_target else self.draft).end(known.replica, now)

    def step(self, call: object, step: Step, now: float) -> None:
        """`call` has written `step`: the only one of a target's call, the next one of a draft's."""
        known = self._calls.get(call)
        if known is None:
            return
        engine = self.target if known.is_target else self.draft
        was_in = known.replica
        self._place(known, step.replica, now)
        engine.saw(step.replica, step.num_running, now)
        num, token_s = self._sample(known, was_in, len(step.token_ids), now)
        if known.is_target:
            self.target_cost_of(known.token_speculation).add_window(num, token_s)
        else:
            self.draft_cost.add(num, token_s)

    def progress(self, call: object, delta: Delta, now: float) -> bool:
        """The target's `call` wrote `delta` of its step meanwhile. Whether that says something new: little was known of
        the time of a pass with a batch of this size, and most of the batch did not read prompts meanwhile."""
        known = self._calls.get(call)
        if known is None:
            return False
        self._place(known, delta.replica, now)
        self._has_read(call)
        part, is_news = known.part, False
        if part is not None and self._mostly_writes(part.num_read):
            part.num_tokens += len(delta.token_ids)
            part.num_passes += delta.num_passes or len(delta.token_ids)
            if part.num_passes < PART_PASSES or now <= part.mark.at:
                return False
            num = self.target.mean_sequences(known.replica, part.mark, now)
            cost = self.target_cost_of(known.token_speculation)
            is_news = cost.evidence_of_passes(num) < NEWS
            cost.add_part(num, (now - part.mark.at) / part.num_passes, PART_WEIGHT)
        known.part = _Part(self.target.mark(now), self._num_read)
        return is_news

    def streamed(self, call: object, delta: Delta, now: float, steps: str = "") -> Streaming | None:
        """The stream `call` gave tokens; what the step that they end, one of `steps`, took, if they end one."""
        known = self._calls.get(call)
        if known is None:
            return None
        self._place(known, delta.replica, now)
        if delta.ending is not None:
            self.target.saw(delta.replica, delta.num_running, now)
        known.num_tokens += len(delta.token_ids)
        if delta.token_ids and (self._has_read(call) or known.is_untimed):
            known.mark, known.num_read = self.target.mark(now), self._num_read
            known.num_untimed, known.is_untimed = known.num_tokens, False
        if delta.ending is None or known.num_tokens == 0:
            return None
        num_timed = known.num_tokens - known.num_untimed
        is_timed = num_timed >= LEAST_TIMED and self._mostly_writes(known.num_read)
        num, token_s = self._sample(known, known.replica, num_timed, now)
        streaming = Streaming(known.num_tokens, num, token_s, is_timed)
        self._length(known.num_tokens, steps)
        known.num_tokens, known.num_untimed, known.num_read = 0, 0, self._num_read
        return streaming

    def time_anew(self) -> None:
        """Streams go on in another way: their steps are timed from the next words on."""
        for call in self._calls.values():
            call.is_untimed = True

    def _has_read(self, call: object) -> bool:
        """`call` writes: whether these are its first words."""
        if call not in self._reading:
            return False
        self._reading.remove(call)
        self._num_read += 1
        return True

    def _mostly_writes(self, num_read: int) -> bool:
        """Whether most of the target's batch did not read prompts since `num_read` calls had read theirs."""
        return 2 * (len(self._reading) + self._num_read - num_read) < self.target.meter.num

    def _place(self, call: _Call, replica: str, now: float) -> None:
        if replica not in ("", call.replica):
            (self.target if call.is_target else self.draft).place(call.replica, replica, now)
            call.replica = replica

    def _sample(self, call: _Call, replica: str, num_tokens: int, now: float) -> tuple[float, float]:
        """Mean batch in `replica` and seconds a token since the call's last step; the next step begins."""
        engine = self.target if call.is_target else self.draft
        num = engine.mean_sequences(replica, call.mark, now)
        token_s = (now - call.mark.at) / max(num_tokens, 1)
        call.mark = engine.mark(now)
        return num, token_s

    @property
    def spread(self) -> float:
        """How unequal steps are: standard deviation of the logarithm of their tokens."""
        return math.sqrt(max(self._log_squares.value - self._log_tokens.value**2, 0.0))

    def _length(self, num_tokens: int, steps: str) -> None:
        self._steps[steps].num_tokens.add(float(num_tokens))
        log = math.log(max(num_tokens, 1))
        self._log_tokens.add(log)
        self._log_squares.add(log**2)

    # --- steps -------------------------------------------------------------------------------------------------------

    def decided(self, accepted: bool, num_tokens: int, steps: str, own: Rate) -> None:
        """A draft step was committed, or replaced by one of `num_tokens` tokens; `own` is the request's estimate.
        Weighted by tokens: long steps are rejected more often, and it is tokens that count."""
        weight = min(num_tokens / self._steps[steps].num_tokens.value, MOST_WEIGHT)
        self.alpha(steps).add(accepted, weight)
        own.add(accepted, weight)
        self._length(num_tokens, steps)

    def judged(self, seconds: float, steps: str) -> None:
        """A position of `steps` has waited so long for its verdict."""
        self._steps[steps].verdict_s.add(seconds)


def request_alpha() -> Rate:
    """The acceptance rate of one request; `over` the pool's while it is young."""
    return Rate(UNKNOWN_ALPHA, REQUEST_PRIOR, REQUEST_MEMORY, REQUEST_MEMORY / 5.0)
