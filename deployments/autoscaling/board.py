"""Where the policies of one application's deployments meet: one decision for all roles, from the readings of all.

Promises: one `Policy` an application, however many deployments ask; it decides once in `PERIOD_S`, from what every role
read last; rules that change, and a pause in which no deployment asked, start it anew. It lives in the process that
asks, Serve's controller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deployments.autoscaling.policy import Policy, Reading, Rules

PERIOD_S = 1.0
"""Serve asks ten times a second, and replicas report every second or less often."""

GONE_S = 10.0
"""Nobody asked for so long: the application had ended, and this is another one of its name."""

_boards: dict[str, Board] = {}


class Board:
    """The readings of all roles and what follows of them."""

    def __init__(self, rules: Rules, text: str) -> None:
        self.text = text
        self._rules = rules
        self._asked_s = float("-inf")
        self._begin()

    def _begin(self) -> None:
        self._policy = Policy(self._rules)
        self._readings: dict[str, Reading] = {}
        self._wanted: dict[str, int] = {}
        self._decided_s = float("-inf")

    def ask(self, role: str, reading: Reading, now_s: float) -> int:
        """What `role` should have, which reads `reading` now; what it has, as long as its first decision is open."""
        if now_s - self._asked_s > GONE_S:
            self._begin()
        self._asked_s = now_s
        self._readings[role] = reading
        if now_s - self._decided_s >= PERIOD_S and "coordinator" in self._readings:
            self._decided_s = now_s
            self._wanted = self._policy.decide(now_s, self._readings)
        return self._wanted.get(role, reading.num_wanted)


def board(application: str, rules: Mapping[str, Any]) -> Board:
    """The board of `application` under `rules`, which are `Rules` as plain data."""
    text = json.dumps(rules, sort_keys=True)
    found = _boards.get(application)
    if found is None or found.text != text:
        found = _boards[application] = Board(Rules.from_dict(rules), text)
    return found
