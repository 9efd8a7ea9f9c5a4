"""The draft's paths through the window: which step stands, which goes, and what is built on them. Pure.

Promises: whatever is built on a path that is left ends with it, calls included; a branch that takes its position's
place takes over the target's step of that position, written or being written; two branches never say the same, and
what was sent to the client is what every branch that is left begins with.

The window is one row of positions. A `Branch` is a short row beside one of them: its first position stands on the same
prefix with another draft step and is compared with the same target step, those behind it are built on that draft step.
"""

from __future__ import annotations

from deployments.coordinator.calls import Calls
from deployments.coordinator.drafting import Drafting
from deployments.coordinator.events import Command, Continued, Outcome, Promoted, Retired
from deployments.coordinator.hints import Hints
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.tally import Tally
from deployments.coordinator.transitions import Signal
from deployments.coordinator.window import Branch, Position, Window, begins_with, joined_draft

OTHER_STANDS = "another branch stands"


class Paths:
    """The paths through one request's window. `out` takes the commands."""

    def __init__(
        self,
        settings: SessionSettings,
        window: Window,
        calls: Calls,
        drafting: Drafting,
        hints: Hints,
        tally: Tally,
        out: list[Command],
    ) -> None:
        self._verifier = settings.verifier
        self._spans = settings.spans
        self._cuts_steps = settings.cuts_steps
        self._max_tokens = settings.max_tokens
        self._window = window
        self._calls = calls
        self._drafting = drafting
        self._hints = hints
        self._tally = tally
        self._out = out

    # --- what goes ---------------------------------------------------------------------------------------------------

    def discard(self, position: Position, reason: str) -> None:
        """`position` will not be committed, and no branch beside it."""
        for call in position.calls:
            self._out += self._calls.cancel(call, reason)
        position.take(Signal.DISCARD)
        if position.draft is not None:
            self._tally.cancelled(position.draft)
        self._out.append(Retired(position.serial, Outcome.CANCELLED, None, position.basis))
        for branch in self._window.beside(position):
            self.drop(branch, reason)

    def drop(self, branch: Branch, reason: str) -> None:
        """`branch` and all that is built on it goes."""
        self._window.branches.remove(branch)
        self.end_look_ahead(branch, reason)
        for position in branch.positions:
            self.discard(position, reason)

    def drop_all(self, reason: str) -> None:
        """All branches go."""
        for branch in list(self._window.branches):
            self.drop(branch, reason)

    def merge(self, branch: Branch) -> None:
        """`branch`, which has just begun, says what another one says: it never was one."""
        self._window.branches.remove(branch)
        self.end_look_ahead(branch, "says the same as another branch")
        branch.first.take(Signal.DISCARD)
        self._tally.merged()
        self._out.append(Retired(branch.first.serial, Outcome.MERGED, None, branch.first.basis))

    def end_look_ahead(self, branch: Branch | None, reason: str) -> None:
        """The draft does not go on along `branch` (None: along the window)."""
        if branch is None:
            self._out += self._drafting.cancel(reason)
        elif branch.call is not None:
            self._out += self._calls.cancel(branch.call, reason)
            branch.call = None

    def prune(self) -> None:
        """Branches that cannot stand any more go: beside a decided position, or with other words than were sent; where
        only equal steps count, with other words than the target has written."""
        for branch in list(self._window.branches):
            beside, draft = branch.beside, branch.first.draft
            if beside.is_decided:
                self.drop(branch, OTHER_STANDS)
            elif draft is not None and not begins_with(draft, beside.sent):
                self.drop(branch, "other words than were sent")
            elif draft is not None and self._verifier is None and not self._may_be_written(branch):
                self.drop(branch, "the target has left its words")

    def leave(self, position: Position) -> None:
        """Keep what was written for `position` and behind it as hints."""
        later = self._window.after(position)
        path = [p.step for p in (position, *later)]
        self._hints.leave(position.num_tokens_before, [step for step in path if step is not None])
        for p in later:
            if p.target is not None and p.target is not p.step:
                self._hints.leave(p.num_tokens_before, [p.target])

    # --- what stands -------------------------------------------------------------------------------------------------

    def accept(self, position: Position) -> None:
        """The draft's step stands at `position`, and so do those that the target's step says as well."""
        position.take(Signal.ACCEPT)
        for covered in position.spanned:
            if not covered.is_decided:
                for call in covered.calls:
                    self._out += self._calls.cancel(call, "an earlier target step says this as well")
                covered.writing = covered.judge_call = None
                covered.take(Signal.COVER)

    def ask_about_span(self, position: Position) -> bool:
        """Ask whether the target's step says what the draft's says together with the steps behind it, if it may: other
        boundaries alone are no disagreement."""
        verifier, target = self._verifier, position.target
        if position.spanned or not self._spans or verifier is None or target is None:
            return False
        position.spanned = self._window.span_of(position)
        if not position.spanned:
            return False
        self._out.append(self._calls.judge(position, verifier, joined_draft(position), target))
        return True

    def decide_for_target(self, position: Position, signal: Signal) -> None:
        """The target's step stands at `position`: whatever was built on another one goes, the draft starts anew."""
        self.abandon(position, signal)
        self._window.open_after(position)

    def abandon(self, position: Position, signal: Signal) -> None:
        """The draft's path through `position` is left."""
        self.leave(position)
        position.take(signal)
        for later in self._window.after(position):
            self.discard(later, f"{signal.name.lower()} at an earlier position")
        self._window.drop_after(position)
        self.end_look_ahead(self._window.branch_of(position), "the draft's path was left")

    def cut_where_it_strays(self, position: Position) -> None:
        """Where only equal steps count and the target has left the draft's words: what it has written stands as a step
        of its own, and the draft goes on from there while the target writes the rest."""
        writing = position.writing
        if not self._cuts_steps or writing is None or not position.strays:
            return
        if (branch := self.unstrayed(position)) is not None:
            self.promote(branch)
            return
        part, rest = writing.cut()
        if position.num_tokens_before + len(part.token_ids) >= self._max_tokens:
            return
        position.target, position.writing = part, None
        self.decide_for_target(position, Signal.UNLIKE)
        behind = self._window.after(position)[-1]
        behind.writing = rest
        self._calls.hand_over(rest.call, behind)
        self._out.append(Continued(rest.call, behind.serial, part, rest.ahead))

    def is_new(self, branch: Branch) -> bool:
        """Whether the first draft step of `branch` says what no other version of it says."""
        others = [branch.beside, *(other.first for other in self._window.beside(branch.beside) if other is not branch)]
        texts = {other.draft.text for other in others if other.draft is not None}
        return branch.first.draft is None or branch.first.draft.text not in texts

    def equal(self, position: Position) -> Branch | None:
        """The branch beside `position` whose step is the target's."""
        for branch in self._window.beside(position):
            draft = branch.first.draft
            if draft is not None and position.target is not None and draft.equals(position.target):
                return branch
        return None

    def unstrayed(self, position: Position) -> Branch | None:
        """A branch beside `position` that begins with all that the target has written of its step."""
        found = (b for b in self._window.beside(position) if b.first.draft is not None and self._may_be_written(b))
        return next(found, None)

    def judge(self, position: Position) -> None:
        """The target's step of `position` is there and equal to none: the verifier is asked about each branch beside it
        that may be the same, the others go."""
        verifier, target = self._verifier, position.target
        for branch in self._window.beside(position):
            first = branch.first
            draft = first.draft
            if target is None or draft is None or verifier is None or not self._window.end_alike(first, draft, target):
                self.drop(branch, "the target was there first" if draft is None else "cannot be the same")
                continue
            first.take(Signal.DIFFERENT)
            self._out.append(self._calls.judge(first, verifier, draft, target))

    def promote(self, branch: Branch) -> Position:
        """`branch` takes the place of the position that it stands beside, and of all behind that one; its first."""
        old, first = branch.beside, branch.first
        self.leave(old)
        for later in self._window.after(old):
            self.discard(later, OTHER_STANDS)
        self._out += self._drafting.cancel(OTHER_STANDS)
        self._drafting.adopt(branch.call)
        first.target, first.sent, first.attempts = old.target, old.sent, old.attempts
        first.writing, old.writing = old.writing, None
        if first.writing is not None:
            self._calls.hand_over(first.writing.call, first)
        self._window.promote(branch)
        self._out.append(Promoted(old.serial, first.serial))
        self.discard(old, OTHER_STANDS)
        return first

    def promote_next(self, position: Position) -> bool:
        """`position`'s own draft step is not the target's: another one takes its place, if one is left."""
        branch = next(iter(self._window.beside(position)), None)
        if branch is not None:
            self.promote(branch)
        return branch is not None

    def _may_be_written(self, branch: Branch) -> bool:
        writing, draft = branch.beside.writing, branch.first.draft
        return writing is None or (draft is not None and begins_with(draft, writing.written))
