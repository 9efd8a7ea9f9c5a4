"""What one more sequence costs in an engine's batch, learnt from the steps that come back. Pure.

Promises: the time of a token never falls with the batch size, whatever was measured, and beyond what was measured it
rises at most in proportion; one measurement far from the rest moves little once there is evidence; old ones fade.
Before anything is measured a batch is taken to be nearly free, in units of a single sequence's token.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.coordinator.control.means import Mean

KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Batch sizes at which a time is kept; between them it is on the line."""
MEMORY = 40.0
"""Steps of evidence that a knot holds."""
LEAST_WEIGHT = 1e-6
ENOUGH = 0.5
"""Steps of evidence from which on a size counts as known."""
MUCH = 4.0
"""Steps of windows after which larger ones are tried, even if all were in batches of about one size."""
LINE_WEIGHT = 1.0
"""The line through all knots counts as so many steps of evidence at each."""
NEAR = 0.2
"""Part of the way between two knots that counts as none."""
STANDS_IN = 0.5
"""What is known of the other way of writing counts as so many steps of evidence at most."""
LEAST_SUPPORT = 0.1
"""So many steps of evidence an extrapolation is worth."""
LEAST_SPREAD = 0.05
"""Variance of the batch size from which on a line is believed."""
SURE = 3.0
"""From so much evidence on, a knot distrusts values far from its own."""
OUTLIER = 1.5
"""A value further off than by this factor counts as one that is off by it."""
UNKNOWN_SHARE = 0.03
"""What one more sequence adds to the time of a pass, over that of a single one, until it is known."""

KEEPS = 0.9995
"""Evidence that is left after a step that says nothing about these times."""


@dataclass(frozen=True, slots=True)
class _Curve:
    """Times at sizes, and how the time rises before the first and behind the last."""

    sizes: list[int]
    times: list[float]
    rise_below: float
    rise_above: float


