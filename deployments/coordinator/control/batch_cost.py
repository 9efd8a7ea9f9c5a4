"""What one more sequence costs in an engine's batch, learnt from the steps that come back. Pure.

Promises: the time of a token never falls with the batch size, whatever was measured, and beyond what was measured it
rises at most in proportion; one measurement far from the rest moves little once there is evidence; old ones fade.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from deployments.coordinator.control.means import Mean

KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Batch sizes at which a time is kept; between them it is on the line."""
MEMORY = 40.0
"""Steps of evidence that a knot holds."""
LEAST_WEIGHT = 1e-6
SURE = 3.0
"""From so much evidence on, a knot distrusts values far from its own."""
OUTLIER = 1.5
"""A value further off than by this factor counts as one that is off by it."""
UNKNOWN_SHARE = 0.03
"""What one more sequence adds to the time of a pass, over that of a single one, until it is known."""

STREAM_KEEPS = 0.998
"""Evidence that is left after a step of another kind."""


class BatchCost:
    """Seconds a token against the mean batch size while it was written."""

    def __init__(self) -> None:
        self._values: dict[int, float] = {}
        self._weights: dict[int, float] = {}
        self._line: tuple[list[float], list[float]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._values)

    @property
    def largest_known(self) -> float:
        """The largest batch size about which something was learnt; 0 if nothing was."""
        return float(max((knot for knot, weight in self._weights.items() if weight >= 0.5), default=0.0))

    def evidence(self, num_sequences: float) -> float:
        """Steps of recent evidence about a batch of `num_sequences`."""
        return sum(share * self._weights.get(knot, 0.0) for knot, share in _shares(max(num_sequences, 1.0)).items())

    def fade(self) -> None:
        """A step went by that says nothing about these times."""
        for knot in self._weights:
            self._weights[knot] *= STREAM_KEEPS

    def add(self, num_sequences: float, token_s: float, weight: float = 1.0) -> None:
        """A step took `token_s` a token in a batch of `num_sequences` on average."""
        if weight < LEAST_WEIGHT or token_s <= 0.0:
            return
        shares = _shares(max(num_sequences, 1.0))
        if not self._values:
            knot = max(shares, key=lambda k: shares[k])
            self._values[knot] = token_s * _unknown(knot) / _unknown(num_sequences)
            self._weights[knot] = weight
            self._line = None
            return
        expected = self.at(num_sequences)
        if min(self._weights.get(knot, 0.0) for knot in shares) >= SURE:
            token_s = min(max(token_s, expected / OUTLIER), expected * OUTLIER)
        norm = sum(share**2 for share in shares.values())
        before = {knot: self.at(knot) for knot in shares}
        for knot, share in shares.items():
            evidence = self._weights.get(knot, 0.0)
            new = share * weight
            step = new / (evidence + new) * (token_s - expected) * share / norm
            self._values[knot] = max(self._values.get(knot, before[knot]) + step, 1e-9)
            self._weights[knot] = (evidence + new) * MEMORY / (MEMORY + new)
        self._line = None

    def at(self, num_sequences: float) -> float:
        """Seconds a token in a batch of `num_sequences`; ValueError if nothing was measured."""
        if not self._values:
            raise ValueError("nothing was measured yet")
        sizes, times = self._fitted()
        n = max(num_sequences, 1.0)
        if n <= sizes[0]:
            return max(times[0] * _unknown(n) / _unknown(sizes[0]), times[0] * n / sizes[0])
        if n >= sizes[-1]:
            rise = max(self._last_slope(sizes, times), 0.0)
            return min(times[-1] + rise * (n - sizes[-1]), times[-1] * n / sizes[-1])
        right = bisect_right(sizes, n)
        part = (n - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return times[right - 1] + part * (times[right] - times[right - 1])

    def _last_slope(self, sizes: list[float], times: list[float]) -> float:
        """How the time rises behind the last knot: on the line through the last three, or as long as there is one as
        for an engine about which nothing is known."""
        if len(sizes) == 1:
            return times[0] * UNKNOWN_SHARE / _unknown(sizes[0])
        xs, ys = sizes[-3:], times[-3:]
        weights = [self._weights[int(x)] for x in xs]
        total = sum(weights)
        x0 = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
        y0 = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
        spread = sum(w * (x - x0) ** 2 for w, x in zip(weights, xs, strict=True))
        return sum(w * (x - x0) * (y - y0) for w, x, y in zip(weights, xs, ys, strict=True)) / spread

    def _fitted(self) -> tuple[list[float], list[float]]:
        """The knots with their times, made to rise by pooling neighbours that fall."""
        if self._line is None:
            blocks: list[tuple[float, float, list[int]]] = []
            for knot in sorted(self._values):
                value, weight, knots = self._values[knot], self._weights[knot], [knot]
                while blocks and blocks[-1][0] > value:
                    v, w, k = blocks.pop()
                    value = (value * weight + v * w) / (weight + w)
                    weight, knots = weight + w, k + knots
                blocks.append((value, weight, knots))
            sizes = [float(knot) for _, _, knots in blocks for knot in knots]
            times = [value for value, _, knots in blocks for _ in knots]
            self._line = (sizes, times)
        return self._line


class TargetCost:
    """The target's seconds a token, when it streams and when it writes steps of a window.

    A step of a window has its call's overhead, waits for the steps before it, and is faster by hints: all of that is
    one factor over a stream in the same batch, learnt where both were seen at like batch sizes. Where they never were,
    what a window costs more counts as the cost of its larger batch, and the product is right all the same.
    """

    def __init__(self) -> None:
        self._curve = BatchCost()
        self._streamed = dict.fromkeys(KNOTS, 0.0)
        self._factor = Mean(0.0, 4.0, 100.0)

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return self._curve.is_known

    @property
    def num_streamed(self) -> float:
        """Steps of recent evidence about streams."""
        return sum(self._streamed.values())

    @property
    def largest_known(self) -> float:
        """As `BatchCost.largest_known`."""
        return self._curve.largest_known

    @property
    def window_factor(self) -> float:
        """The time of a token in a window over that in a stream in the same batch."""
        return math.exp(self._factor.value)

    def add_stream(self, num_sequences: float, token_s: float) -> None:
        """A streamed step took `token_s` a token."""
        self._curve.add(num_sequences, token_s)
        for knot, share in _shares(max(num_sequences, 1.0)).items():
            self._streamed[knot] = min(self._streamed[knot] + share, MEMORY)

    def evidence(self, num_sequences: float) -> float:
        """Steps of recent evidence about streams in a batch of `num_sequences`."""
        return sum(share * self._streamed[knot] for knot, share in _shares(max(num_sequences, 1.0)).items())

    def fade_streams(self) -> None:
        """A step went by that says nothing about streams."""
        for knot in self._streamed:
            self._streamed[knot] *= STREAM_KEEPS

    def add_window(self, num_sequences: float, token_s: float) -> None:
        """A step of a window took `token_s` a token, its call included."""
        evidence = self.evidence(num_sequences)
        known = evidence / (evidence + 4.0)
        if known > 0.0 and self._curve.is_known:
            ratio = math.log(token_s / self._curve.at(num_sequences))
            self._factor.add(min(max(ratio, -1.5), 1.5), known)
        self._curve.add(num_sequences, token_s / self.window_factor, 1.0 - known)
        self.fade_streams()

    def stream_s(self, num_sequences: float) -> float:
        """Seconds a token of a stream."""
        return self._curve.at(num_sequences)

    def window_s(self, num_sequences: float) -> float:
        """Seconds a token of a step in a window."""
        return self._curve.at(num_sequences) * self.window_factor


def _shares(num_sequences: float) -> dict[int, float]:
    """The knots on both sides, by nearness."""
    right = bisect_right(KNOTS, num_sequences)
    if right == len(KNOTS):
        return {KNOTS[-1]: 1.0}
    left, after = KNOTS[right - 1], KNOTS[right]
    part = (num_sequences - left) / (after - left)
    return {left: 1.0 - part, after: part} if part > 0.0 else {left: 1.0}


def _unknown(num_sequences: float) -> float:
    """The time of a pass over that of a single sequence, for an engine about which nothing is known."""
    return 1.0 + UNKNOWN_SHARE * (num_sequences - 1.0)
