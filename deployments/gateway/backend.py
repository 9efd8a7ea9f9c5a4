"""What the gateway needs from whoever writes the text.

Promises nothing by itself: it is the interface between the HTTP side and the coordinators behind it. In production the
backend is a pool of coordinator replicas; in the gateway's own tests it is a script.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Protocol

from deployments.generation import GenerationRequest, Output

if TYPE_CHECKING:
    from deployments.gateway.stay import Stay


class Source(Protocol):
    """Writes completions."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[Output]:
        """One completion: first `Opened`, then any number of `Committed`, last `Finished`.

        Raises an error of `actors.errors`, before or after the first answer. Closing the iterator (``aclose``) or
        cancelling the task that reads it ends the work. After `Finished` the iterator is read to its natural end.
        """
        ...


class Backend(Source, Protocol):
    """Writes completions, and knows how the cluster fares."""

    def generate(self, request: GenerationRequest, stay: Stay | None = None) -> AsyncIterator[Output]:
        """As `Source.generate`. What is kept may be written on without a reader: `stay` is told all of it."""
        ...

    async def hand_over(self, stream_id: str, owner: str) -> Sequence[GenerationRequest | Exception]:
        """Of this stream the requests that were kept for `owner`, each with a `resume` behind all that was written.

        Whoever generated them has ended; `generate` goes on with one that is not finished. Where several have had a
        request, one after the other, it is there several times. In the place of what somebody may have who does not
        answer there is an exception.
        """
        ...

    async def readiness(self) -> dict[str, bool]:
        """Every role that a request needs, and whether it is able to serve now."""
        ...

    async def trace(self, request_id: str) -> bytes | None:
        """The step trace of a recent request as the JSON of an object, or None if there is none under this id;
        RoleUnavailable where none was found and somebody who may have it does not answer."""
        ...

    async def metrics(self) -> str:
        """Metrics of the whole deployment in Prometheus' text format, version 0.0.4."""
        ...
