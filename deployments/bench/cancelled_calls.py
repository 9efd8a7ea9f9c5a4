"""How long engines went on after a call was cancelled, from their own logs. Pure.

Promises: an engine's log says when each generation began and ended and when it handed out each token; what counts
is the last moment at which any engine still worked for a request, whoever was told to stop and in whichever way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a scripted engine. Times are seconds of the wall clock."""

    role: str
    prompt: str
    began_at: float
    ended_at: float
    is_whole: bool
    text: str = ""
    token_times: tuple[float, ...] = ()

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Generation:
        """From a line of `actors.engines.scripted`'s log."""
        names = ("role", "prompt", "began_at", "ended_at", "is_whole", "text")
        return cls(**{name: entry[name] for name in names}, token_times=tuple(entry["token_times"]))


def overrun_s(generations: Sequence[Generation], stopped_at: float) -> float | None:
    """Seconds from `stopped_at` until the last of a request's generations had ended; None if none ran by then."""
    after = [g.ended_at - stopped_at for g in generations if g.ended_at > stopped_at]
    return max(after, default=None)


def overrun_tokens(generations: Sequence[Generation], stopped_at: float) -> int:
    """Tokens that were handed out after `stopped_at`."""
    return sum(at > stopped_at for g in generations for at in g.token_times)


def written_at(generation: Generation, mark: str, tokens: Sequence[str]) -> float | None:
    """When the last token of `mark` was handed out, where `tokens` are the texts of the generation's tokens."""
    text = ""
    for piece, at in zip(tokens, generation.token_times, strict=False):
        text += piece
        if mark in text:
            return at
    return None


def rejected_overruns_s(generations: Sequence[Generation], trace: Mapping[str, Any]) -> list[float]:
    """Of each generation that was cut off before the request's end: seconds since the coordinator gave it up.

    The trace does not name generations: each is held to have been given up at the last moment, while it ran, at which
    the coordinator cancelled a call of its role.
    """
    zero, over = float(trace["started_at"]), float(trace["started_at"]) + float(trace["duration_s"])
    given_up = [
        (span["kind"], zero + span["end_s"])
        for span in trace["spans"]
        if span["detail"].get("reason") is not None and span["kind"] in ("target", "draft")
    ]
    found = []
    for generation in generations:
        if generation.is_whole or generation.ended_at > over:
            continue
        times = [
            at for kind, at in given_up if kind == generation.role and generation.began_at <= at <= generation.ended_at
        ]
        if times:
            found.append(generation.ended_at - max(times))
    return found


def percentiles_ms(values_s: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the longest, in milliseconds; empty for no values."""
    if not values_s:
        return {}
    ordered = sorted(values_s)
    at = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {name: round(1000 * ordered[int(share * (len(ordered) - 1))], 1) for name, share in at.items()}
