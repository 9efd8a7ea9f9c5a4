"""Whether the draft should guide the target's streams (`GuidedSession`), or the target write alone. Pure.

The engine checks hints in the same pass as the tokens it writes, so they cost little while a pass has room and time
once it has none; that cost falls on all streams alike. So it is decided for all guided requests together, by the times
of a token that were measured both ways in batches of the same size.

Promises: what is not known is tried for `TRY_STEPS` steps of each request; afterwards a way that was measured to be
slower is tried again only when what is known of it has faded.
"""

from __future__ import annotations

from deployments.coordinator.control.batch_cost import BatchCost, TargetCost
from deployments.coordinator.control.estimates import Streaming

TRY_STEPS = 4
ENOUGH = 1.5
"""Steps of evidence that make a time known."""
SWITCH_COST = 0.15
"""As for depths: steps of each request that must be missed, by what was measured, before the way is changed."""


class Guidance:
    """One decision for all guided requests of a coordinator."""

    def __init__(self, alone: TargetCost) -> None:
        self._alone = alone
        self._guided = BatchCost()
        self._guides = False
        self._until = 0.0
        """Steps of each request until which a try lasts."""
        self._num_steps = 0.0
        """Steps of each request."""
        self._missed = 0.0

    def streamed(self, step: Streaming, guided: bool) -> None:
        """A step was streamed; it counts for the way that was decided when it began, or nearly so."""
        if guided:
            self._guided.add(step.num_sequences, step.token_s)
            self._alone.fade_streams()
        else:
            self._alone.add_stream(step.num_sequences, step.token_s)
            self._guided.fade()

    def decide(self, num_sequences: float, num_requests: int) -> tuple[bool, str, float]:
        """Whether to guide, why, and the speed-up by it: one of `num_requests` guided requests begins or has written a
        step, `num_sequences` being in the target's batch."""
        part = 1.0 / max(num_requests, 1)
        self._num_steps += part
        alone = self._alone.evidence(num_sequences) >= ENOUGH
        guided = self._guided.evidence(num_sequences) >= ENOUGH
        if self._num_steps < self._until and not (alone and guided):
            return self._guides, "this way is being measured", 1.0
        if not (alone and guided):
            self._try(guides=alone)
            what = "hints from the draft are tried" if self._guides else "the target alone is measured"
            return self._guides, f"{what} with {num_sequences:.0f} sequences in its batch", 1.0
        speed_up = self._alone.stream_s(num_sequences) / self._guided.at(num_sequences)
        gain = speed_up - 1.0 if self._guides else 1.0 / speed_up - 1.0
        self._missed = max(self._missed - gain * part, 0.0)
        if self._missed > SWITCH_COST:
            self._guides, self._missed = not self._guides, 0.0
        verb = "pay" if self._guides else "do not pay"
        reason = f"hints from the draft {verb}: a token with them takes {1.0 / speed_up:.2f} of one without"
        return self._guides, f"{reason}, {num_sequences:.0f} sequences in the batch", speed_up if self._guides else 1.0

    def _try(self, guides: bool) -> None:
        self._guides, self._missed = guides, 0.0
        self._until = self._num_steps + TRY_STEPS
