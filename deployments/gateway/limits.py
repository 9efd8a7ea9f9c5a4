"""How much each holder of a key may ask for: requests and tokens a minute, and requests at once.

Promises: over any time t (minutes) at most ``limit * (1 + t)`` requests are let in; tokens are charged when they are
known, so a holder may overdraw once by what his running requests write, and then waits until it is made up for; a
refusal says after how many seconds the same request would be let in if nothing else came (for requests at once, where
nobody can know, an estimate); what is entered is left once, however it ends. No I/O: the time is handed in.

A bucket of a minute's worth, which fills evenly, and not a window: it takes two numbers whatever the limit is, can be
charged after the fact, and knows exactly when it has enough. (The library `limits` reads the clock itself, starts timer
threads, and its exact window keeps an entry for each token.) Each gateway replica has its own `Limits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.errors import CapacityError

if TYPE_CHECKING:
    from deployments.gateway_config import KeyLimits

MINUTE_S = 60.0
GUESS_S = 1.0
"""How long a request is taken to last before any of a holder has ended."""
ALMOST = 1e-9
"""What rounding may take from a bucket."""


class Bucket:
    """Holds up to `limit`, fills by `limit` a minute; below zero it owes."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def level(self, now: float) -> float:
        """What is in it."""
        self._level = min(float(self.limit), self._level + max(0.0, now - self._at) * self.limit / MINUTE_S)
        self._at = max(self._at, now)
        return self._level

    def take(self, amount: int, now: float) -> None:
        """Take `amount` out, whether or not it is there."""
        self._level = self.level(now) - amount

    def wait_s(self, amount: int, now: float) -> float:
        """Seconds until `amount` is in it; 0 if it is."""
        missing = amount - self.level(now)
        return missing * MINUTE_S / self.limit if missing > ALMOST else 0.0

    def full_s(self, now: float) -> float:
        """Seconds until it is full."""
        return self.wait_s(self.limit, now)


class Account:
    """What one holder has left."""

    def __init__(self, limits: KeyLimits, now: float) -> None:
        self.num_running = 0
        self.mean_s = GUESS_S
        """How long his requests last, of late."""
        self.set(limits, now)

    def set(self, limits: KeyLimits, now: float) -> None:
        """From now on `limits` count, from full buckets; what runs still runs."""
        requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
        self.limits = limits
        self.requests = None if requests is None else Bucket(requests, now)
        self.tokens = None if tokens is None else Bucket(tokens, now)

    def check(self, now: float) -> None:
        """Raise CapacityError if no request may come in now."""
        self.check_running()
        _check(self.requests, "request", now)
        _check(self.tokens, "token", now)

    def check_running(self) -> None:
        """Raise CapacityError if as many run as may."""
        at_once = self.limits.concurrency
        if at_once is not None and self.num_running >= at_once:
            message = f"The limit of {_count(at_once, 'request')} at once is reached; try again when one has ended."
            raise CapacityError(message, None, self.mean_s / at_once)

    def take_request(self, now: float) -> None:
        """One more request was made. Raises CapacityError if it was too many a minute."""
        _check(self.requests, "request", now)
        if self.requests is not None:
            self.requests.take(1, now)

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's ``x-ratelimit-*``: limit, what remains, and when the limit is whole again."""
        found = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
                found[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.level(now) + ALMOST)))
                found[f"x-ratelimit-reset-{name}"] = f"{bucket.full_s(now):.3f}s"
        return found


class Visit:
    """One request that runs."""

    def __init__(self, account: Account, now: float) -> None:
        self._account = account
        self._since = now
        self._is_over = False
        self._has_run = False
        account.num_running += 1

    def charge(self, num_tokens: int, now: float) -> None:
        """Tokens that the request has used."""
        self._has_run = True
        if self._account.tokens is not None:
            self._account.tokens.take(num_tokens, now)

    def leave(self, now: float) -> None:
        """The request has ended; a second time means nothing."""
        if not self._is_over:
            self._is_over = True
            self._account.num_running -= 1
            if self._has_run:  # what is refused elsewhere says nothing of how long requests last
                self._account.mean_s += 0.2 * (now - self._since - self._account.mean_s)


class Limits:
    """The accounts of all holders, by name."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def account(self, name: str, limits: KeyLimits, now: float) -> Account:
        """The account of `name`, under `limits`."""
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(limits, now)
        elif account.limits != limits:
            account.set(limits, now)
        return account

    def enter(self, name: str, limits: KeyLimits, now: float) -> Visit:
        """Let a request of `name` in. Raises CapacityError, which says when to come again."""
        account = self.account(name, limits, now)
        account.check(now)
        account.take_request(now)
        return Visit(account, now)


def _check(bucket: Bucket | None, word: str, now: float) -> None:
    if bucket is not None and (wait_s := bucket.wait_s(1, now)) > 0:
        message = f"The limit of {_count(bucket.limit, word)} a minute is reached; "
        raise CapacityError(f"{message}try again in {wait_s:.1f} seconds.", None, wait_s)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
