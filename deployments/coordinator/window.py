"""The window: positions between what is committed and what nobody has written yet. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from actors.messages import Piece, Prefix, Step, Verdict
from deployments.coordinator.transitions import DECIDED, Signal, State, follow


@dataclass(slots=True, eq=False)
class Position:
    """One step-to-be. `path` is all that was generated before it, `num_tokens_before` the tokens of that."""

    serial: int
    path: Prefix
    num_tokens_before: int
    state: State = State.OPEN
    draft: Step | None = None
    target: Step | None = None
    verdict: Verdict | None = None
    target_call: int | None = None
    judge_call: int | None = None
    attempts: int = 0

    def take(self, signal: Signal) -> None:
        """Follow the transition table; IllegalTransition changes nothing."""
        self.state = follow(self.state, signal)

    @property
    def is_decided(self) -> bool:
        """Whether this position knows its step."""
        return self.state in DECIDED

    @property
    def wants_target(self) -> bool:
        """Whether the target was not yet asked."""
        return self.target is None and self.target_call is None and not self.is_decided

    @property
    def step(self) -> Step | None:
        """The step that the path takes through this position, as far as is known."""
        if self.state in (State.RECOVERED, State.OWN):
            return self.target
        return self.draft

    def next_path(self) -> tuple[Prefix, int]:
        """Path and token count after this position, which must have a step."""
        step = self.step
        if step is None:
            raise ValueError(f"position {self.serial} has no step yet")
        return self.path.extended(step.piece), self.num_tokens_before + len(step.token_ids)


EMPTY_PATH = Prefix(())


def seeded(path: Prefix, prompt_ids: tuple[int, ...]) -> Prefix:
    """`path` after a role's own rendering of the prompt."""
    return Prefix(prompt_ids, path.pieces)


def tail_text(pieces: tuple[Piece, ...], max_chars: int) -> str:
    """The last `max_chars` characters of `pieces`."""
    text = ""
    for piece in reversed(pieces):
        text = piece.text[-(max_chars - len(text)) :] + text
        if len(text) >= max_chars:
            break
    return text
