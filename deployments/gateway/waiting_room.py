"""Where requests wait for their turn: `Admission` on the event loop.

Promises: a request that may not wait is refused before anything is done for it; who waits is called as soon as his turn
has come, and leaves the queue when his client goes or his time limit passes; a generation that has ended has no place,
and every place that was given is given back when `leave` is called, whatever happened before.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from deployments.gateway.admission import Admission, Ticket
from deployments.gateway.fair_queue import Wish
from deployments.generation import Committed, Finished, GenerationRequest, Opened, Output


class WaitingRoom:
    """The requests of one gateway that wait or run."""

    def __init__(self, admission: Admission, clock: Callable[[], float]) -> None:
        self.admission = admission
        self.clock = clock
        self._calls: dict[int, asyncio.Future[None]] = {}

    def enter(self, wish: Wish) -> Place:
        """A place for `wish`. Raises CapacityError if it may not even wait."""
        ticket = self.admission.ask(wish, self.clock())
        if ticket.began is None:
            self._calls[ticket.number] = asyncio.get_running_loop().create_future()
            self.call_up()
        return Place(self, ticket)

    def go_on(self, wish: Wish) -> Place:
        """A place for what had one before and goes on."""
        return Place(self, self.admission.go_on(wish, self.clock()))

    def call_up(self) -> None:
        """Tell those whose turn it is."""
        if not self.admission.num_waiting:
            return
        for ticket, refusal in self.admission.turns(self.clock()):
            call = self._calls[ticket.number]
            if refusal is None:
                call.set_result(None)
            else:
                call.set_exception(refusal)

    async def wait_for(self, ticket: Ticket) -> None:
        """Until `ticket` is let in. Raises CapacityError or DeadlineExceeded if it will not be."""
        call = self._calls[ticket.number]
        # `wait` and not `timeout`: what was decided in the same moment as the time limit passed counts.
        await asyncio.wait((call,), timeout=max(0.0, ticket.wish.deadline - self.clock()))
        if not call.done():
            raise self.admission.give_up(ticket, self.clock())
        call.result()

    def end_one(self, ticket: Ticket) -> None:
        """One generation of `ticket` is over; whose turn comes with that is told."""
        self.admission.end_one(ticket, self.clock())
        self.call_up()

    def leave(self, ticket: Ticket) -> None:
        """The request of `ticket` is over; whose turn comes with that is told."""
        call = self._calls.pop(ticket.number, None)
        if call is not None and call.done():
            call.exception()  # else asyncio complains that nobody looked
        self.admission.leave(ticket, self.clock())
        self.call_up()


class Place:
    """What one request has in the waiting room."""

    def __init__(self, room: WaitingRoom, ticket: Ticket) -> None:
        self._room = room
        self._ticket = ticket
        self._must_wait = ticket.began is None
        self._written: Counter[str] = Counter()
        """By request, as long as it has not ended by itself."""

    async def turn(self) -> bool:
        """Wait for its turn; whether it had to. Raises CapacityError or DeadlineExceeded if it does not come."""
        if self._must_wait:
            await self._room.wait_for(self._ticket)
        return self._must_wait

    def count(self, request: GenerationRequest, output: Output) -> None:
        """Tokens that `request`, one of those that the place is for, has read or written."""
        if isinstance(output, Opened):
            self._room.admission.needs.read(num_chars(request), output.num_prompt_tokens)
            self._add(output.num_prompt_tokens, 0)
        elif isinstance(output, Committed):
            self._written[request.request_id] += output.num_tokens
            self._add(output.num_tokens, output.num_tokens)
        elif isinstance(output, Finished):
            before = request.resume.num_tokens if request.resume is not None else 0
            rest = output.num_output_tokens - before - self._written[request.request_id]
            self._add(rest, rest)
            del self._written[request.request_id]
            self._room.admission.needs.ended(self._ticket.wish.holder, output.num_output_tokens)
            self._room.end_one(self._ticket)

    def leave(self) -> None:
        """The request is over."""
        wish = self._ticket.wish
        if self._room.clock() >= wish.deadline:
            for num_written in self._written.values():
                self._room.admission.needs.cut_off(wish.holder, num_written, wish.num_tokens / wish.num_generations)
        self._written.clear()
        self._room.leave(self._ticket)

    def _add(self, num_tokens: int, num_written: int) -> None:
        self._room.admission.add(self._ticket, num_tokens, self._room.clock(), num_written)
        self._room.call_up()  # the limit may have risen


def num_chars(request: GenerationRequest) -> int:
    """Characters of the prompt; 0 if it is given in token ids."""
    if request.prompt.messages:
        return sum(len(message.content) for message in request.prompt.messages)
    return len(request.prompt.text or "")
