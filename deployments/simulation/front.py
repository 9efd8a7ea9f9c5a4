"""The gateway's admission in a simulated cluster: who begins at once, who waits, who is refused.

Promises: every decision is that of `deployments.gateway.admission.Admission`, on the simulated clock; what it measures
(tokens a second, what requests need) it measures of the simulated requests; who waits begins at the moment of his turn,
or is gone when his time limit passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actors.errors import CapacityError, LookaheadError
from deployments.gateway.admission import Admission, Bounds, Ticket
from deployments.gateway.fair_queue import Wish
from deployments.simulation.clock import Clock
from deployments.simulation.scenario_sections import AdmissionScenario

RETRY_S = 1.0
"""After which a user asks again who was not told when."""


@dataclass(slots=True)
class _Visit:
    """One request that waits or runs."""

    ticket: Ticket
    begin: Callable[[], None]
    refused: Callable[[float], None]
    num_prompt: int
    num_written: int = 0


class Front:
    """The front queue of one gateway."""

    def __init__(self, clock: Clock, settings: AdmissionScenario) -> None:
        fixed = settings.max_concurrent
        self._clock = clock
        self._settings = settings
        self._admission = Admission(
            Bounds(
                first_running=fixed or settings.first_concurrent,
                least_running=fixed or settings.least_concurrent,
                most_running=fixed or settings.most_concurrent,
                max_waiting=settings.max_waiting,
                max_waiting_tokens=settings.max_waiting_tokens,
                max_wait_s=settings.max_wait_s,
            )
        )
        self._visits: dict[int, _Visit] = {}
        self._by_ticket: dict[int, int] = {}
        self.waits: list[float] = []
        """What those that began had waited."""

    @property
    def refused(self) -> dict[str, int]:
        """How many were refused or given up, by reason."""
        return {reason: number for reason, number in self._admission.refused.items() if number}

    def held_back(self) -> dict[str, float]:
        """As `Admission.held_back`, now."""
        return self._admission.held_back(self._clock.now)

    @property
    def limit(self) -> int:
        """As `Admission.limit`."""
        return self._admission.limit

    def ask(self, number: int, num_prompt: int, begin: Callable[[], None], refused: Callable[[float], None]) -> None:
        """Request `number` comes: `begin` is called at its turn, or `refused` with the seconds to wait before another
        try."""
        now, holder = self._clock.now, f"key-{number % self._settings.keys}"
        needs = self._admission.needs.expected(holder, 0, num_prompt, None)
        longest = self._admission.needs.longest(holder, None)
        wish = Wish(holder, needs, deadline=now + self._settings.timeout_s, longest=longest)
        try:
            ticket = self._admission.ask(wish, now)
        except CapacityError as error:
            refused(error.retry_after_s)
            return
        self._visits[number] = _Visit(ticket, begin, refused, num_prompt)
        self._by_ticket[ticket.number] = number
        if ticket.began is not None:
            self._begin(number)
        else:
            self._clock.after(self._settings.timeout_s, lambda: self._give_up(number, ticket))
            self._call_up()

    def wrote(self, number: int, num_tokens: int) -> None:
        """Request `number` has that many more tokens."""
        visit = self._visits.get(number)
        if visit is not None:
            visit.num_written += num_tokens
            self._admission.add(visit.ticket, num_tokens, self._clock.now, num_tokens)
            self._call_up()

    def ended(self, number: int) -> None:
        """Request `number`, which had begun, is over."""
        visit, now = self._visits.pop(number), self._clock.now
        del self._by_ticket[visit.ticket.number]
        self._admission.needs.ended(visit.ticket.wish.holder, visit.num_written)
        self._admission.end_one(visit.ticket, now)
        self._admission.leave(visit.ticket, now)
        self._call_up()

    def _begin(self, number: int) -> None:
        visit = self._visits[number]
        self.waits.append(self._clock.now - visit.ticket.came)
        self._admission.add(visit.ticket, visit.num_prompt, self._clock.now, 0)
        visit.begin()

    def _call_up(self) -> None:
        """Tell those whose turn it is."""
        if not self._admission.num_waiting:
            return
        for ticket, refusal in self._admission.turns(self._clock.now):
            number = self._by_ticket[ticket.number]
            if refusal is None:
                self._clock.after(0.0, lambda number=number: self._begin(number))  # type: ignore[misc]
            else:
                self._leave(number, refusal)

    def _give_up(self, number: int, ticket: Ticket) -> None:
        visit = self._visits.get(number)
        if visit is not None and visit.ticket is ticket and ticket.began is None:
            self._leave(number, self._admission.give_up(ticket, self._clock.now))

    def _leave(self, number: int, refusal: LookaheadError) -> None:
        visit = self._visits.pop(number)
        del self._by_ticket[visit.ticket.number]
        self._admission.leave(visit.ticket, self._clock.now)
        visit.refused(refusal.retry_after_s if isinstance(refusal, CapacityError) else RETRY_S)