class BatchCost:
    """Seconds a token against the mean batch size while it was written."""

    def __init__(self, passes: BatchCost | None = None) -> None:
        """`passes` are the times of the same engine's passes: how they rise counts while nothing is known of it here,
        and they count themselves while nothing else does."""
        self._values: dict[int, float] = {}
        self._weights: dict[int, float] = {}
        self._curve: _Curve | None = None
        self._passes = passes

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._values)

    @property
    def largest_known(self) -> float:
        """The largest batch size about which something was learnt; 0 if nothing was."""
        return float(max((knot for knot, weight in self._weights.items() if weight >= ENOUGH), default=0.0))

    @property
    def smallest_known(self) -> float:
        """As `largest_known`."""
        return float(min((knot for knot, weight in self._weights.items() if weight >= ENOUGH), default=0.0))

    @property
    def num_sizes(self) -> int:
        """Sizes about which something was learnt, however little."""
        return len(self._values)

    @property
    def num_steps(self) -> float:
        """Steps of recent evidence."""
        return sum(self._weights.values())

    def evidence(self, num_sequences: float) -> float:
        """Steps of recent evidence about a batch of `num_sequences`."""
        return sum(share * self._weights.get(knot, 0.0) for knot, share in _shares(max(num_sequences, 1.0)).items())

    def support(self, num_sequences: float) -> float:
        """How much evidence `at` has: between sizes that are known all of it counts."""
        known = [knot for knot, weight in self._weights.items() if weight >= ENOUGH]
        between = bool(known) and min(known) <= num_sequences <= max(known)
        return LEAST_SUPPORT + (self.num_steps if between else self.evidence(num_sequences))

    def doubt(self, num_sequences: float, most: float = 1.0) -> None:
        """What comes next about batches of this size counts more than what is known of them: `most` steps of it."""
        for knot in _shares(max(num_sequences, 1.0)):
            if knot in self._weights:
                self._weights[knot] = min(self._weights[knot], most)

    def fade(self, num_steps: float = 1.0) -> None:
        """Steps went by that say nothing about these times."""
        keep = KEEPS**num_steps
        for knot in self._weights:
            self._weights[knot] *= keep

    def add(self, num_sequences: float, token_s: float, weight: float = 1.0) -> None:
        """A step took `token_s` a token in a batch of `num_sequences` on average."""
        if weight < LEAST_WEIGHT or token_s <= 0.0:
            return
        shares = _shares(max(num_sequences, 1.0))
        if not self._values:
            knot = max(shares, key=lambda k: shares[k])
            self._values[knot] = token_s * _unknown(knot) / _unknown(num_sequences)
            self._weights[knot] = weight
            self._curve = None
            return
        expected = self.at(num_sequences)
        if min(self._weights.get(knot, 0.0) for knot in shares) >= SURE:
            token_s = _near(token_s, expected)
        norm = sum(share**2 for share in shares.values())
        before = {knot: self.at(knot) for knot in shares}
        for knot, share in shares.items():
            evidence = self._weights.get(knot, 0.0)
            new = share * weight
            step = new / (evidence + new) * (token_s - expected) * share / norm
            self._values[knot] = max(self._values.get(knot, before[knot]) + step, 1e-9)
            self._weights[knot] = (evidence + new) * MEMORY / (MEMORY + new)
        self._curve = None

    def at(self, num_sequences: float) -> float:
        """Seconds a token in a batch of `num_sequences`."""
        n = max(num_sequences, 1.0)
        if not self._values:
            return self._passes.at(n) if self._passes is not None else _unknown(n)
        if self._passes is not None and self._passes.num_sizes > 1 and self.num_sizes == 1:
            (knot,) = self._values
            return self._values[knot] * self._passes.at(n) / self._passes.at(knot)
        curve = self._fitted()
        sizes, times = curve.sizes, curve.times
        if n <= sizes[0]:
            return max(times[0] - curve.rise_below * (sizes[0] - n), times[0] * n / sizes[0])
        if n >= sizes[-1]:
            rise = curve.rise_above
            return min(times[-1] + rise * (n - sizes[-1]), times[-1] * n / sizes[-1])
        right = bisect_right(sizes, n)
        part = (n - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return times[right - 1] + part * (times[right] - times[right - 1])

    def _line_through(self, knots: Sequence[int]) -> tuple[float, float, float]:
        """The line through `knots` by their evidence: a size, the time there, and how it rises; of a single one as for
        an engine about which nothing is known."""
        weights = [self._weights[knot] for knot in knots]
        total = sum(weights)
        x0 = sum(w * x for w, x in zip(weights, knots, strict=True)) / total
        y0 = sum(w * self._values[x] for w, x in zip(weights, knots, strict=True)) / total
        spread = sum(w * (x - x0) ** 2 for w, x in zip(weights, knots, strict=True))
        if spread < LEAST_SPREAD * total:
            return x0, y0, y0 * UNKNOWN_SHARE / _unknown(x0)
        rise = sum(w * (x - x0) * (self._values[x] - y0) for w, x in zip(weights, knots, strict=True)) / spread
        return x0, y0, min(max(rise, 0.0), y0 / x0)

    def _fitted(self) -> _Curve:
        """The knots with their times: drawn to the line through all by as much as they are unknown, and made to rise by
        pooling neighbours that fall."""
        if self._curve is None:
            knots = sorted(self._values)
            x0, y0, rise = self._line_through(knots)
            blocks: list[tuple[float, float, list[int]]] = []
            for knot in knots:
                weight = self._weights[knot] + LINE_WEIGHT
                value = self._values[knot] + (y0 + rise * (knot - x0) - self._values[knot]) * LINE_WEIGHT / weight
                among = [knot]
                while blocks and blocks[-1][0] > value:
                    v, w, k = blocks.pop()
                    value = (value * weight + v * w) / (weight + w)
                    weight, among = weight + w, k + among
                blocks.append((value, weight, among))
            times = [value for value, _, among in blocks for _ in among]
            below, above = self._line_through(knots[:3])[2], self._line_through(knots[-3:])[2]
            self._curve = _Curve(knots, times, below, above)
        return self._curve


class TargetCost:
    """The target's seconds a token, when it streams and when it writes steps of a window.

    A step of a window has its call's overhead, waits for the steps before it, and is faster by hints, so both ways are
    measured apart. Where one of them is little known, the other stands in for it. Passes show best what more sequences
    cost, since deeper steps have fewer hints: where they were timed in batches of several sizes, a window's token takes
    its share of a pass, the same in every batch.
    """

    def __init__(self, streams_like: TargetCost | None = None) -> None:
        """`streams_like`: streams take as long as in this one, and what is learnt of them counts for both."""
        self._passes = BatchCost()
        self._ratio = Mean(1.0, 0.5, MEMORY)
        self._stream: BatchCost = BatchCost(self._passes) if streams_like is None else streams_like._stream
        self._window = BatchCost(self._passes)

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return self._stream.is_known or self._window.is_known or self._passes.is_known

    @property
    def num_streamed(self) -> float:
        """Steps of recent evidence about streams."""
        return self._stream.num_steps

    @property
    def largest_known(self) -> float:
        """As `BatchCost.largest_known`."""
        return max(cost.largest_known for cost in (self._stream, self._window, self._passes))

    def evidence(self, num_sequences: float) -> float:
        """Steps of recent evidence about streams in a batch of `num_sequences`."""
        return self._stream.evidence(num_sequences)

    def add_stream(self, num_sequences: float, token_s: float) -> None:
        """A streamed step took `token_s` a token."""
        self._stream.add(num_sequences, token_s)

    def add_window(self, num_sequences: float, token_s: float) -> None:
        """A step of a window took `token_s` a token, its call included."""
        self._window.add(num_sequences, token_s)
        if self._passes.is_known:
            ratio = token_s / self._passes.at(num_sequences)
            self._ratio.add(_near(ratio, self._ratio.value) if self._ratio.weight >= SURE else ratio)
        self._stream.fade()

    @property
    def shows_growth(self) -> bool:
        """Whether it was seen what more sequences cost: something is known of two sizes of a batch, or much of the one
        that windows made."""
        many = any(cost.largest_known > cost.smallest_known for cost in (self._stream, self._window, self._passes))
        return many or self._window.num_steps >= MUCH

    def evidence_of_passes(self, num_sequences: float) -> float:
        """Steps of recent evidence about passes with a batch of `num_sequences`."""
        return self._passes.evidence(num_sequences)

    def add_part(self, num_sequences: float, pass_s: float, weight: float) -> None:
        """A part of a step of a window took `pass_s` for each pass; worth `weight` of a step."""
        self._passes.add(num_sequences, pass_s, weight)

    def doubt(self, num_sequences: float, most: float = 1.0) -> None:
        """As `BatchCost.doubt`, of streams."""
        self._stream.doubt(num_sequences, most)

    def doubt_windows(self, num_sequences: float) -> None:
        """As `BatchCost.doubt`, of steps of a window."""
        self._window.doubt(num_sequences)
        self._passes.doubt(num_sequences)
        self._ratio.doubt(1.0)

    def fade_streams(self, num_steps: float = 1.0) -> None:
        """Steps went by that say nothing about streams."""
        self._stream.fade(num_steps)

    def stream_s(self, num_sequences: float) -> float:
        """Seconds a token of a stream."""
        return _either(self._stream, self._window, num_sequences)

    def window_s(self, num_sequences: float) -> float:
        """Seconds a token of a step in a window."""
        if self._passes.num_sizes > 1:
            pass_s = self._passes.at(num_sequences)
            return pass_s * self._ratio.over(self._stream.at(num_sequences) / pass_s if self._stream.is_known else 1.0)
        return _either(self._window, self._stream, num_sequences)


def _near(value: float, expected: float) -> float:
    """`value`, no further off than by `OUTLIER`."""
    return min(max(value, expected / OUTLIER), expected * OUTLIER)


def _either(cost: BatchCost, other: BatchCost, num_sequences: float) -> float:
    if not (cost.is_known and other.is_known):
        return (other if other.is_known else cost).at(num_sequences)
    own = cost.support(num_sequences)
    others = STANDS_IN * min(other.support(num_sequences), 1.0)
    return (own * cost.at(num_sequences) + others * other.at(num_sequences)) / (own + others)


def _shares(num_sequences: float) -> dict[int, float]:
    """The knots on both sides, by nearness; only one where that is near enough, since a step says next to nothing about
    a knot far from it."""
    right = bisect_right(KNOTS, num_sequences)
    if right == len(KNOTS):
        return {KNOTS[-1]: 1.0}
    left, after = KNOTS[right - 1], KNOTS[right]
    part = (num_sequences - left) / (after - left)
    if part < NEAR or part > 1.0 - NEAR:
        return {left if part < NEAR else after: 1.0}
    return {left: 1.0 - part, after: part}


def _unknown(num_sequences: float) -> float:
    """The time of a pass over that of a single sequence, for an engine about which nothing is known."""
    return 1.0 + UNKNOWN_SHARE * (num_sequences - 1.0)
