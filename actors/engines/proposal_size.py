"""How many tokens are worth proposing: as many as are likely enough for what one more token costs in a pass.

Promises: pure arithmetic on what was observed, times handed in; sizes only ever shrink a proposal; what has not been
observed yet is taken from priors. A pass over n tokens is taken to last a (1 + c n): c is small on a GPU with few
sequences and 0.05 on a CPU, so the same proposal may pay with one sequence and not with sixteen. A further token of
probability P pays if P is more than c E / (1 + c n), with E tokens expected of the whole pass: then it adds to the
tokens a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

PRIOR_COST = 0.02
FORGET = 0.98
"""Weight of what was, with each new observation: the last fifty count."""
PRIORS = {
    "along 0": 0.5,
    "along 1": 0.8,
    "along 4": 0.9,
    "again 2": 0.6,
    "again 3": 0.7,
    "again 4": 0.8,
    "again 8": 0.9,
    "ngram 2": 0.35,
    "ngram 3": 0.5,
    "ngram 4": 0.65,
}
"""Probability that one more token is right, by the kind of a proposal (`Proposal.kind`)."""
UNKNOWN = 0.5
PRIOR_WEIGHT = 10.0


class Likelihood:
    """Probability that the next proposed token is right, where all before it were."""

    def __init__(self, prior: float) -> None:
        self._right = prior * PRIOR_WEIGHT
        self._wrong = (1 - prior) * PRIOR_WEIGHT

    def observe(self, num_proposed: int, num_accepted: int) -> None:
        """A proposal that was verified."""
        self._right = FORGET * self._right + num_accepted
        self._wrong = FORGET * self._wrong + (num_accepted < num_proposed)

    @property
    def value(self) -> float:
        """Never quite 0 or 1."""
        return (self._right + 0.1) / (self._right + self._wrong + 0.2)


class PassCost:
    """What one more token adds to a pass, as a share of what a pass costs anyway: a line through observed passes."""

    def __init__(self, fixed: float | None = None) -> None:
        self._is_fixed = fixed is not None
        self._cost = PRIOR_COST if fixed is None else fixed
        self._sums: tuple[float, float, float, float, float] | None = None

    def observe(self, num_tokens: int, seconds: float) -> None:
        """A pass over `num_tokens` took `seconds`."""
        if self._is_fixed:
            return
        if self._sums is None:
            # The prior: two made-up passes, as long as this one by the prior cost.
            base = seconds / (1 + PRIOR_COST * num_tokens)
            points = [(x, base * (1 + PRIOR_COST * x)) for x in (1.0, 33.0) for _ in range(3)]
        else:
            points = []
        sums = [FORGET * value for value in self._sums or (0.0,) * 5]
        for x, y in [*points, (float(num_tokens), seconds)]:
            for at, value in enumerate((1.0, x, x * x, y, x * y)):
                sums[at] += value
        n, sx, sxx, sy, sxy = self._sums = (sums[0], sums[1], sums[2], sums[3], sums[4])
        spread = n * sxx - sx * sx
        if spread > n * n:  # a line needs passes of different sizes
            slope = (n * sxy - sx * sy) / spread
            base = (sy - slope * sx) / n
            self._cost = min(1.0, max(0.0, slope) / base) if base > 0 else 1.0

    @property
    def value(self) -> float:
        """c of the module's formula."""
        return self._cost


class ProposalSize:
    """The sizes of the proposals of one pass."""

    def __init__(self, fixed_cost: float | None = None) -> None:
        self._likelihoods = {kind: Likelihood(prior) for kind, prior in PRIORS.items()}
        self.cost = PassCost(fixed_cost)

    def observe(self, kind: str, num_proposed: int, num_accepted: int) -> None:
        """Of a proposal of `kind`, `num_accepted` tokens were right."""
        if num_proposed:
            self._of(kind).observe(num_proposed, num_accepted)

    def sizes(self, proposals: Sequence[tuple[str, int]], num_seqs: int) -> list[int]:
        """For each proposal, given its kind and its length, how many of its tokens to propose in a pass over `num_seqs`
        sequences."""
        chances = [self._of(kind).value for kind, _ in proposals]
        cost, sizes = self.cost.value, [0] * len(proposals)
        expected, num_tokens = float(num_seqs), float(num_seqs)
        for _ in range(4):  # the threshold and the sizes depend on one another; they settle at once
            threshold = cost * expected / (1 + cost * num_tokens)
            sizes = [
                min(length, _num_above(chance, threshold))
                for (_, length), chance in zip(proposals, chances, strict=True)
            ]
            expected = num_seqs + sum(p * (1 - p**k) / (1 - p) for p, k in zip(chances, sizes, strict=True))
            num_tokens = float(num_seqs + sum(sizes))
        return sizes

    def _of(self, kind: str) -> Likelihood:
        return self._likelihoods.setdefault(kind, Likelihood(PRIORS.get(kind, UNKNOWN)))


def _num_above(chance: float, threshold: float) -> int:
    """The largest k for which ``chance ** k`` is above `threshold`."""
    if threshold <= 0:
        return 10**6
    if chance <= threshold:
        return 0
    return int(math.log(threshold) / math.log(chance)) if threshold < 1 else 0
