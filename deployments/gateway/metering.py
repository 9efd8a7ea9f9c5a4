"""Tokens charged to whoever asked, as they come.

Promises: at the end of a request its holder has been charged exactly the tokens of its `usage`; of one that is broken
off, those of its prompts and of the text that was committed until then. No I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from deployments.gateway.limits import Visit
from deployments.generation import Committed, Finished, GenerationRequest, Opened, Output


class Meter:
    """Charges `visit` for the outputs of one HTTP request, but not for what they go on behind (`resume`). `payers` are
    the first choices of each prompt: the choices of one prompt share it, in `usage` as here."""

    def __init__(
        self,
        visit: Visit,
        payers: frozenset[str],
        clock: Callable[[], float],
    ) -> None:
        self._visit = visit
        self._payers = payers
        self._clock = clock
        self._charged: Counter[str] = Counter()

    def count(self, request: GenerationRequest, output: Output) -> None:
        """Charge for `output`."""
        if isinstance(output, Committed):
            num_tokens = output.num_tokens
            self._charged[request.request_id] += num_tokens
        elif isinstance(output, Opened):
            num_tokens = output.num_prompt_tokens if request.request_id in self._payers else 0
        elif isinstance(output, Finished):
            before = request.resume.num_tokens if request.resume is not None else 0
            num_tokens = output.num_output_tokens - before - self._charged[request.request_id]
        self._visit.charge(num_tokens, self._clock())
