"""What an engine's work costs: the time of a forward pass by batch size and context, and of a call. Pure.

Promises: times are seconds; a batch is the number of sequences that decode together; a pass gives every one of them a
token.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class EngineCost:
    """One engine. `pass_s` are points (batch size, seconds of a forward pass), by rising batch size; between two
    points the time is on the line, beyond the last one on the last line."""

    pass_s: tuple[tuple[int, float], ...]
    context_s: float = 0.0
    """Seconds that a pass takes longer for every token of context in the batch."""
    call_s: float = 0.0
    """Seconds that a call waits before it decodes: transport and scheduling, while the engine does other things."""
    prefill_passes: float = 0.0
    """Work at the start of a call, as passes of its own sequence: the last block of its prefix."""
    prefill_token_s: float = 0.0
    """Seconds of the whole engine for each token of a prompt that is not in its cache."""
    max_num_seqs: int = 1_000_000
    """Sequences beyond that wait, by priority."""
    guess_s: float | None = None
    """Seconds that a pass takes longer for every proposed token that it checks; None: as long as for a sequence."""

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.pass_s]
        if not sizes or sizes[0] != 1 or sizes != sorted(set(sizes)) or min(s for _, s in self.pass_s) <= 0.0:
            raise ValueError("pass_s must begin at batch size 1, rise in size, and have times above 0")

    def seconds(self, num_sequences: int, num_context: float = 0.0, num_guessed: int = 0) -> float:
        """One forward pass over `num_sequences` sequences with `num_context` tokens of context and `num_guessed`
        proposed tokens in all."""
        size = max(num_sequences, 1)
        own = self._line(size + num_guessed) if self.guess_s is None else self._line(size) + self.guess_s * num_guessed
        return own + self.context_s * num_context

    def _line(self, size: int) -> float:
        points = self.pass_s
        if len(points) == 1:
            return points[0][1]
        right = min(max(bisect_right(points, (size, float("inf"))), 1), len(points) - 1)
        (n0, s0), (n1, s1) = points[right - 1], points[right]
        return s0 + (s1 - s0) * (size - n0) / (n1 - n0)


def with_drafter(cost: EngineCost, drafter: EngineCost, num_proposed: int) -> EngineCost:
    """An engine of `cost`, whose passes check `num_proposed` tokens, that has them written by a model of cost `drafter`
    in the same engine before each pass: one after the other."""
    points = tuple((size, seconds + num_proposed * drafter.seconds(size)) for size, seconds in cost.pass_s)
    return replace(
        cost,
        pass_s=points,
        context_s=cost.context_s + num_proposed * drafter.context_s,
        prefill_token_s=cost.prefill_token_s + drafter.prefill_token_s,
    )


def linear_cost(token_s: float, sequence_share: float, **other: float) -> EngineCost:
    """A pass of `token_s` for one sequence, and `sequence_share` of that more for each further one: 0 is a batch that
    is free, 1 an engine that is saturated by a single sequence."""
    return EngineCost(((1, token_s), (2, token_s * (1.0 + sequence_share))), **other)  # type: ignore[arg-type]
