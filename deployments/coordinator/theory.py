"""The speed-up that asynchronous lookahead can reach. Pure.

Source: Lookahead Reasoning, arXiv 2506.19830: the asynchronous case with and without enough target steps in flight.
"""

from __future__ import annotations

import math


def async_speed_up(alpha: float, c: float, k: int) -> float:
    """Steps committed in the time of one target step.

    `alpha` is the acceptance rate of draft steps (0..1), `c` the time of a draft step over that of a target step
    (above 0), `k` how many target steps may be in flight (1 or more). ValueError outside of that.
    """
    if not 0.0 <= alpha <= 1.0 or c <= 0.0 or k < 1:
        raise ValueError(f"no speed-up is defined for alpha={alpha}, c={c}, k={k}")
    if k >= math.ceil(1.0 / c):
        return 1.0 / (c + (1.0 - c) * (1.0 - alpha))
    if alpha == 1.0:
        return float(k)
    lost = c * (alpha - alpha ** (k + 1) - k * (1.0 - alpha) * alpha**k)
    return (1.0 - alpha**k) / ((1.0 - alpha) + lost)
