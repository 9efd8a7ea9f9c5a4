"""The rows of a benchmark in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = (
    ("tok/s", "tokens_per_s", ".1f"),
    ("p50 s", "latency_p50_s", ".2f"),
    ("good/s", "goodput_per_s", ".2f"),
    ("right", "accuracy", ".0%"),
    ("acc.", "accept_rate", ".0%"),
)


def show(console: Console, report: Mapping[str, Any], out: Path) -> None:
    """Print the table, the claims, and where the report is."""
    from deployments.bench.claims import load_of

    rows = report["rows"]
    columns = [column for column in _COLUMNS if any(row[column[1]] is not None for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("mode", "load", "failed", *(title for title, _, _ in columns), "speed-up (95 %)"):
        is_mode = name == "mode"
        table.add_column(
            name, justify="left" if is_mode else "right", no_wrap=not is_mode, min_width=12 if is_mode else None,
            overflow="fold" if is_mode else "ellipsis",
        )  # fmt: skip
    for row in rows:
        cells = ["-" if row[name] is None else format(row[name], form) for _, name, form in columns]
        failed = f"{row['num_failed']}/{row['num_requests']}"
        table.add_row(row["mode"], str(load_of(row)), failed, *cells, _speed_up(row))
    console.print(table)
    for text in (report["headline"], *report["notes"]):
        console.print(text, markup=False)
    console.print(f"Report: {out / 'report.html'}", markup=False, soft_wrap=True)


def _speed_up(row: Mapping[str, Any]) -> str:
    if row["speedup_vs_target"] is None:
        return "-"
    interval = row["speedup_ci95"]
    return f"{row['speedup_vs_target']:.2f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")
