"""What requests of a simulated cluster write: the lengths and agreements of a script, drawn once and looked up then.

Promises: the same script gives the same passage; a passage can be written by any number of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from deployments.simulation.scripts import Agreement, Script

NUM_KEPT = 256
"""So many different texts are drawn; requests beyond that write the first ones again."""
NUM_ATTEMPTS = 8
"""A draft that writes a step more often than that repeats itself."""


class Passage:
    """One text. `ends[i]`: tokens up to the end of the target's step i; `num_drafted[i]`: tokens of the draft's."""

    def __init__(self, script: Script) -> None:
        self._script = script
        first = [script.pair(index, 0) for index in range(script.num_steps)]
        self.num_steps = script.num_steps
        self.lengths = [pair.num_target_tokens for pair in first]
        self.num_drafted = [pair.num_draft_tokens for pair in first]
        self.ends = [0, *accumulate(self.lengths)]
        self._agreements = [pair.agreement for pair in first]
        self._again: dict[tuple[int, int], Agreement] = {}

    def agreement(self, index: int, attempt: int) -> Agreement:
        """What the draft's step `index` is to the target's, when it is written for the `attempt`th time."""
        if attempt == 0:
            return self._agreements[index]
        key = (index, attempt % NUM_ATTEMPTS)
        if key not in self._again:
            self._again[key] = self._script.pair(*key).agreement
        return self._again[key]


class Passages:
    """The texts of all requests, by their numbers."""

    def __init__(self, script: Callable[[int], Script]) -> None:
        self._script = script
        self._drawn: dict[int, Passage] = {}

    def of(self, number: int) -> Passage:
        """What request `number` writes."""
        number %= NUM_KEPT
        if number not in self._drawn:
            self._drawn[number] = Passage(self._script(number))
        return self._drawn[number]
