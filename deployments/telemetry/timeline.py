"""A step trace as a picture of time: who wrote what when, what became of it, and where the time went.

Promises: `read_trace` accepts what ``GET /v1/traces/{id}`` answers and says which field is wrong; everything else is a
pure function of the trace. Times are seconds since the start of the request. `timeline_text` draws it in a terminal,
`timeline_page` on a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.errors import RequestError

LANES: Mapping[str, str] = {"draft": "draft", "target": "target", "answer": "target", "verdict": "verifier"}
"""Which lane a kind of span is drawn in."""

UNDECIDED = "undecided"
"""Outcome of a span whose request is still running."""

_EPSILON_S = 1e-6


@dataclass(frozen=True, slots=True)
class Span:
    """One call to a role: a step drafted or written, or a verdict."""

    kind: str
    position: int
    """Serial of the position; below 0 for the answer, which is no step."""
    start_s: float
    end_s: float
    outcome: str
    step: int | None = None
    replica: str = ""
    num_tokens: int = 0
    num_cached_tokens: int = 0
    text: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Commit:
    """One step of the answer."""

    step: int
    at_s: float
    origin: str
    num_tokens: int = 0
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """From `at_s` on the draft looks `depth` steps ahead (0: not at all), and why."""

    at_s: float
    depth: int
    reason: str


@dataclass(frozen=True, slots=True)
class Trace:
    """All that was recorded of one request."""

    request_id: str
    mode: str
    duration_s: float
    spans: tuple[Span, ...]
    commits: tuple[Commit, ...]
    summary: Mapping[str, Any]
    error: str | None = None
    """Why the request failed, in words."""
    decisions: tuple[Decision, ...] = ()
    is_cut: bool = False
    """Whether the server kept only the beginning of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """Spans of one lane that do not overlap, by start."""

    lane: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the wall time, 0 to 1: draft ran, target ran, both at once, only the verifier, none of them."""

    draft: float
    target: float
    both: float
    verifier_alone: float
    nobody: float


def read_trace(data: Any) -> Trace:
    """The trace in a decoded JSON document; RequestError says what is missing or of the wrong kind."""
    if not isinstance(data, dict) or "spans" not in data:
        raise RequestError("This is not a step trace: it has no 'spans'.", "trace")
    try:
        spans = tuple(_read_span(item) for item in data["spans"])
        commits = tuple(
            Commit(int(c["step"]), float(c["at_s"]), str(c["origin"]), int(c.get("num_tokens") or 0), c.get("text"))
            for c in data.get("commits", [])
        )
        decisions = tuple(
            Decision(float(d["at_s"]), int(d["depth"]), str(d.get("reason") or "")) for d in data.get("decisions", [])
        )
        ends = [span.end_s for span in spans] + [commit.at_s for commit in commits]
        duration = max([float(data.get("duration_s") or 0.0), *ends])
    except KeyError as error:
        raise RequestError(f"This is not a whole step trace: {error} is missing.", "trace") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"This is not a step trace: {error}.", "trace") from error
    name, mode = str(data.get("request_id", "")), str(data.get("mode", ""))
    summary, is_cut = data.get("summary") or {}, bool(data.get("cut"))
    return Trace(name, mode, duration, spans, commits, summary, data.get("error"), decisions, is_cut)


def _read_span(item: Mapping[str, Any]) -> Span:
    kind = str(item["kind"])
    if kind not in LANES:
        raise ValueError(f"{kind!r} is not a kind of span")
    start = float(item["start_s"])
    end = item.get("end_s")
    return Span(
        kind=kind,
        position=int(item["position"]),
        start_s=start,
        end_s=max(start, start if end is None else float(end)),
        outcome=str(item.get("outcome") or UNDECIDED),
        step=item.get("step"),
        replica=str(item.get("replica") or ""),
        num_tokens=int(item.get("num_tokens") or 0),
        num_cached_tokens=int(item.get("num_cached_tokens") or 0),
        text=item.get("text"),
        detail=item.get("detail") or {},
    )


def arrange(trace: Trace) -> list[Row]:
    """The spans in rows: draft, target, verifier; a lane has as many rows as it had calls at once."""
    rows: list[Row] = []
    for lane in dict.fromkeys(LANES.values()):
        packed: list[list[Span]] = []
        for span in sorted((s for s in trace.spans if LANES[s.kind] == lane), key=lambda s: (s.start_s, s.position)):
            free = (row for row in packed if row[-1].end_s <= span.start_s + _EPSILON_S)
            row = next(free, None)
            if row is None:
                packed.append([span])
            else:
                row.append(span)
        rows.extend(Row(lane, tuple(row)) for row in packed)
    return rows


def shares(trace: Trace) -> Shares:
    """Where the wall time went. The five do not add up to one: `both` is part of `draft` and of `target`."""
    busy = {
        lane: _merge((s.start_s, s.end_s) for s in trace.spans if LANES[s.kind] == lane) for lane in set(LANES.values())
    }
    draft, target = _length(busy["draft"]), _length(busy["target"])
    writers = _length(_merge([*busy["draft"], *busy["target"]]))
    anybody = _length(_merge([*busy["draft"], *busy["target"], *busy["verifier"]]))
    whole = trace.duration_s or 1.0
    both = draft + target - writers
    nobody = max(0.0, trace.duration_s - anybody)
    parts = (draft, target, both, anybody - writers, nobody)
    return Shares(*(min(1.0, max(0.0, part / whole)) for part in parts))


def _merge(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _length(intervals: Iterable[tuple[float, float]]) -> float:
    return sum(end - start for start, end in intervals)


def describe_shares(trace: Trace) -> str:
    """Where the time went, as one sentence."""
    part = shares(trace)
    text = f"Of {trace.duration_s:.2f} s: draft ran {part.draft:.0%}, target ran {part.target:.0%}"
    text += f", both at once {part.both:.0%}"
    if part.verifier_alone >= 0.005:
        text += f", only the verifier {part.verifier_alone:.0%}"
    text += f", nobody {part.nobody:.0%}."
    return text + (" The trace was cut where it was full: what came later is missing." if trace.is_cut else "")


def describe_verdict(spans: Iterable[Span]) -> str:
    """The verdict among the spans of a step, in a few words; empty if there was nothing to judge."""
    found = list(spans)
    verdicts = [span.detail for span in found if span.kind == "verdict"]
    if not verdicts:
        return "equal" if any(span.kind == "draft" and span.outcome == "accepted" for span in found) else ""
    detail = verdicts[-1]
    score = detail.get("score")
    shown = "" if score is None else f"{float(score):.2f} "
    return shown + str(detail.get("reason") or detail.get("verifier") or detail.get("error") or "")
