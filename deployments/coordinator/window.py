"""The window: positions between what is committed and what nobody has written yet. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from actors.errors import ContextTooLong
from actors.messages import Ending, Piece, Prefix, Step, Verdict
from deployments.coordinator.events import Basis
from deployments.coordinator.output import first_stop
from deployments.coordinator.transitions import DECIDED, Signal, State, follow

EMPTY_PATH = Prefix(())
SPAN_SLACK = 0.5
"""Draft steps whose length differs from the target's by more than this part of it are not worth a second verdict."""


@dataclass(slots=True)
class Writing:
    """A running call of the target that writes a position's step, and how the text of the call lies on the step.

    `before` is what stood of the step when the call began (a call that breaks off is continued, once a part of the step
    was sent); `ahead` is what the call wrote of an earlier step, before this one was cut off from it. One of them, at
    least, is empty. `parts` are what the call has written of this step so far, the first `num_sent` of which were sent.
    """

    call: int
    before: Piece
    ahead: Piece
    parts: list[Piece] = field(default_factory=list)
    num_sent: int = 0

    @property
    def written(self) -> Piece:
        """The step as far as it is known."""
        text = "".join(part.text for part in self.parts)
        token_ids = tuple(token for part in self.parts for token in part.token_ids)
        return self.before.joined(Piece(text, token_ids, self.before.vocabulary))

    def whole(self, step: Step) -> Step:
        """The position's step, given the one that the call ended with."""
        whole = self.before.joined(step.piece.without(self.ahead))
        return replace(step, text=whole.text, token_ids=whole.token_ids)

    def cut(self) -> tuple[Step, Writing]:
        """What is written as a step of its own, and the same call as the one that writes the rest."""
        written = self.written
        part = Step(written.text, written.token_ids, written.vocabulary, Ending.CAP)
        return part, Writing(self.call, written.without(written), self.ahead.joined(written.without(self.before)))


@dataclass(slots=True, eq=False)
class Position:
    """One step-to-be. `path` is all that was generated before it, `num_tokens_before` the tokens of that."""

    serial: int
    path: Prefix
    num_tokens_before: int
    sent: Piece
    """The part of the target's text that the client has: it is in the step whichever comes to stand."""
    state: State = State.OPEN
    draft: Step | None = None
    drafted: Piece | None = None
    """What the draft has written of a step that is not there yet."""
    target: Step | None = None
    verdict: Verdict | None = None
    writing: Writing | None = None
    judge_call: int | None = None
    spanned: tuple[Position, ...] = ()
    """Positions behind this one whose draft steps the verifier is asked about together with this one's."""
    attempts: int = 0
    refusal: ContextTooLong | None = None
    """Why the target cannot write here: it has no room behind the path."""
    num_branches: int = 0
    """Branches that were begun beside this position so far."""

    def take(self, signal: Signal) -> None:
        """Follow the transition table; IllegalTransition changes nothing."""
        self.state = follow(self.state, signal)

    @property
    def is_decided(self) -> bool:
        """Whether this position knows its step."""
        return self.state in DECIDED

    @property
    def is_untouched(self) -> bool:
        """Whether nobody writes or has written anything for this position."""
        return self.state is State.OPEN and self.writing is None and not self.sent.token_ids

    @property
    def has_draft_on_path(self) -> bool:
        """Whether the path takes the draft's step through this position, and no target step stands in for it."""
        return self.state in (State.DRAFTED, State.JUDGING, State.ACCEPTED)

    @property
    def calls(self) -> tuple[int, ...]:
        """The calls that run for this position."""
        calls = (self.writing.call if self.writing is not None else None, self.judge_call)
        return tuple(call for call in calls if call is not None)

    @property
    def wants_target(self) -> bool:
        """Whether the target was not yet asked, and has room to answer."""
        return self.target is None and self.writing is None and self.refusal is None and not self.is_decided

    @property
    def step(self) -> Step | None:
        """The step that the path takes through this position, as far as is known."""
        if self.state in (State.RECOVERED, State.OWN):
            return self.target
        return self.draft

    @property
    def basis(self) -> Basis:
        """What is known, for the audit log."""
        return Basis(self.draft, self.target, self.verdict, len(self.spanned))

    @property
    def strays(self) -> bool:
        """Whether what the target has written so far cannot become the draft's step."""
        return self.draft is not None and self.writing is not None and not begins_with(self.draft, self.writing.written)

    def take_certain(self, all_is_certain: bool) -> Piece | None:
        """What of the target's text is certain now and was not sent, which counts as sent then: all of it, or as much
        as the draft's step begins with, in whole parts."""
        if self.writing is None:
            return None
        before = self.sent
        for part in self.writing.parts[self.writing.num_sent :]:
            longer = self.sent.joined(part)
            if not all_is_certain and (self.draft is None or not begins_with(self.draft, longer)):
                break
            self.sent = longer
            self.writing.num_sent += 1
        return self.sent.without(before) if self.sent is not before else None

    def next_path(self) -> tuple[Prefix, int]:
        """Path and token count after this position, which must have a step."""
        step = self.step
        if step is None:
            raise ValueError(f"position {self.serial} has no step yet")
        return self.path.extended(step.piece), self.num_tokens_before + len(step.token_ids)


