"""How fast the deployment works, and what requests need: measured, so that a wait can be foretold.

Promises: the rate counts only time in which as much ran as may, so an idle server does not look slow; what is not
known yet is None and never a guess; nothing here grows with the number of requests. No I/O: the time is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY_S = 15.0
"""Busy time over which the rate is averaged."""
ENOUGH_S = 1.0
"""Busy time after which there is a rate."""
CHARS_A_TOKEN = 4.0
"""Of a prompt, before any has been counted."""
FIRST_GUESS = 512
"""Tokens a request writes that names no limit, before any has ended."""
STRETCH = 10.0
"""What ran out of time would have written as much as was expected, or so many times what it did."""
FAR = 2.0
"""Deviations from the mean beyond which few lengths are."""
EVERYBODY = ""
"""As a holder: all of them together."""
SHARE = 0.1
"""Of a mean that each new value makes up."""


class Drain:
    """Tokens a second, while the server is busy."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._at: float | None = None

    def advance(self, now: float, is_busy: bool) -> None:
        """Time has passed; `is_busy` is what it was until now."""
        if self._at is not None and is_busy and now > self._at:
            passed = now - self._at
            kept = math.exp(-passed / MEMORY_S)
            self._tokens *= kept
            self._seconds = self._seconds * kept + passed
        self._at = now

    def add(self, num_tokens: int) -> None:
        """Tokens that were read or written while it was busy."""
        self._tokens += num_tokens

    def rate(self) -> float | None:
        """Tokens a second; None before it has been busy for long enough."""
        return self._tokens / self._seconds if self._seconds >= ENOUGH_S and self._tokens > 0 else None


@dataclass(slots=True)
class _Lengths:
    """What generations wrote: the mean, and how far from it they were."""

    mean: float
    deviation: float
    is_guess: bool = False
    """Whether none has ended by itself yet."""

    def add(self, length: float) -> None:
        self.deviation += SHARE * (abs(length - self.mean) - self.deviation)
        self.mean += SHARE * (length - self.mean)


class Needs:
    """What requests turn out to need, by holder."""

    def __init__(self) -> None:
        self._chars_a_token = CHARS_A_TOKEN
        self._written: dict[str, _Lengths] = {}

    def expected(self, holder: str, num_chars: int, num_ids: int, max_tokens: int | None) -> int:
        """Tokens that one generation will need: its prompt, of characters or of ids, and what it writes, which is
        what the holder's requests wrote of late, or everybody's, or `max_tokens` if that is less or nothing is known.
        """
        usual = self._written.get(holder) or self._written.get(EVERYBODY)
        written = usual.mean if usual is not None else FIRST_GUESS if max_tokens is None else max_tokens
        written = written if max_tokens is None else min(written, max_tokens)
        return max(1, math.ceil(num_ids + num_chars / self._chars_a_token + written))

    def longest(self, holder: str, max_tokens: int | None) -> float | None:
        """Tokens that nearly all such generations stay below; None where nothing is known."""
        usual = self._written.get(holder) or self._written.get(EVERYBODY)
        if usual is None:
            return None
        longest = usual.mean + FAR * usual.deviation
        return longest if max_tokens is None else min(longest, max_tokens)

    def read(self, num_chars: int, num_tokens: int) -> None:
        """A prompt of `num_chars` characters had `num_tokens`."""
        if num_chars and num_tokens:
            ratio = min(16.0, max(0.25, num_chars / num_tokens))
            self._chars_a_token += SHARE * (ratio - self._chars_a_token)

    def ended(self, holder: str, num_written: float) -> None:
        """A generation has ended by itself, and wrote so many tokens."""
        for name in (holder, EVERYBODY):
            known = self._written.get(name)
            if known is None or known.is_guess:
                self._written[name] = _Lengths(num_written, num_written / 4)
            else:
                known.add(num_written)

    def cut_off(self, holder: str, num_written: float, num_expected: float) -> None:
        """A generation ran out of time after so many tokens: it would have written more. Without this only those that
        are short enough would ever be counted."""
        for name in (holder, EVERYBODY):
            known = self._written.get(name)
            if known is None or known.is_guess:
                guess = max(num_written, min(num_expected, STRETCH * num_written))
                self._written[name] = _Lengths(guess, 0.0, is_guess=True)
            else:
                known.add(max(num_written, known.mean))
