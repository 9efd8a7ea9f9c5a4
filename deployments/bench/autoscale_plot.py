"""One picture of a run of `deployments.bench.autoscale`: load, replicas, nodes and latency over the same time.

Promises: a file that needs nothing else; light and dark are its own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from deployments.bench.autoscale_load import phases_of
from deployments.bench.figures import quantile
from deployments.bench.svg import EDGE, WIDTH, Drawing, Scale, linear, ticks

PANEL = 92.0
GAP = 34.0
LEFT = 34.0
WINDOW_S = 15.0
"""Latency is of the requests that came in so long."""
STYLE = (
    "svg{background:#fff;font:9px sans-serif}text{fill:#333}.head{font-weight:bold}.grid{stroke:#ddd}"
    "polyline{fill:none;stroke-width:1.6}.a{stroke:#0b62c4}.b{stroke:#c4540b}.c{stroke:#888;stroke-dasharray:3 3}"
    ".at{fill:#0b62c4}.bt{fill:#c4540b}.ct{fill:#777}"
    "@media(prefers-color-scheme:dark){svg{background:#16181c}text{fill:#ddd}.grid{stroke:#333}.a{stroke:#6fb1ff}"
    ".b{stroke:#ffa163}.at{fill:#6fb1ff}.bt{fill:#ffa163}}"
)
Line = tuple[str, str, list[tuple[float, float]]]
"""Its name, its class, its points in seconds and values."""


def plot(record: dict[str, Any]) -> str:
    """The SVG file."""
    samples, requests = record["samples"], record["requests"]
    end = samples[-1]["at_s"]

    def counts(kind: str, role: str) -> list[tuple[float, float]]:
        return _stairs([(s["at_s"], s[kind][role]) for s in samples])

    load: list[tuple[float, float]] = []
    begin = 0.0
    for phase in phases_of(record["phases"]):
        load += [(begin, phase.rate), (begin + phase.seconds, phase.rate)]
        begin += phase.seconds
    load += [(begin, 0.0), (end, 0.0)]
    flight = [(s["at_s"], sum(r["start_s"] <= s["at_s"] < r["end_s"] for r in requests)) for s in samples]
    objective = [(0.0, record["objective_s"]), (end, record["objective_s"])]
    panels: list[tuple[str, list[Line]]] = [
        ("Requests a second", [("sent", "a", load)]),
        ("Requests in flight", [("in flight", "a", [(at, float(n)) for at, n in flight])]),
        (
            "Replicas that are ready",
            [(role, kind, counts("ready", role)) for role, kind in (("target", "a"), ("draft", "b"))],
        ),
        ("Nodes", [(role, kind, counts("nodes", role)) for role, kind in (("target", "a"), ("draft", "b"))]),
        (
            "Latency of requests by when they came, s",
            [
                ("p50", "a", _latency(requests, end, 0.5)),
                ("p95", "b", _latency(requests, end, 0.95)),
                ("objective", "c", objective),
            ],
        ),
    ]
    drawing = Drawing("Load, replicas, nodes and latency over time", len(panels) * (PANEL + GAP) + 16)
    to_x = linear(0.0, end, LEFT, WIDTH - EDGE)
    for number, (title, lines) in enumerate(panels):
        _panel(drawing, number * (PANEL + GAP) + 20, title, lines, to_x)
    for at in ticks(end, 6):
        if at <= end:
            drawing.text(to_x(at), drawing.height - 10, f"{at:g} s", anchor="middle")
    return (
        drawing.render()
        .replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        .replace(">", f"><style>{STYLE}</style>", 1)
    )


def _panel(drawing: Drawing, top: float, title: str, lines: list[Line], to_x: Scale) -> None:
    marks = ticks(max(value for _, _, points in lines for _, value in points), 3)
    to_y = linear(0.0, marks[-1], top + PANEL, top)
    drawing.text(LEFT, top - 6, title, "head")
    for mark in marks:
        drawing.line(LEFT, to_y(mark), WIDTH - EDGE, to_y(mark), "grid")
        drawing.text(LEFT - 4, to_y(mark) + 3, f"{mark:g}", anchor="end")
    for place, (name, kind, points) in enumerate(lines):
        drawing.lines([(to_x(at), to_y(value)) for at, value in points], kind)
        if len(lines) > 1:
            drawing.text(WIDTH - EDGE - 60 * (len(lines) - 1 - place), top - 6, name, f"{kind}t", "end")


def _stairs(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Numbers change at once, not on the way to the next sample."""
    steps = points[:1]
    for (_, before), (at, value) in pairwise(points):
        steps += [(at, before), (at, value)] if value != before else []
    return [*steps, points[-1]]


def _latency(requests: list[dict[str, Any]], end: float, share: float) -> list[tuple[float, float]]:
    points = []
    for number in range(int(end / WINDOW_S) + 1):
        since = number * WINDOW_S
        seen = [r["end_s"] - r["start_s"] for r in requests if since <= r["start_s"] < since + WINDOW_S]
        value = quantile(seen, share)
        if value is not None:
            points.append((since + WINDOW_S / 2, value))
    return points
