"""Serve's custom autoscaling policy of one deployment: reads its context and asks the application's board.

Promises: nothing of Serve's own counts of calls goes into a decision; what a replica has not renewed for `STALE_S`
counts no more. Serve pickles this module by value, so state is in `deployments.autoscaling.board`, which it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingContext

from deployments.autoscaling.board import board
from deployments.autoscaling.policy import Reading

STALE_S = 30.0


class RolePolicy:
    """One role's part of the decision of all."""

    def __init__(self, role: str, rules: Mapping[str, Any]) -> None:
        self._role = role
        self._rules = rules

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas, and no state: the board has it."""
        now_s = context.current_time or 0.0
        reading = Reading(context.target_num_replicas, context.current_num_replicas, stats_of(context, now_s))
        return board(context.app_name or "", self._rules).ask(self._role, reading, now_s), {}


def stats_of(context: AutoscalingContext, now_s: float) -> dict[str, float]:
    """What the running replicas reported last, summed."""
    sums: dict[str, float] = {}
    for name, replicas in (context.raw_metrics or {}).items():
        last = [points[-1] for points in replicas.values() if points]
        sums[name] = sum(point.value for point in last if now_s - point.timestamp < STALE_S)
    return sums
