"""How many generations run at once: as many as bring more done, and not more.

Promises: the limit changes only while somebody waits for it; it rises only as long as more at once bring more tokens a
second and answers come well before their time limits, and falls only as long as fewer cost next to none or answers come
late; it stays within its bounds. With bounds that are equal it is a fixed number. No I/O: the time is handed in.

Why by throughput: what an engine can carry depends on the model, the length of texts, its cache and on how much is
speculated, which itself gives way under load; tokens a second are what all of that comes to. Above the limit found so
requests would only share the same work among more of them, and each would end later.
"""

from __future__ import annotations

from deployments.gateway.lateness import Lateness

SETTLE_S = 0.5
"""After a change of the limit is reached: what is measured from then on is its own."""
MEASURE_S = 1.0
"""At least so long, and until each that runs was heard of `HEARD` times: a slow engine is measured for longer."""
HEARD = 3
GAIN = 1.05
"""By so much the rate must rise for the limit to rise on."""
STEEP = 1.3
"""From here on the limit doubles."""
KEEP = 0.97
"""Of the best rate: what is kept while the limit falls."""
FORGET = 0.998
"""What remains of the best rate at each measurement, so that a cluster that became slower is believed."""
UP = 1.25
DOWN = 0.75
FULL = 0.9
"""Of the limit: so much runs while it is measured."""
REST = 8
"""Measurements for which a limit stays that was found between one too low and one that brings no more."""
LATE = 0.85
"""Of its time limit: what an answer may take, in the mean of all holders, while the limit rises; beyond, it falls."""


class Concurrency:
    """`limit`, between `least` and `most`, found from `first` on."""

    def __init__(self, first: int, least: int, most: int) -> None:
        self._least = min(least, most)
        self._most = most
        self.limit = max(self._least, min(first, most))
        self._is_rising = True
        self._has_lost = False
        """Whether the last fall cost something."""
        self._rest = 0
        self._before: float | None = None
        self._best = 0.0
        self.lateness = Lateness()
        """To be told of all requests."""
        self._num_answers = 0
        """Until the limit changed."""
        self._since: float | None = None
        """When what is measured began; None while the limit is not yet reached."""
        self._tokens = 0
        self._heard = 0

    def add(self, num_tokens: int) -> None:
        """Tokens that one of those that run wrote."""
        self._tokens += num_tokens
        self._heard += 1

    def watch(self, num_running: int, is_waiting: bool, now: float) -> None:
        """What the state is from `now` on; to be called at every change of it, and when tokens came."""
        if self._least == self._most:
            return
        if not is_waiting or not FULL * self.limit - 1 <= num_running <= self.limit / FULL:
            self._since = None
            return
        if self._since is None:
            self._since = now + SETTLE_S
        if now < self._since:
            self._tokens = self._heard = 0
        elif now >= self._since + MEASURE_S and self._heard >= HEARD * num_running:
            self._judge(self._tokens / (now - self._since))

    def _judge(self, rate: float) -> None:
        self._best = max(rate, self._best * FORGET)
        self._since = None
        before = rate / UP if self._before is None else self._before
        if self.lateness.mean() > LATE:
            if self.lateness.num_answers - self._num_answers < self.limit:
                return  # those that end now began under another limit
            self._is_rising = False
        elif self._rest:
            self._rest -= 1
            return
        elif self._is_rising:
            self._is_rising = rate >= GAIN * before
            if not self._is_rising and self._has_lost and rate >= KEEP * before:
                self._has_lost, self._rest, self._before = False, REST, rate
                return
        else:
            self._is_rising = self._has_lost = rate < KEEP * self._best and rate < GAIN * before
        self._before = rate
        self._change(DOWN if not self._is_rising else 2.0 if rate >= STEEP * before else UP)

    def _change(self, factor: float) -> None:
        wished = round(self.limit * factor)
        wished += (factor > 1) - (factor < 1) if wished == self.limit else 0
        self.limit = max(self._least, min(self._most, wished))
        self._num_answers = self.lateness.num_answers
