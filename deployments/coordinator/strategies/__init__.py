"""Strategies: which work to start, given the window. Pure.

A strategy is one file with one class and one line in `STRATEGIES`. It never accepts, rejects or commits: that is the
session's, the same for all.
"""

from __future__ import annotations

from deployments.coordinator.strategies.base import Strategy, WindowView, Wishes
from deployments.coordinator.strategies.lookahead import Lookahead
from deployments.coordinator.strategies.lookahead_sync import LookaheadSync
from deployments.coordinator.strategies.specreason import SpecReason
from deployments.coordinator.strategies.target import TargetOnly

STRATEGIES: dict[str, type[Strategy]] = {
    "target": TargetOnly,
    "lookahead": Lookahead,
    "lookahead_sync": LookaheadSync,
    "specreason": SpecReason,
}

__all__ = ["STRATEGIES", "Strategy", "WindowView", "Wishes"]
