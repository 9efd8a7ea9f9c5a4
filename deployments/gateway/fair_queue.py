"""Who is next, where several holders of keys wait.

Promises: lower ranks go first; within a rank the holders share by weight: while two of them wait without a pause, what
they were given (tokens, over their weights) stays apart by no more than what their largest requests need; a holder who
was away has saved up nothing; one holder's own requests go by rank, then by priority, then by arrival. No I/O.

One counter a holder, of tokens over weight, is the virtual token counter of "Fairness in Serving Large Language Models"
(Sheng et al., arXiv 2401.00588): the holder with the lowest is next, and who comes back is lifted to those who waited.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

SLACK = 16
"""So many entries of requests that wait no longer are kept beside as many as wait."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for. `num_tokens` is what it is expected to need, `deadline` a time of the caller's clock."""

    holder: str
    num_tokens: int
    num_generations: int = 1
    deadline: float = float("inf")
    longest: float | None = None
    """Tokens that each generation will hardly write more than; None: nothing is known."""
    rank: int = 0
    """Lower first, before every share."""
    priority: int = 0
    """Lower first, among those of its holder."""
    weight: float = 1.0


class _Line:
    """The requests of one holder that wait."""

    def __init__(self) -> None:
        self.spent = 0.0
        """Tokens over weight."""
        self.weight = 1.0
        self.heap: list[tuple[int, int, int]] = []
        self.tokens: Counter[int] = Counter()
        """Of what waits, by rank."""
        self.numbers: Counter[int] = Counter()
        """How many wait, by rank."""

    @property
    def num_waiting(self) -> int:
        return self.numbers.total()

    def tokens_up_to(self, rank: int) -> int:
        """Of what waits at `rank` or before it."""
        return sum(tokens for at, tokens in self.tokens.items() if at <= rank)


class FairQueue:
    """Wishes that wait, each under a number of its own: later numbers came later."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._waiting: dict[int, Wish] = {}
        self._reached = 0.0
        """The counter of whoever was served last."""
        self.num_tokens = 0
        self.num_generations = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, number: int, wish: Wish) -> None:
        """`wish` waits from now on."""
        line = self._line(wish)
        if line.num_waiting == 0:
            others = [each.spent for each in self._lines.values() if each.num_waiting]
            line.spent = max(line.spent, min(others, default=self._reached))
        heapq.heappush(line.heap, (wish.rank, wish.priority, number))
        line.tokens[wish.rank] += wish.num_tokens
        line.numbers[wish.rank] += 1
        self._waiting[number] = wish
        self.num_tokens += wish.num_tokens
        self.num_generations += wish.num_generations

    def head(self) -> int | None:
        """The number of who is next."""
        best: tuple[int, float, int] | None = None
        for line in self._lines.values():
            while line.heap and line.heap[0][2] not in self._waiting:
                heapq.heappop(line.heap)
            if line.heap:
                rank, _, number = line.heap[0]
                best = min(best or (rank, line.spent, number), (rank, line.spent, number))
        return None if best is None else best[2]

    def remove(self, number: int) -> Wish | None:
        """`number` waits no longer; None if it did not."""
        wish = self._waiting.pop(number, None)
        if wish is not None:
            line = self._lines[wish.holder]
            line.numbers[wish.rank] -= 1
            line.tokens[wish.rank] -= wish.num_tokens
            if not line.numbers[wish.rank]:  # clients choose ranks: none is kept for nothing
                del line.numbers[wish.rank], line.tokens[wish.rank]
            self.num_tokens -= wish.num_tokens
            self.num_generations -= wish.num_generations
            if len(line.heap) > 2 * line.num_waiting + SLACK:  # behind one that waits long, others come and go
                line.heap = [entry for entry in line.heap if entry[2] in self._waiting]
                heapq.heapify(line.heap)
        return wish

    def charge(self, wish: Wish) -> None:
        """`wish` is served: its holder has spent what it is expected to need."""
        line = self._line(wish)
        self._reached = max(self._reached, line.spent)
        line.spent += wish.num_tokens / wish.weight

    def settle(self, wish: Wish, num_tokens: int) -> None:
        """`wish` has ended and needed `num_tokens`."""
        self._line(wish).spent += (num_tokens - wish.num_tokens) / wish.weight

    def waiting_of(self, holder: str, rank: int) -> tuple[int, int]:
        """How many requests of `holder` wait at `rank` or before it, and their tokens."""
        line = self._lines.get(holder)
        if line is None:
            return 0, 0
        return sum(number for at, number in line.numbers.items() if at <= rank), line.tokens_up_to(rank)

    def ahead_of(self, wish: Wish) -> float:
        """Tokens that would be served before `wish` if it were added now and nobody came after it."""
        mine = self._lines.get(wish.holder) or _Line()
        own = mine.tokens_up_to(wish.rank)
        spent = max(mine.spent, self._reached)
        ahead = float(own)
        for holder, line in self._lines.items():
            if holder == wish.holder or not line.num_waiting:
                continue
            # Until it is this wish's turn, another holder is given as much by weight, and what he is behind.
            share = ((own + wish.num_tokens) / wish.weight + max(0.0, spent - line.spent)) * line.weight
            ahead += line.tokens_up_to(wish.rank - 1) + min(float(line.tokens[wish.rank]), share)
        return ahead

    def _line(self, wish: Wish) -> _Line:
        line = self._lines.setdefault(wish.holder, _Line())
        line.weight = wish.weight
        return line
