"""What a simulated run gave.

Promises: rates are over the whole duration; None where nothing was finished.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """One mode. Rates are over the whole duration; None where nothing was finished."""

    mode: str
    num_requests: int
    """Finished ones."""
    num_refused: int
    """Refused at once, turned away or given up while they waited."""
    refused: dict[str, int]
    """Those of them that the server's admission refused, by its reasons."""
    num_failed: int
    num_committed_steps: int
    num_executed_steps: int
    """Steps that engines wrote to their end, kept or not."""
    num_verdicts: int
    num_lost_calls: int
    output_tokens: int
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    latency_p50_s: float | None
    latency_p95_s: float | None
    first_step_p50_s: float | None
    goodput_rps: float | None
    accept_rate: float | None
    user_tokens_per_s: float | None
    """Tokens a second of a request, median."""
    target_busy: float
    draft_busy: float
    verifier_busy: float
    """Shares of the time in which an engine of the role had work."""
    target_batch: float
    draft_batch: float
    """Mean sequences in an engine."""
    coordinator_busy: float
    """Share of the coordinators' cores that is taken; 0 where hearing costs nothing."""
    verifier_full: float
    """Share of the verifiers' places that is taken: at 1 verdicts wait."""
    calls_mb_per_s: float
    """What calls carry to engines, in 10^6 bytes."""
    wait_p95_s: float | None
    """What requests that began had waited for their turn; None without admission."""
    mean_gpus: float
    """Over the time: with autoscaling those of replicas that start or leave count, too."""
    replicas: tuple[tuple[float, dict[str, int]], ...]
    """With autoscaling: when how many replicas of each role were wanted."""
    duration_s: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def quantile(ordered: list[float], share: float) -> float | None:
    """By the nearest rank; None of nothing."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
