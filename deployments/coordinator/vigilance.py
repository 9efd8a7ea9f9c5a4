"""What a coordinator knows of how fast its roles answer: time limits and circuit breakers, shared by all its requests.

Promises: a target call that is silent for longer than its limit is given up; a draft or a verdict that is late counts
as one that failed, and after a few of them nobody asks until a single probe has been answered. A verdict may always
take as long as the target's step usually does: waiting costs no more than writing it. A probe keeps its step waiting
for no longer than that, and is listened to for as long as any verdict may take. No I/O and no clock.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

from actors.messages import Verdict
from deployments.coordinator.breaker import Breaker, Circuit, Fuse
from deployments.coordinator.latency import Bounds, TimeLimit

QUEUED = 3.0
"""Where a call may wait in a queue first, the floor of its limit is so many times higher: a burst of requests must not
make all of them give up and queue again."""


class Vigilance:
    """Limits and breakers of one coordinator. `target` and `draft` bound the silence before each item of a call."""

    def __init__(self, target: Bounds, draft: Bounds, verdict: Bounds, fuse: Fuse) -> None:
        self._verdict_bounds = verdict
        self._first_bounds = _queued(target)
        self._firsts: dict[int, TimeLimit] = {}
        self.item = TimeLimit(target)
        """Each further item of a target's call."""
        self.step = TimeLimit(self._first_bounds)
        """A whole step, where nothing is told before its end."""
        self._draft_bounds = draft
        self._first_draft_bounds = _queued(draft)
        self._drafts: dict[int, TimeLimit] = {}
        self._first_drafts: dict[tuple[int, int], TimeLimit] = {}
        self._verdicts: dict[str, dict[int, TimeLimit]] = {}
        self.draft_breaker = Breaker(fuse)
        self.verdict_breaker = Breaker(fuse)

    def first(self, num_unread: int) -> TimeLimit:
        """For the first item of a target's call, which may wait in the engine's queue, and before which the target has
        `num_unread` tokens to read. Sizes are kept apart as in `first_draft`."""
        return self._firsts.setdefault(num_unread.bit_length(), TimeLimit(self._first_bounds))

    def draft(self, num_tokens: int) -> TimeLimit:
        """For each further item of a draft's call, of at most `num_tokens`. How soon chunks of two tokens come says
        nothing of whole steps: sizes within a factor of two share a limit, so there are few."""
        return self._drafts.setdefault(num_tokens.bit_length(), TimeLimit(self._draft_bounds))

    def first_draft(self, num_tokens: int, num_unread: int) -> TimeLimit:
        """For the first one, before which the draft has `num_unread` tokens to read. What short prompts take says
        nothing of long ones."""
        sizes = num_tokens.bit_length(), num_unread.bit_length()
        return self._first_drafts.setdefault(sizes, TimeLimit(self._first_draft_bounds))

    def judged(self, verifier: str, verdict: Verdict, seconds: float) -> None:
        """`verifier`, one of the configured, has given `verdict` after so many seconds."""
        if not verdict.is_cached and not verdict.has_failed:
            stages = self._stages(verifier)
            stages.setdefault(verdict.num_unasked, TimeLimit(self._verdict_bounds)).took(seconds)

    def verdict_s(self, verifier: str) -> float:
        """Seconds that a step may wait for the next verdict of `verifier`."""
        bounds, step_s = self._verdict_bounds, self.step.typical_s()
        # Of a cascade the slowest check counts, however seldom it is asked.
        limit_s = max(limit.limit_s() for limit in self._stages(verifier).values())
        if step_s is not None and self.verdict_breaker.state is Circuit.HALF_OPEN:
            limit_s = min(limit_s, bounds.min_s)
        return min(bounds.max_s, max(limit_s, step_s or 0.0))

    def hearing_s(self, verifier: str) -> float:
        """Seconds after which that verdict is given up, whether or not its step still waits."""
        is_probe = self.verdict_breaker.state is Circuit.HALF_OPEN
        return self._verdict_bounds.max_s if is_probe else self.verdict_s(verifier)

    def _stages(self, verifier: str) -> dict[int, TimeLimit]:
        """The limits of `verifier` by the number of checks that were not asked; that of all of them is always there,
        and the ceiling until it is known."""
        return self._verdicts.setdefault(verifier, {0: TimeLimit(self._verdict_bounds)})


def _queued(bounds: Bounds) -> Bounds:
    return replace(bounds, min_s=min(bounds.max_s, QUEUED * bounds.min_s))


def unlimited(verdict_s: float) -> Vigilance:
    """Where only verdicts have a limit, which is always the same, and no role is ever left alone."""
    forever = Bounds(math.inf, math.inf)
    return Vigilance(forever, forever, Bounds(verdict_s, verdict_s), Fuse(sys.maxsize))
