"""A request is let in, waits its turn, or is refused at once: the decisions.

Promises: while nobody waits, whoever asks for no more than there is room for is let in; who asks for more than half of
what may run is let in once half is free, and counts with all that it has running from then on; what was let in goes on,
whoever waits; what waits is bounded in number, in tokens and in the time it is expected to wait; nobody has more
waiting than there is room left for others (alone: half of it); a refusal says after how many seconds what waits before
the request will have had its turn, at the rate that is measured; what is not expected to end before its time limit is
refused rather than begun, with time to spare where others slow it down; what was let in is let out once. No I/O: the
time is handed in.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from actors.errors import CapacityError, DeadlineExceeded, LookaheadError
from deployments.gateway.concurrency import Concurrency
from deployments.gateway.drain import Drain, Needs
from deployments.gateway.fair_queue import FairQueue, Wish
from deployments.gateway.pace import Pace
from deployments.gateway.turned_away import TurnedAway

REASONS = ("number", "tokens", "share", "wait", "deadline", "room")
"""Why a request is refused: the queue is full by number or by tokens, its holder has his share of it, it would wait too
long, or longer than its own time limit allows; or before it came here (`Arrivals`) there was no room for its body."""

SPARE = 1.3
"""So many times as long as foretold a request must be able to take. What is begun and ends late is work for nobody."""
HARDLY = 2.0
"""A request that runs no more than so many times as long as it would alone needs nothing to spare. Where it might be
late alone as well, nobody is a reason to hold it back: its client wants what can be written until then."""
FEW = 2
"""So many may run whatever is foretold: else nothing would be learnt."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may run and wait."""

    first_running: int
    least_running: int
    most_running: int
    max_waiting: int
    max_waiting_tokens: int
    max_wait_s: float


class Ticket:
    """One request that is in, or waits for it."""

    def __init__(self, number: int, wish: Wish, now: float) -> None:
        self.number = number
        self.wish = wish
        self.came = now
        self.began: float | None = None
        self.num_tokens = 0
        """Read and written until now."""
        self.num_running = 0
        """Of its generations."""
        self.is_over = False


