"""A step trace as one HTML page that needs nothing else: no network, no other file.

Promises: text of prompts and models stands in the page as text, never as markup or script; the table of steps is there
without JavaScript, the lanes need it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from typing import Any

from deployments.pages import fill
from deployments.telemetry.timeline import LANES, Commit, Span, Trace, arrange, describe_shares, describe_verdict


def page(trace: Trace) -> str:
    """The whole page."""
    counts = [
        f"{trace.summary.get(f'num_{origin}_steps', 0)} {origin}" for origin in ("accepted", "recovered", "target")
    ]
    subtitle = f"mode {trace.mode} · {trace.duration_s:.2f} s · {len(trace.commits)} steps: {', '.join(counts)}"
    values = {
        "title": escape(f"Step trace {trace.request_id}".strip()),
        "subtitle": escape(subtitle),
        "shares": escape(describe_shares(trace) + (f" The request failed: {trace.error}" if trace.error else "")),
        "steps": "\n".join(_step_row(trace, commit) for commit in trace.commits),
        "decisions": "\n".join(
            f"<li>{d.at_s:.2f} s, depth {d.depth}: {escape(d.reason)}</li>" for d in trace.decisions
        ),
        "data": _script_safe(_drawing(trace)),
    }
    return fill("deployments.telemetry", "timeline.html", values)


def _drawing(trace: Trace) -> dict[str, Any]:
    rows = [{"lane": row.lane, "spans": [_span(span) for span in row.spans]} for row in arrange(trace)]
    return {"duration_s": trace.duration_s, "rows": rows, "commits": [asdict(commit) for commit in trace.commits]}


def _span(span: Span) -> dict[str, Any]:
    return {**asdict(span), "detail": dict(span.detail), "lane": LANES[span.kind]}


def _script_safe(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def _step_row(trace: Trace, commit: Commit) -> str:
    spans = [span for span in trace.spans if span.step == commit.step]
    colour = commit.origin if commit.origin in ("accepted", "recovered", "target") else "cancelled"
    cells = (
        f'<td class="n">{commit.step}</td>',
        f'<td class="origin"><i style="background:var(--{colour})"></i>{escape(commit.origin)}</td>',
        f'<td class="n">{commit.num_tokens}</td>',
        f'<td class="n">{_seconds(spans, "draft")}</td>',
        f'<td class="n">{_seconds(spans, "target")}</td>',
        f"<td>{escape(describe_verdict(spans))}</td>",
        f'<td class="text">{escape((commit.text or "").strip())}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"


def _seconds(spans: list[Span], lane: str) -> str:
    times = [span.elapsed_s for span in spans if LANES[span.kind] == lane and span.outcome != "cancelled"]
    return f"{times[-1]:.2f}" if times else "-"
