"""Whether the draft should guide the target's streams (`GuidedSession`), or the target write alone. Pure.

The engine checks hints in the same pass as the tokens it writes, so they cost little while a pass has room and time
once it has none; that cost falls on all streams alike. So it is decided for all guided requests together, by the times
of a token that were measured both ways in batches of about the same size.

Promises: a fresh server measures the target alone for a step or two, by which all is judged, and then guides; the way
that is not taken is tried for `TRY_STEPS` steps of each request now and then, so seldom that it costs no more than a
share of all steps. What a step or two say, in which an engine may have stalled, is soon tried once more. What requests
for the target alone have shown just before needs no try, but for each third time: their texts may be of another kind.
"""

from __future__ import annotations

import math

from deployments.coordinator.control.batch_cost import SURE, BatchCost, TargetCost
from deployments.coordinator.control.estimates import Streaming

TRY_STEPS, STEPS_APART = 4, 100
"""Steps of each request that a try takes, and that are between two at least."""
DOUBTED = 0.1
"""Steps of evidence that are left of a way that is tried anew: a try must be able to say that all before was wrong."""
ENOUGH = 1.5
"""Steps of evidence that make a time known."""
MOST_FIRST_STEPS = 8
"""Where the target's times alone are not known after so many steps of each request, hints are given all the same."""
SWITCH_COST = 0.15
"""As for depths: steps of each request that must be missed, by what was measured, before the way is changed."""
MOST_SKIPPED = 2
"""So many tries in a row are left out where requests for the target alone show what they would."""


class Guidance:
    """One decision for all guided requests of a coordinator."""

    def __init__(self, alone: TargetCost, probe_share: float) -> None:
        """`probe_share`: steps that may be lost to trying, for each that is written."""
        self._alone = alone
        self._probe_share = probe_share
        self._guided = BatchCost()
        self.guides = False
        self._has_begun = False
        """Whether there were hints yet."""
        self._num_steps = 0.0
        """Steps of each request."""
        self._tries_until = 0.0
        self._next_try = math.inf
        self._missed = 0.0
        self._num_owed = 0
        """Tries that came before their time: the next pause is longer by theirs."""
        self._is_planned = False
        """Whether the next try was planned by a speed-up that was measured."""
        self._num_news = self._num_skipped = 0
        """Steps of the target alone since then, of requests that wanted no more; tries left out for them in a row."""

    @property
    def pays(self) -> bool:
        """Whether hints pay, as far as is known: while the other way is tried, what was decided before."""
        is_trying = self._num_steps < self._tries_until
        return not self._has_begun or self.guides != is_trying

    def streamed(self, step: Streaming, guided: bool) -> None:
        """A step was streamed, timed from when all went this way."""
        if guided:
            self._guided.add(step.num_sequences, step.token_s)
            return
        if self.guides and self._num_steps >= self._tries_until:
            if not self._num_news:
                self._alone.doubt(step.num_sequences, TRY_STEPS)
            self._num_news += 1
        self._alone.add_stream(step.num_sequences, step.token_s)

    def decide(self, num_sequences: float, num_requests: int) -> tuple[bool, str, float]:
        """Whether to guide, why, and the speed-up by it: one of `num_requests` guided requests begins or has written a
        step, `num_sequences` being in the target's batch."""
        part = 1.0 / max(num_requests, 1)
        self._num_steps += part
        (self._alone.fade_streams if self.guides else self._guided.fade)(part)
        is_alone_known = self._alone.num_streamed >= ENOUGH
        if not self._has_begun:
            if not is_alone_known and self._num_steps < MOST_FIRST_STEPS:
                return False, "the target alone is measured before hints are given", 1.0
            self._has_begun = self.guides = True
            self._plan_try(1.0)
        if self._num_steps < self._tries_until:
            return self.guides, self._trying(), 1.0
        is_known = is_alone_known and self._guided.num_steps >= ENOUGH
        speed_up = self._alone.stream_s(num_sequences) / self._guided.at(num_sequences) if is_known else 1.0
        if self._tries_until:
            self._end_try(is_known, speed_up)
        elif is_known and not self._is_planned:
            self._plan_try(speed_up)
        elif self._num_steps >= self._next_try:
            if not self._is_answered(num_sequences):
                self._try(num_sequences)
                return self.guides, self._trying(), 1.0
            self._num_skipped += 1
            self._plan_try(speed_up)
        self._is_planned |= is_known
        if not is_known:
            supposed = "are supposed to pay" if self.guides else "did not pay, and are supposed not to"
            return self.guides, f"hints from the draft {supposed} until both ways are measured", 1.0
        gain = speed_up - 1.0 if self.guides else 1.0 / speed_up - 1.0
        self._missed = max(self._missed - gain * part, 0.0)
        if self._missed > SWITCH_COST:
            self.guides, self._missed = not self.guides, 0.0
            self._plan_try(speed_up)
        verb = "pay" if self.guides else "do not pay"
        reason = f"hints from the draft {verb}: a token with them takes {1.0 / speed_up:.2f} of one without"
        return self.guides, f"{reason}, {num_sequences:.0f} sequences in the batch", speed_up if self.guides else 1.0

    def _is_answered(self, num_sequences: float) -> bool:
        """Whether requests for the target alone have shown just now what a try of it would."""
        is_shown = self._num_news >= TRY_STEPS and self._alone.evidence(num_sequences) >= SURE
        return self.guides and is_shown and self._num_skipped < MOST_SKIPPED

    def _try(self, num_sequences: float) -> None:
        """Take the other way for a while."""
        self.guides, self._missed, self._num_skipped = not self.guides, 0.0, 0
        (self._guided if self.guides else self._alone).doubt(num_sequences, DOUBTED)
        self._tries_until = self._num_steps + TRY_STEPS

    def _end_try(self, is_known: bool, speed_up: float) -> None:
        """The way that was tried stays if it was measured and is the faster one; else the former goes on."""
        is_faster = is_known and (speed_up > 1.0 if self.guides else speed_up < 1.0)
        self.guides = self.guides == is_faster
        self._tries_until = 0.0
        self._plan_try(speed_up)

    def _plan_try(self, speed_up: float) -> None:
        """When the way that is not taken is tried next, where `speed_up` is that of hints."""
        self._num_news = 0
        if not self._probe_share:
            return
        loss = max(speed_up if self.guides else 1.0 / speed_up, 1.0) - 1.0
        pause = (1 + self._num_owed) * TRY_STEPS * loss / self._probe_share
        if pause > STEPS_APART:
            evidence = self._alone.num_streamed if self.guides else self._guided.num_steps
            is_early = evidence < SURE and not self._num_owed
            self._num_owed = int(is_early)
            pause = STEPS_APART if is_early else pause
        self._next_try = self._num_steps + TRY_STEPS + max(pause, STEPS_APART)

    def _trying(self) -> str:
        return f"trying out {'hints from the draft' if self.guides else 'the target alone'} for {TRY_STEPS} steps"