class Admission:
    """Everything that runs and waits at one gateway."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._queue = FairQueue()
        self._tickets: dict[int, Ticket] = {}
        self._numbers = itertools.count()
        self._drain = Drain()
        self._concurrency = Concurrency(bounds.first_running, bounds.least_running, bounds.most_running)
        self._pace = Pace()
        self._turned_away = TurnedAway()
        self.needs = Needs()
        self.num_running = 0
        self._begun: Counter[str] = Counter()
        """Tokens that the requests which run are expected to need, and generations with which they began."""
        self.refused: Counter[str] = Counter()

    @property
    def limit(self) -> int:
        """How many generations may run now."""
        return self._concurrency.limit

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def waiting_tokens(self) -> int:
        """What they are expected to need."""
        return self._queue.num_tokens

    def rate(self) -> float | None:
        """Tokens a second while as much ran as may; None if that is not known yet."""
        return self._drain.rate()

    def held_back(self, now: float) -> dict[str, float]:
        """Generations that are asked for and that no coordinator sees: those that wait, and those that would run now
        had they not been refused. What a key's own limits refuse never came here."""
        return {
            "waiting_generations": self._queue.num_generations,
            "refused_generations": self._turned_away.number(now),
        }

    def ask(self, wish: Wish, now: float) -> Ticket:
        """A ticket for `wish`: let in if `began` is set, else it waits. Raises CapacityError."""
        self._advance(now)
        ticket = Ticket(next(self._numbers), wish, now)
        if not len(self._queue) and self._has_place(wish, now):
            self._begin(ticket, now)
        else:
            self._check(wish, now)
            self._queue.add(ticket.number, wish)
            self._tickets[ticket.number] = ticket
        self._watch(now)
        return ticket

    def go_on(self, wish: Wish, now: float) -> Ticket:
        """A ticket for what was let in before, perhaps at another gateway, and goes on: however many run, it neither
        waits nor is refused, and counts as one that runs."""
        self._advance(now)
        ticket = Ticket(next(self._numbers), wish, now)
        self._begin(ticket, now)
        self._watch(now)
        return ticket

    def turns(self, now: float) -> list[tuple[Ticket, LookaheadError | None]]:
        """Tickets whose turn has come now, each let in, or with why it is not."""
        self._advance(now)
        found: list[tuple[Ticket, LookaheadError | None]] = []
        while (number := self._queue.head()) is not None:
            ticket = self._tickets[number]
            if now + self._run_s(ticket.wish, self.num_running + ticket.wish.num_generations) > ticket.wish.deadline:
                self._drop(ticket)
                refusal = self._refusal(ticket.wish, now, "deadline", "It has waited too long to end in time.", 0.0)
                found.append((ticket, refusal))
            elif self._has_place(ticket.wish, now):
                self._drop(ticket)
                self._begin(ticket, now)
                found.append((ticket, None))
            else:
                break
        self._watch(now)
        return found

    def give_up(self, ticket: Ticket, now: float) -> LookaheadError:
        """The time limit of a ticket that waits has passed; why it is not let in."""
        self._advance(now)
        self._drop(ticket)
        self._watch(now)
        self._count("deadline", ticket.wish, now)
        waited = f"It waited {now - ticket.came:.1f} seconds for its turn"
        return DeadlineExceeded(f"{waited}, and its time limit passed before it could begin.")

    def add(self, ticket: Ticket, num_tokens: int, now: float, num_written: int) -> None:
        """Tokens that a running request has read or written, and how many of them it has written."""
        self._advance(now)
        if num_written:
            self._pace.add(num_written)
        ticket.num_tokens += num_tokens
        if self._is_busy():
            self._drain.add(num_tokens)
        self._concurrency.add(num_tokens)
        self._watch(now)

    def end_one(self, ticket: Ticket, now: float) -> None:
        """One of the request's generations has ended; others of it may run on."""
        if ticket.num_running:
            self._advance(now)
            ticket.num_running -= 1
            self.num_running -= 1
            if not ticket.num_running:
                self._answered(ticket, now)
            self._watch(now)

    def leave(self, ticket: Ticket, now: float) -> None:
        """The request has ended or gone, wherever it was; a second time means nothing."""
        if ticket.is_over:
            return
        self._advance(now)
        if ticket.began is None:
            self._drop(ticket)
        else:
            if ticket.num_running and now >= ticket.wish.deadline:  # else its client broke it off, or it failed
                self._answered(ticket, now)
            self.num_running -= ticket.num_running
            ticket.num_running = 0
            self._begun.subtract(_size(ticket.wish))
            self._queue.settle(ticket.wish, ticket.num_tokens)
            self._turned_away.ended(now - ticket.began)
            self._concurrency.lateness.left(ticket.wish.holder, now)
        ticket.is_over = True
        self._watch(now)

    def _check(self, wish: Wish, now: float) -> None:
        bounds, queue = self._bounds, self._queue
        rate = self._drain.rate()
        wait_s = 0.0 if rate is None else (queue.ahead_of(wish) + self._until_place(wish)) / rate
        run_s = SPARE * self._run_s(wish, max(self.num_running, wish.num_generations))
        free = bounds.max_waiting_tokens - queue.num_tokens
        if now + wait_s + run_s > wish.deadline:
            left = f"{max(0.0, wish.deadline - now):.1f} seconds that it may take"
            message = f"The request would wait about {wait_s:.1f} seconds for its turn, and not end in the {left}."
            raise self._refusal(wish, now, "deadline", message, wait_s)
        if len(queue) >= bounds.max_waiting:
            raise self._refusal(wish, now, "number", f"{len(queue)} requests wait already.", wait_s)
        if len(queue) and wish.num_tokens > free:
            raise self._refusal(
                wish, now, "tokens", f"Requests of about {queue.num_tokens} tokens wait already.", wait_s
            )
        number, tokens = queue.waiting_of(wish.holder, wish.rank)
        if number and (number >= bounds.max_waiting - len(queue) or tokens + wish.num_tokens > free):
            message = f"{number} requests of the same key, or of none as well, of about {tokens} tokens, wait already."
            raise self._refusal(wish, now, "share", message, wait_s)
        if wait_s > bounds.max_wait_s:
            raise self._refusal(
                wish, now, "wait", f"The request would wait about {wait_s:.0f} seconds for its turn.", wait_s
            )

    def _until_place(self, wish: Wish) -> float:
        """Tokens until there is a place for `wish` that is next: what as many generations as it has need of those that
        run, and no more than its own, since who makes it wait may be near his end."""
        mean = self._begun["tokens"] / max(1, self._begun["generations"])
        return min(float(wish.num_tokens), mean * wish.num_generations)

    def _refusal(self, wish: Wish, now: float, reason: str, message: str, wait_s: float) -> CapacityError:
        self._count(reason, wish, now)
        return CapacityError(f"The server is at its capacity. {message} Try again later.", None, max(1.0, wait_s))

    def _count(self, reason: str, wish: Wish, now: float) -> None:
        self.refused[reason] += 1
        self._turned_away.add(wish.num_generations, now)

    def _has_place(self, wish: Wish, now: float) -> bool:
        # Whoever waits keeps those behind him waiting. So one that asks for much may go beyond the limit once; then it
        # counts in full, so that nobody else does meanwhile.
        half = (self.limit + 1) // 2
        if self.num_running + min(wish.num_generations, half) > self.limit:
            return False
        number = self.num_running + wish.num_generations
        return number <= FEW or self._ends_in_time(wish, number, now)

    def _ends_in_time(self, wish: Wish, number: int, now: float) -> bool:
        """Whether it will, as far as anybody knows, if it begins now and so many run then; or the others are no reason
        why it will not."""
        run_s, alone_s = self._run_s(wish, number), self._run_s(wish, wish.num_generations)
        if run_s <= HARDLY * alone_s and (now + run_s <= wish.deadline or now + SPARE * alone_s > wish.deadline):
            return True
        return now + SPARE * run_s <= wish.deadline

    def _run_s(self, wish: Wish, number: int) -> float:
        """How long it will run while so many do; 0 where nothing is known."""
        token_s = self._pace.token_s(number)
        return 0.0 if token_s is None or wish.longest is None else wish.longest * token_s

    def _begin(self, ticket: Ticket, now: float) -> None:
        ticket.began = now
        ticket.num_running = ticket.wish.num_generations
        self.num_running += ticket.num_running
        self._begun.update(_size(ticket.wish))
        self._queue.charge(ticket.wish)
        self._concurrency.lateness.began(ticket.wish.holder, now)

    def _answered(self, ticket: Ticket, now: float) -> None:
        began = now if ticket.began is None else ticket.began
        self._concurrency.lateness.answered(
            ticket.wish.holder, (now - began) / max(0.001, ticket.wish.deadline - began)
        )

    def _drop(self, ticket: Ticket) -> None:
        self._queue.remove(ticket.number)
        self._tickets.pop(ticket.number, None)

    def _is_busy(self) -> bool:
        return len(self._queue) > 0 or self.num_running >= self.limit

    def _advance(self, now: float) -> None:
        self._drain.advance(now, self._is_busy())
        self._pace.advance(now, self.num_running)

    def _watch(self, now: float) -> None:
        self._concurrency.watch(self.num_running, len(self._queue) > 0, now)


def _size(wish: Wish) -> dict[str, int]:
    return {"tokens": wish.num_tokens, "generations": wish.num_generations}
