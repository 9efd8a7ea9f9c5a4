"""Where the time of one request went, and how far ahead its drafts were right: from its step trace.

Promises: each instant of the request counts once, so the seconds add up to what the client waited; pure functions of
the trace and that time.

An instant belongs to the first of these that fits: draft and target both write; the target writes; the draft writes; a
verdict is made; a call to a role is under way but its engine has not begun (it waits: in a queue, on the road); nothing
of ours runs. A call of t seconds whose engine took e counts as waiting for its first t - e seconds: the trace says how
long the engine took, and not when. Waiting in the engine's own queue is the engine's time.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from deployments.telemetry.timeline import LANES, Span, Trace

PARTS: Mapping[str, str] = {
    "both": "draft and target write",
    "target": "target writes alone",
    "draft": "draft writes alone",
    "verdict": "only a verdict is made",
    "waiting": "waiting for a role",
    "overhead": "overhead: nobody works",
}
"""The parts, in the order in which an instant is given to one, and what to call them."""


def time_use(trace: Trace, latency_s: float) -> dict[str, float]:
    """Seconds by part. `latency_s` is what the client saw; what the trace does not cover of it is overhead."""
    seconds = dict.fromkeys(PARTS, 0.0)
    edges: list[tuple[float, int, str]] = []
    for span in trace.spans:
        begins = _engine_begins(span)
        for start, end, kind in ((span.start_s, begins, "waiting"), (begins, span.end_s, LANES[span.kind])):
            if end > start:
                edges += [(start, 1, kind), (end, -1, kind)]
    edges.sort()
    running = dict.fromkeys(("waiting", *LANES.values()), 0)
    for (at, change, kind), (until, _, _) in pairwise([*edges, (edges[-1][0], 0, "")] if edges else []):
        running[kind] += change
        if part := _part(running):
            seconds[part] += until - at
    seconds["overhead"] = max(0.0, latency_s - sum(seconds.values()))
    return seconds


def _engine_begins(span: Span) -> float:
    engine_s = span.detail.get("engine_s")
    return span.start_s if engine_s is None else max(span.start_s, span.end_s - float(engine_s))


def _part(running: Mapping[str, int]) -> str | None:
    if running["draft"] and running["target"]:
        return "both"
    for lane, part in (("target", "target"), ("draft", "draft"), ("verifier", "verdict"), ("waiting", "waiting")):
        if running[lane]:
            return part
    return None


def acceptance_by_position(trace: Trace) -> list[list[int]]:
    """(accepted, rejected) draft steps: first those that followed right on what was committed when their drafting
    began, then those that followed one step that was itself still undecided, and so on."""
    committed_at = {commit.step: commit.at_s for commit in trace.commits}
    found: list[list[int]] = []
    for span in trace.spans:
        if span.kind != "draft" or span.step is None or span.outcome not in ("accepted", "rejected"):
            continue
        place = sum(committed_at.get(step, 0.0) > span.start_s for step in range(span.step))
        found += [[0, 0] for _ in range(place + 1 - len(found))]
        found[place][span.outcome == "rejected"] += 1
    return found
