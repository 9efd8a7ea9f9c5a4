"""A session to talk to event by event, in a vocabulary of numbered words."""

from __future__ import annotations

from dataclasses import replace

from actors.messages import Delta, Ending, Step
from deployments.coordinator.events import Command, Commit, StartDraft, StartTarget
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings

V = "v"


def words(*ids: int) -> str:
    return "".join(f"w{i} " for i in ids)


def step(*ids: int, ending: Ending = Ending.BOUNDARY, vocabulary: str = V) -> Step:
    return Step(words(*ids), ids, vocabulary, ending)


def part(*ids: int) -> Delta:
    return Delta(words(*ids), ids)


class Talk:
    """A session and what it said, in a vocabulary of numbered words."""

    def __init__(self, **changes: object) -> None:
        base = SessionSettings("r", (1,), (1,), V, 1000, progress_s=0.1)
        self.session = Session(replace(base, **changes))  # type: ignore[arg-type]
        self.said: list[Command] = []
        self._take(self.session.start())

    def hear(self, event: object) -> list[Command]:
        return self._take(self.session.handle(event))  # type: ignore[arg-type]

    def _take(self, commands: list[Command]) -> list[Command]:
        self.said += commands
        return commands

    def last(self, kind: type[StartTarget] | type[StartDraft]) -> StartTarget | StartDraft:
        return [c for c in self.said if isinstance(c, kind)][-1]

    @property
    def sent(self) -> str:
        return "".join(c.output.text for c in self.said if isinstance(c, Commit))

    @property
    def num_tokens(self) -> int:
        return sum(c.output.num_tokens for c in self.said if isinstance(c, Commit))
