"""How fast the deployment works, and what a request will need: measured, so that a wait can be foretold.

Promises: the rate counts only time in which as much ran as may, so an idle server does not look slow; what is not
known yet is None and never a guess; nothing here grows with the number of requests. No I/O: the time is handed in.
"""

from __future__ import annotations

import math

MEMORY_S = 15.0
"""Busy time over which the rate is averaged."""
ENOUGH_S = 1.0
"""Busy time after which there is a rate."""
CHARS_A_TOKEN = 4.0
"""Of a prompt, before any has been counted."""
FIRST_GUESS = 512
"""Tokens a request writes that names no limit, before any has ended."""
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


class Needs:
    """What requests turn out to need, by holder."""

    def __init__(self) -> None:
        self._chars_a_token = CHARS_A_TOKEN
        self._written: dict[str, float] = {}
        self._usual: float | None = None
        """What requests of all holders write."""
        self._token_s: float | None = None

    def expected(self, holder: str, num_chars: int, num_ids: int, max_tokens: int | None) -> int:
        """Tokens that one generation will need: its prompt, of characters or of ids, and what it writes, which is
        what the holder's requests wrote of late, or everybody's, or `max_tokens` if that is less or nothing is known.
        """
        usual = self._written.get(holder, self._usual)
        if usual is None:
            usual = FIRST_GUESS if max_tokens is None else max_tokens
        written = usual if max_tokens is None else min(usual, max_tokens)
        return max(1, math.ceil(num_ids + num_chars / self._chars_a_token + written))

    def read(self, num_chars: int, num_tokens: int) -> None:
        """A prompt of `num_chars` characters had `num_tokens`."""
        if num_chars and num_tokens:
            ratio = min(16.0, max(0.25, num_chars / num_tokens))
            self._chars_a_token += SHARE * (ratio - self._chars_a_token)

    def ended(self, holder: str, num_written: int, num_tokens: int, lasted_s: float) -> None:
        """A generation has ended by itself: it wrote `num_written` tokens, of `num_tokens` with its prompt."""
        before = self._written.get(holder, float(num_written))
        self._written[holder] = before + SHARE * (num_written - before)
        usual = float(num_written) if self._usual is None else self._usual
        self._usual = usual + SHARE * (num_written - usual)
        if num_tokens > 0:
            token_s = lasted_s / num_tokens
            self._token_s = token_s if self._token_s is None else self._token_s + SHARE * (token_s - self._token_s)

    def run_s(self, num_tokens: int) -> float:
        """How long a generation that needs `num_tokens` will run; 0 if nothing is known."""
        return 0.0 if self._token_s is None else self._token_s * num_tokens
