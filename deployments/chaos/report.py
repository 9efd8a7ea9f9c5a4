"""Which promises a chaos run kept, from what was seen. Pure.

Promises: a promise that could not be checked is broken; every failed stream is listed with its request id and the
faults of the seconds before its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.chaos.streams import StreamEnd

BEFORE_S = 15.0
"""Faults of so many seconds before a stream's failure are shown with it."""

PROMISES: Mapping[str, str] = {
    "streams": "every stream ended with exactly the expected text",
    "texts": "no text was lost, duplicated or reordered inside what was sent",
    "ready": "every role was back after the faults",
    "engines": "no engine generates and no request is in flight afterwards",
    "ray": "no replica, actor, placement group or task is left after the application's deletion",
    "processes": "no process of a replica is left after shutdown",
}


def build_report(
    settings: Mapping[str, Any],
    ends: Sequence[StreamEnd],
    events: Sequence[Mapping[str, Any]],
    aftermath: Mapping[str, Any],
    num_wanted: int,
) -> dict[str, Any]:
    """The report; `aftermath` holds what `leftovers` found."""
    struck = [event for event in events if event["event"] == "fault"]
    bad = [end for end in ends if end.problem is not None]
    wrong = [end for end in bad if end.is_wrong_text]
    work, ray_left, processes = (aftermath.get(name) for name in ("work", "ray", "processes"))
    kept = {
        "streams": len(ends) >= num_wanted and not bad,
        "texts": bool(ends) and not wrong,
        "ready": aftermath.get("ready_after_s") is not None,
        "engines": work is not None and work["left"] == 0,
        "ray": ray_left is not None and not any(ray_left.values()),
        "processes": processes == [],
    }
    return {
        "kept": all(kept.values()),
        "promises": {name: {"kept": kept[name], "what": what} for name, what in PROMISES.items()},
        "settings": dict(settings),
        "num_streams": len(ends),
        "num_failed": len(bad),
        "num_wrong_texts": len(wrong),
        "streams_by_kind": _by_kind(ends),
        "num_faults": len(struck),
        "faults": {role: dict(sorted(counts.items())) for role, counts in sorted(_faults(struck).items())},
        "num_nobody_to_strike": sum(event["event"] == "nobody to strike" for event in events),
        "duration_s": _spread([end.ended_at - end.started_at for end in ends]),
        "longest_silence_s": _spread([end.longest_silence_s for end in ends]),
        "degraded": dict(Counter(reason for end in ends for reason in end.degraded)),
        "aftermath": dict(aftermath),
        "failures": [_failure(end, struck) for end in bad],
    }


def _by_kind(ends: Sequence[StreamEnd]) -> dict[str, dict[str, int]]:
    kinds = sorted({end.kind for end in ends})
    return {
        kind: {
            "num_streams": sum(end.kind == kind for end in ends),
            "num_failed": sum(end.kind == kind and end.problem is not None for end in ends),
        }
        for kind in kinds
    }


def _faults(struck: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for event in struck:
        found.setdefault(event["role"], Counter())[event["kind"]] += 1
    return found


def _failure(end: StreamEnd, struck: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    near = [
        f"{event['role']} {event['kind']} {end.ended_at - event['at']:.1f} s before"
        for event in struck
        if max(end.started_at, end.ended_at - BEFORE_S) <= event["at"] <= end.ended_at
    ]
    return {
        "request_id": end.request_id,
        "kind": end.kind,
        "problem": end.problem,
        "after_s": round(end.ended_at - end.started_at, 2),
        "num_characters": end.num_characters,
        "faults_before": near,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {f"p{p}": round(ordered[int(p / 100 * (len(ordered) - 1))], 3) for p in (50, 99)} | {
        "max": round(ordered[-1], 3)
    }