@dataclass(slots=True, eq=False)
class Branch:
    """Another version of the step at `beside`: its first position has the same prefix, the next ones follow it. `call`
    is the look-ahead that writes it."""

    beside: Position
    positions: list[Position]
    call: int | None = None

    @property
    def first(self) -> Position:
        """The other version."""
        return self.positions[0]

    @property
    def tail(self) -> Position:
        """The last position, which has the newest prefix."""
        return self.positions[-1]


class Window:
    """The positions in order; the first is the head; and the branches beside them. `vocabulary` is the target's,
    `max_tokens` and `stop` are the request's."""

    def __init__(self, vocabulary: str, max_tokens: int, stop: tuple[str, ...] = ()) -> None:
        self._nothing = Piece("", (), vocabulary)
        self._max_tokens = max_tokens
        self._stop = stop
        self._positions: list[Position] = []
        self.num_opened = 0
        """Positions so far, whose numbers are their serials."""
        self.branches: list[Branch] = []

    def __iter__(self) -> Iterator[Position]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def head(self) -> Position:
        """The first position, whose prefix is committed."""
        return self._positions[0]

    @property
    def tail(self) -> Position:
        """The last position, which has the newest prefix."""
        return self._positions[-1]

    def index(self, position: Position) -> int:
        """How many positions are before `position` on its path."""
        branch = self.branch_of(position)
        before = self._positions.index(branch.beside) if branch is not None else 0
        return before + self._row(position).index(position)

    def branch_of(self, position: Position) -> Branch | None:
        """The branch that `position` is part of; None: it is of the window's own row."""
        return next((branch for branch in self.branches if position in branch.positions), None)

    def written_by(self, call: int) -> Branch | None:
        """The branch that the look-ahead `call` writes; None: there is none."""
        return next((branch for branch in self.branches if branch.call == call), None)

    def beside(self, position: Position) -> list[Branch]:
        """The branches beside `position`, oldest first."""
        return [branch for branch in self.branches if branch.beside is position]

    def open(self, path: Prefix, num_tokens_before: int) -> None:
        """A new last position, after `path`."""
        self._positions.append(self._new(path, num_tokens_before))

    def open_beside(self, position: Position) -> Branch:
        """A new branch beside `position`."""
        position.num_branches += 1
        branch = Branch(position, [self._new(position.path, position.num_tokens_before)])
        self.branches.append(branch)
        return branch

    def promote(self, branch: Branch) -> None:
        """`branch` takes the place of the position it stands beside and of all behind; others stand beside it now."""
        self.branches.remove(branch)
        self._positions[self._positions.index(branch.beside) :] = branch.positions
        branch.first.num_branches = branch.beside.num_branches
        for other in self.beside(branch.beside):
            other.beside = branch.first

    def open_after(self, position: Position) -> None:
        """The next position, unless the text, the reasoning or the budget ends with this one."""
        step = position.step
        path, num_tokens = position.next_path()
        if step is not None and not step.ending.is_last and num_tokens < self._max_tokens:
            self._row(position).append(self._new(path, num_tokens))

    def after(self, position: Position) -> list[Position]:
        """The positions behind `position`."""
        row = self._row(position)
        return row[row.index(position) + 1 :]

    def span_of(self, position: Position) -> tuple[Position, ...]:
        """The positions behind `position` whose draft steps, joined to its own, are nearest in length to its target
        step; empty if its own is, or if all are far off, or if only one of both ends the text or the reasoning."""
        target, best = position.target, 0
        if target is None or position.draft is None:
            return ()
        wanted = len(target.text.strip())
        later = list(takewhile(lambda p: p.has_draft_on_path, self.after(position)))
        lengths = [len(_joined(position, later[:num]).text.strip()) for num in range(len(later) + 1)]
        best = min(range(len(lengths)), key=lambda num: abs(lengths[num] - wanted))
        is_near = abs(lengths[best] - wanted) <= SPAN_SLACK * wanted
        span = tuple(later[:best])
        return span if is_near and self.end_alike(position, _joined(position, span), target) else ()

    def end_alike(self, position: Position, draft: Step, target: Step) -> bool:
        """Whether both or neither of two steps at `position` end the text, be it with a stop string, which then is the
        same, and both or neither close the reasoning."""
        stops = {stop_in(position.path, step, self._stop) for step in (draft, target)}
        return draft.ends_like(target) and len(stops) == 1

    def drop_after(self, position: Position) -> None:
        """Forget the positions behind `position`."""
        row = self._row(position)
        del row[row.index(position) + 1 :]

    def pop_head(self) -> Position:
        """Take the head out."""
        return self._positions.pop(0)

    def clear(self) -> None:
        """Forget all positions."""
        self._positions.clear()

    def _row(self, position: Position) -> list[Position]:
        branch = self.branch_of(position)
        return branch.positions if branch is not None else self._positions

    def _new(self, path: Prefix, num_tokens_before: int) -> Position:
        self.num_opened += 1
        return Position(self.num_opened - 1, path, num_tokens_before, self._nothing)


