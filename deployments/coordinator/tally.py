"""What speculation did for one request, counted as it happens. Pure."""

from __future__ import annotations

from dataclasses import replace

from actors.messages import Step
from deployments.coordinator.events import Outcome
from deployments.generation import SpeculationSummary, Standing


class Tally:
    """Counts of steps and draft tokens, and the reasons for running with less than was asked."""

    def __init__(self, mode: str, behind: Standing | None = None, num_takeovers: int = 0) -> None:
        """`behind`: go on where another coordinator ended, and with it the draft steps that were under way. It was lost
        where there were takeovers; else its client came back for the rest."""
        self._counts = SpeculationSummary(mode)
        self._degraded: dict[str, None] = {}
        self.version = 0
        """Rises with every change."""
        if behind is None:
            return
        if (before := behind.counts) is not None:
            self._counts = replace(
                before,
                num_cancelled_steps=before.num_cancelled_steps + before.num_open_steps,
                rejected_tokens=before.rejected_tokens + before.num_open_tokens,
            )
            self._degraded = dict.fromkeys(before.degraded)
        if num_takeovers:
            self.degraded("coordinator_resumed")

    @property
    def num_steps(self) -> int:
        """Steps committed so far, which is the index of the next one."""
        return self._counts.num_steps

    def drafted(self, draft: Step, is_other: bool = False) -> None:
        """The step `draft` arrived; `is_other`: another version of one that is there."""
        self._add(num_draft_steps=1, num_branch_steps=int(is_other), draft_tokens=len(draft.token_ids))

    def merged(self) -> None:
        """A version of a draft step arrived that says what another one says."""
        self._add(num_merged_steps=1)

    def committed(self, outcome: Outcome, draft: Step | None = None) -> None:
        """A step was committed; `draft` is what the draft wrote for it, if anything."""
        tokens = len(draft.token_ids) if draft is not None else 0
        if outcome is Outcome.ACCEPTED:
            self._add(num_steps=1, num_accepted_steps=1, accepted_tokens=tokens)
        elif outcome is Outcome.RECOVERED:
            self._add(num_steps=1, num_recovered_steps=1, rejected_tokens=tokens)
        else:
            self._add(num_steps=1, num_target_steps=1)

    def cancelled(self, draft: Step) -> None:
        """A draft step was thrown away undecided, or with the path it stood on."""
        self._add(num_cancelled_steps=1, rejected_tokens=len(draft.token_ids))

    def degraded(self, reason: str) -> None:
        """Something did not work as it should; each reason is told once."""
        self._degraded[reason] = None
        self.version += 1

    def summary(self, num_output_tokens: int) -> SpeculationSummary:
        """The counts so far."""
        return replace(self._counts, output_tokens=num_output_tokens, degraded=tuple(self._degraded))

    def _add(self, **more: int) -> None:
        self.version += 1
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})
