"""The rows of a benchmark in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = (
    ("failed", "num_failed", "d"),
    ("tok/s", "tokens_per_s", ".1f"),
    ("p50 s", "latency_p50_s", ".2f"),
    ("p95 s", "latency_p95_s", ".2f"),
    ("goodput/s", "goodput_per_s", ".3f"),
    ("right", "accuracy", ".0%"),
    ("accepted", "accept_rate", ".0%"),
    ("speed-up", "speedup_vs_target", ".2f"),
)


def show(console: Console, report: Mapping[str, Any], out: Path) -> None:
    """Print the table, the claims, and where the report is."""
    from deployments.bench.claims import load_of

    rows = report["rows"]
    columns = [column for column in _COLUMNS if any(row[column[1]] is not None for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("mode", "load", "done", *(title for title, _, _ in columns), "95 %"):
        table.add_column(name, justify="left" if name == "mode" else "right", no_wrap=name != "mode")
    for row in rows:
        interval = row["speedup_ci95"]
        cells = ["-" if row[name] is None else format(row[name], form) for _, name, form in columns]
        shown = f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else "-"
        table.add_row(row["mode"], str(load_of(row)), str(row["num_requests"]), *cells, shown)
    console.print(table)
    for text in (report["headline"], *report["notes"]):
        console.print(text, markup=False)
    console.print(f"Report: {out / 'report.html'}", markup=False, soft_wrap=True)
