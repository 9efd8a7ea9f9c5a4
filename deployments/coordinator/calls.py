"""The calls of one request: their numbers, whose they are, and their words. Pure.

Promises: a call is live from its start to its end or cancellation, never again; every request of a call carries the
seed of its place in the text, the tokens that are left, and the request's own way of token-level speculation.
"""

from __future__ import annotations

from dataclasses import replace

from actors.messages import Prefix, StepRequest, TokenIds
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.window import Position, seeded

SEED_STEP = 2_654_435_761
"""Knuth's multiplicative constant: spreads the seeds of consecutive steps over the 63 bits that engines take."""


class Calls:
    """Which calls are live, and for which position (None: for none of them)."""

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._rule = replace(settings.rule, close=settings.marks.close if settings.marks.is_open_at_start else None)
        self._live: dict[int, Position | None] = {}
        self._num_calls = 0

    def __contains__(self, call: int) -> bool:
        return call in self._live

    def __len__(self) -> int:
        return len(self._live)

    @property
    def live(self) -> tuple[int, ...]:
        """All live calls, oldest first."""
        return tuple(self._live)

    def begin(self, position: Position | None) -> int:
        """The number of a new call."""
        call = self._num_calls
        self._num_calls += 1
        self._live[call] = position
        return call

    def end(self, call: int) -> Position | None:
        """`call`, which is live, is over; the position it was for."""
        return self._live.pop(call)

    def call_id(self, call: int) -> str:
        """The name of `call` in the engines."""
        return f"{self._settings.session_id}-{call}"

    def request(
        self, call: int, prompt: TokenIds, path: Prefix, place: int, *, priority: int = 0, hints: tuple[TokenIds, ...]
    ) -> StepRequest:
        """What `call` asks for: go on after `path`, which holds `place` tokens, in the words of a role's `prompt`."""
        settings = self._settings
        sampling = settings.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + SEED_STEP * place) % 2**63)
        return StepRequest(
            call_id=self.call_id(call),
            session_id=settings.session_id,
            prefix=seeded(path, prompt),
            rule=self._rule,
            max_tokens=settings.max_tokens - place,
            sampling=sampling,
            priority=priority,
            hints=hints,
            token_speculation=settings.token_speculation,
        )
