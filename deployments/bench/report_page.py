"""``report.html``: the claim first, then the numbers, the pictures, and how to run it again.

Promises: one file that needs no network and no script; text from elsewhere stands in it as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

_WIDTH = 760
_LEFT = 190
_RIGHT = 70
_ROW = 46
_COLUMNS = (
    ("mode", "mode", "{}"),
    ("concurrency", "at once", "{}"),
    ("num_requests", "requests", "{}"),
    ("num_failed", "failed", "{}"),
    ("tokens_per_s", "tokens/s", "{:.1f}"),
    ("latency_p50_s", "latency p50", "{:.2f} s"),
    ("latency_p95_s", "p95", "{:.2f} s"),
    ("ttft_p50_s", "first text p50", "{:.2f} s"),
    ("accuracy", "right", "{:.0%}"),
    ("accept_rate", "accepted", "{:.0%}"),
    ("speedup_vs_target", "speed-up", "{:.2f}"),
    ("speedup_ci95", "95 % interval", ""),
    ("latency_ratio_vs_target", "latency ratio", "{:.2f}"),
)


def page(report: Mapping[str, Any]) -> str:
    """The whole page for the content of ``report.json``."""
    template = (resources.files("deployments.bench") / "report.html").read_text(encoding="utf-8")
    environment = report["environment"]
    values = {
        "claims": _claims(report),
        "table": _table(report["rows"]),
        "speedups": _speedup_plot(report["rows"], report["pairs"], report["baseline"]),
        "throughput": _throughput_plot(report["rows"], report["baseline"]),
        "definitions": _definitions(report["definitions"]),
        "command": escape(str(environment.get("command", ""))),
        "environment": escape(json.dumps(environment, indent=2, ensure_ascii=False)),
    }
    pieces = template.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        filled += [values[name], rest]
    return "".join(filled)


def _claims(report: Mapping[str, Any]) -> str:
    claims = list(report["claims"]) or ["Only one mode was measured: there is nothing to compare."]
    failed = sum(row["num_failed"] for row in report["rows"])
    if failed:
        claims.append(f"{failed} requests failed; they are counted as failed and as wrong answers.")
    if not report["complete"]:
        measured = sum(row["num_requests"] for row in report["rows"])
        claims.append(f"This run is not finished: {measured} of {report['num_requests_planned']} requests were made.")
    first, *rest = claims
    return f'<p class="claim">{escape(first)}</p>' + "".join(f"<p>{escape(text)}</p>" for text in rest)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for _, title, _ in _COLUMNS)
    body = "".join(f"<tr>{''.join(_cell(row, name, form) for name, _, form in _COLUMNS)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(row: Mapping[str, Any], name: str, form: str) -> str:
    value = row[name]
    if value is None:
        return "<td>-</td>"
    if name == "speedup_ci95":
        return f"<td>{value[0]:.2f} to {value[1]:.2f}</td>"
    return f"<td>{escape(form.format(value))}</td>"


def _speedup_plot(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]], against: str) -> str:
    """A line for each mode and concurrency: a dot a prompt, the median, its interval; the axis is logarithmic."""
    shown = [row for row in rows if row["mode"] != against and row["speedup_vs_target"]]
    if not shown:
        return "<p>No prompt was answered whole in two modes.</p>"
    ratios = [pair["speedup"] for pair in pairs]
    low, high = min([0.5, *ratios]) / 1.08, max([2.0, *ratios]) * 1.08
    scale = (_WIDTH - _LEFT - _RIGHT) / math.log(high / low)
    height = 34 + _ROW * len(shown)

    def x(value: float) -> float:
        return _LEFT + math.log(value / low) * scale

    parts = [
        _text(x(tick), 14, f"{tick:g}x", "middle", "soft") + _line(x(tick), 20, x(tick), height, tick == 1)
        for tick in (0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 16)
        if low <= tick <= high
    ]
    for number, row in enumerate(shown):
        middle = 34 + _ROW * number + _ROW / 2 - 6
        parts.append(_text(_LEFT - 12, middle + 4, f"{row['mode']}, {row['concurrency']} at once", "end", ""))
        own = [p for p in pairs if (p["mode"], p["concurrency"]) == (row["mode"], row["concurrency"])]
        parts += [_dot(x(p["speedup"]), middle + (p["index"] * 7 % 5 - 2) * 4, p) for p in own]
        if row["speedup_ci95"]:
            left, right = (x(value) for value in row["speedup_ci95"])
            parts.append(
                f'<rect class="interval" x="{left:.1f}" y="{middle - 3}" width="{right - left:.1f}" height="6"/>'
            )
        at = x(row["speedup_vs_target"])
        parts.append(f'<path class="median" d="M{at:.1f} {middle - 9}l7 9l-7 9l-7 -9z"/>')
        parts.append(_text(_WIDTH - 6, middle + 4, f"{row['speedup_vs_target']:.2f}x", "end", "strong"))
    return _svg(height, parts, "Speed-up of each mode over the target alone, a dot for each prompt")


def _throughput_plot(rows: Sequence[Mapping[str, Any]], against: str) -> str:
    most = max((row["tokens_per_s"] for row in rows), default=0.0) or 1.0
    parts = []
    for number, row in enumerate(rows):
        top = 6 + 26 * number
        wide = (_WIDTH - _LEFT - _RIGHT) * row["tokens_per_s"] / most
        kind = "base" if row["mode"] == against else "other"
        parts.append(_text(_LEFT - 12, top + 14, f"{row['mode']}, {row['concurrency']} at once", "end", ""))
        parts.append(f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{wide:.1f}" height="19" rx="3"/>')
        parts.append(_text(_LEFT + wide + 8, top + 14, f"{row['tokens_per_s']:.1f}", "start", "strong"))
    return _svg(12 + 26 * len(rows), parts, "Output tokens a second of each mode and concurrency")


def _definitions(definitions: Mapping[str, str]) -> str:
    items = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in definitions.items())
    return f"<dl>{''.join(items)}</dl>"


def _svg(height: float, parts: Iterable[str], label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, strong: bool) -> str:
    kind = "one" if strong else "grid"
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _dot(x: float, y: float, pair: Mapping[str, Any]) -> str:
    title = f"prompt {pair['index']}: {pair['speedup']:.2f}x"
    return f'<circle class="prompt" cx="{x:.1f}" cy="{y:.1f}" r="3.4"><title>{escape(title)}</title></circle>'
