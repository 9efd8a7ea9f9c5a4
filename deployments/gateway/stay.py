"""What a resumable stream has taken at a gateway, beyond the response that it was asked for in.

Promises: place and visit are given back once, when nothing is written for the stream any more, with or without a
reader; until then each of its tokens is counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager

from deployments.gateway.backend import Backend
from deployments.generation import GenerationRequest, Output

Count = Callable[[GenerationRequest, Output], None]


class Stay:
    """Takes over what `leaving` would give back at the end of the response; `count` is told every output.

    `num_choices` are to be written, one after the other: all is kept for them until each has begun, or the response has
    ended, after which none begins."""

    def __init__(self, count: Count, leaving: ExitStack, num_choices: int) -> None:
        self.count = count
        self._taken = leaving.pop_all()
        self._num_writing = 0
        self._num_to_come = num_choices
        leaving.callback(self._end)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While one of the stream's choices is written."""
        self._num_to_come -= 1
        self._num_writing += 1
        try:
            yield
        finally:
            self._num_writing -= 1
            self._leave()

    def _end(self) -> None:
        self._num_to_come = 0
        self._leave()

    def _leave(self) -> None:
        if not self._num_writing and self._num_to_come <= 0:
            self._taken.close()


class Held:
    """`Source`: what `backend` writes, held and counted by `stay`."""

    def __init__(self, backend: Backend, stay: Stay) -> None:
        self._backend = backend
        self._stay = stay

    def generate(self, request: GenerationRequest) -> AsyncIterator[Output]:
        """As `Source.generate`. What is finished takes nothing, it is only kept."""
        return self._backend.generate(request, None if request.is_finished else self._stay)
