"""A generation that outlives the coordinator it began on.

Promises: whoever reads gets `Opened` once, every text once and in order, and `Finished` once, whatever coordinators die
meanwhile; a new one goes on behind exactly what was received. The number of tries between two outputs is bounded, their
pauses grow, and the request's time limit counts from its beginning. Errors that another coordinator would raise as well
are not tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from actors.errors import AttemptsExhausted, CapacityError, DeadlineExceeded, LookaheadError, RoleUnavailable
from deployments.generation import GenerationRequest, Opened, Output
from deployments.ledger import Ledger

log = logging.getLogger("lookahead.gateway")

Generate = Callable[[GenerationRequest], AsyncGenerator[Output, None]]


@dataclass(frozen=True, slots=True)
class Perseverance:
    """How often, and for how long, to look for another coordinator; seconds."""

    max_attempts: int = 8
    """Coordinators tried between two outputs, the first one included."""
    first_pause_s: float = 0.05
    max_pause_s: float = 2.0
    patience_s: float = 60.0
    """After so long without any coordinator that answers nobody is asked any more."""


class Unbroken:
    """`generate` is asked again, with what was received, whenever it breaks off."""

    def __init__(self, generate: Generate, perseverance: Perseverance = Perseverance()) -> None:
        self._generate = generate
        self._perseverance = perseverance

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """As `Source.generate`; of a request that goes on behind something, only what follows, without `Opened`."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        alone_since: float | None = begun
        """None: a coordinator has answered, which may be silent for as long as it lives."""
        ledger = Ledger(request.resume)
        num_losses, num_takeovers = 0, request.num_takeovers
        while True:
            try:
                asked = _as_it_stands(request, ledger, clock() - begun, num_takeovers)
                async with aclosing(self._generate(asked)) as outputs:
                    async for output in outputs:
                        alone_since = None
                        if isinstance(output, Opened) and ledger.is_open:
                            continue
                        if not isinstance(output, Opened) and output.num_takeovers != num_takeovers:
                            output = replace(output, num_takeovers=num_takeovers)
                        ledger.take(output)
                        yield output
                        num_losses = 0
                if ledger.is_finished:
                    return
                raise RoleUnavailable("The coordinator broke off before the text was finished.")
            except (RoleUnavailable, CapacityError) as error:
                num_losses += 1
                num_takeovers += 1
                alone_since = clock() if alone_since is None else alone_since
                if not self._may_try_again(error, ledger, num_losses, clock() - alone_since):
                    raise
                log.warning("Request %s goes on with another coordinator: %s", request.request_id, error)
            pause = self._perseverance.first_pause_s * 2.0 ** (num_losses - 1)
            await asyncio.sleep(min(pause, self._perseverance.max_pause_s))

    def _may_try_again(self, error: LookaheadError, ledger: Ledger, num_losses: int, alone_s: float) -> bool:
        if isinstance(error, AttemptsExhausted) or not ledger.can_go_on or ledger.is_finished:
            return False
        if isinstance(error, CapacityError) and not ledger.is_open:
            return False  # nobody waits in a queue here: the client is told at once
        return num_losses < self._perseverance.max_attempts and alone_s < self._perseverance.patience_s


def _as_it_stands(
    request: GenerationRequest, ledger: Ledger, elapsed_s: float, num_takeovers: int
) -> GenerationRequest:
    """`request` behind what was received, with the time that is left."""
    left_s = None if request.timeout_s is None else request.timeout_s - elapsed_s
    if left_s is not None and left_s <= 0:
        raise DeadlineExceeded("The request's time limit passed.")
    return replace(request, timeout_s=left_s, resume=ledger.standing(elapsed_s), num_takeovers=num_takeovers)
