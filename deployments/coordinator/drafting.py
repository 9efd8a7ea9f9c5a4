"""The draft's side of one request: whether it can be asked, in which words, and the look-ahead that runs. Pure.

Promises: at most one look-ahead runs, those of branches aside; a draft that was lost is not asked again before it says
that it is back, and never where it cannot serve the request.
"""

from __future__ import annotations

from deployments.coordinator.calls import Calls
from deployments.coordinator.events import Cancel, DraftAvailable, DraftGone, DraftStep, ReviveDraft, StartDraft
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.window import Position


class Drafting:
    """The draft as one request sees it."""

    def __init__(self, settings: SessionSettings, calls: Calls) -> None:
        self._calls = calls
        self._prompt = settings.draft_prompt
        self._refuses = settings.draft_refuses
        self._is_usable = True
        self.is_gone = False
        """Whether it cannot serve this request at all."""
        self._vocabulary = settings.draft_vocabulary or None
        self._call: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether a look-ahead runs."""
        return self._call is not None

    @property
    def is_possible(self) -> bool:
        """Whether the draft can be asked."""
        return self._is_usable and self._prompt is not None

    @property
    def absence(self) -> tuple[str, bool]:
        """Why the draft cannot be asked from the beginning on, and whether that is permanent."""
        return ("draft_refused", True) if self._refuses else ("draft_unavailable", False)

    def start(self, tail: Position, depth: int) -> StartDraft:
        """Look ahead from `tail`; the draft can be asked."""
        if self._prompt is None:
            raise AssertionError("the draft has no words for the prompt yet")
        start = self._calls.draft(tail, self._prompt, self._vocabulary, depth)
        self._call = start.call
        return start

    def branch(self, first: Position, depth: int, number: int) -> StartDraft:
        """Look ahead from `first`, which is version number `number` of its step beside the draft's first one."""
        if self._prompt is None:
            raise AssertionError("the draft has no words for the prompt yet")
        return self._calls.draft(first, self._prompt, self._vocabulary, depth, number)

    def adopt(self, call: int | None) -> None:
        """`call`, which was a branch's, is the look-ahead now; none runs."""
        self._call = call

    def take(self, event: DraftStep) -> None:
        """A step came."""
        self._vocabulary = event.step.vocabulary

    def end(self) -> None:
        """The look-ahead is over by itself."""
        if self._call is not None:
            self._calls.end(self._call)
            self._call = None

    def cancel(self, reason: str) -> list[Cancel]:
        """End the look-ahead, if one runs."""
        call, self._call = self._call, None
        return self._calls.cancel(call, reason) if call is not None else []

    def lose(self, permanent: bool) -> ReviveDraft | DraftGone:
        """The draft cannot be asked until it is back, or at all; what to do about it."""
        self._is_usable = False
        self.is_gone |= permanent
        return DraftGone() if self.is_gone else ReviveDraft()

    def revive(self, event: DraftAvailable) -> None:
        """The draft is back, unless it cannot serve this request at all."""
        self._prompt, self._is_usable = event.prompt, not self.is_gone
        self._vocabulary = event.vocabulary or None
