"""Whether a request is guided or looks ahead in a window, where both are possible. Pure.

A guided request writes the target's own text, which every fidelity allows. A window writes several steps at once and is
the faster one where steps are nearly always accepted and one stream cannot take more hints in a pass; a guided stream
loses less where the draft strays, and is less work for the target. Which it is depends on engine and text, so whole
requests are compared.

Promises: the first requests are guided, whatever their fidelity, so that nobody gets another text than the target's for
a speed that was not measured in several of them; one that begins alone goes the way that was faster for those before
it, and the slower way is tried now and then; one that begins beside others and accepts only equal steps is guided,
since a window would take their places in the batch.
"""

from __future__ import annotations

from deployments.coordinator.control.batch_cost import OUTLIER
from deployments.coordinator.control.means import Mean

FIRST_TRY, TRY_EVERY = 8, 32
"""So many requests alone are guided before each of the first windows; then the slower way is tried once in so many."""
LEAST_WINDOWS = 3
"""One text takes longer than another, and no machine is as fast in one minute as in the next: fewer say nothing."""
HOPELESS = 1.15
"""After a window that was slower by this factor there is no hurry to try the next one."""
LEAST_TOKENS = 32
"""A shorter request says nothing."""
MEMORY_TOKENS = 4000.0
"""How much text the times look back on."""
MARGIN = 1.03
"""A window must be faster by this factor: it is more work for the target."""


class Ways:
    """Seconds a token of requests that were alone from their beginning to their end, once they wrote, by way. Where a
    few are known, one that is slower than their mean by more than `OUTLIER` counts as one that is slower by it."""

    def __init__(self, is_exact: bool = True) -> None:
        """`is_exact`: of requests that accept only equal steps."""
        self._is_exact = is_exact
        self._guided, self._window = Mean(0.0, 0.0, MEMORY_TOKENS), Mean(0.0, 0.0, MEMORY_TOKENS)
        self._next_try = FIRST_TRY
        self._num_guided = self._num_windows = 0
        self._num_unguided = 0
        """Requests since hints did not pay."""

    def guides(self, num_others: int, hints_pay: bool) -> bool:
        """Whether a request that begins beside `num_others` is guided. Where hints do not pay, whoever may takes a
        window, but for one request in `TRY_EVERY`: only guided ones find out that hints pay again."""
        if not hints_pay:
            self._num_unguided += 1
            return self._is_exact or self._num_unguided % TRY_EVERY == 0
        is_known = self._guided.weight > 0.0 and self._num_windows >= LEAST_WINDOWS
        guided = not is_known or self._guided.value <= MARGIN * self._window.value
        if num_others > 0:
            return guided or self._is_exact
        if self._next_try > 0:
            return guided
        self._next_try = TRY_EVERY if self._num_windows + 1 >= LEAST_WINDOWS else FIRST_TRY
        return not guided

    def finished(self, guided: bool, num_tokens: int, elapsed_s: float) -> None:
        """A request that was alone has written `num_tokens` behind its first words in so much time."""
        if num_tokens < LEAST_TOKENS or elapsed_s <= 0.0:
            return
        own, num = (self._guided, self._num_guided) if guided else (self._window, self._num_windows)
        token_s = elapsed_s / num_tokens
        if num >= LEAST_WINDOWS:
            token_s = min(token_s, OUTLIER * own.value)
        own.add(token_s, float(num_tokens))
        self._next_try -= 1
        if guided:
            self._num_guided += 1
            return
        self._num_windows += 1
        if token_s > HOPELESS * self._guided.value:
            self._next_try = max(self._next_try, TRY_EVERY - 1)