def joined_draft(position: Position) -> Step:
    """The draft steps of `position` and of those that it spans, as one."""
    return _joined(position, position.spanned)


def _joined(position: Position, later: Sequence[Position]) -> Step:
    steps = [p.draft for p in (position, *later) if p.draft is not None]
    token_ids = tuple(token for step in steps for token in step.token_ids)
    return Step("".join(step.text for step in steps), token_ids, steps[0].vocabulary, steps[-1].ending)


def begins_with(step: Step, piece: Piece) -> bool:
    """Whether `step` begins with `piece`, token for token where the vocabulary is one, and letter for letter."""
    same_tokens = step.vocabulary != piece.vocabulary or step.token_ids[: len(piece.token_ids)] == piece.token_ids
    return same_tokens and step.text.startswith(piece.text)


def stop_in(path: Prefix, step: Step, stop: tuple[str, ...]) -> str | None:
    """The one of the strings `stop` that `step`, behind `path`, completes: the text ends with it. None: it goes on."""
    if not stop:
        return None
    before, num_chars = "", max(map(len, stop)) - 1
    for piece in reversed(path.pieces):
        if len(before) >= num_chars:
            break
        before = piece.text + before
    found = first_stop(before[max(0, len(before) - num_chars) :] + step.text, stop)
    return found[1] if found is not None else None


def seeded(path: Prefix, prompt_ids: tuple[int, ...], cache_salt: str) -> Prefix:
    """`path` after a role's own rendering of the prompt, which has this salt."""
    return Prefix(prompt_ids, path.pieces, cache_salt)


def tail_text(pieces: tuple[Piece, ...], max_chars: int) -> str:
    """The text of `pieces`, or its last `max_chars` to half as many characters: the cut moves in jumps, so that prompts
    which show a growing text begin alike, and are found in the prefix cache."""
    text = "".join(piece.text for piece in pieces)
    jump = max(1, max_chars // 2)
    return text[-(-max(0, len(text) - max_chars) // jump) * jump :]
