"""The report of a benchmark: ``report.json`` for programs, and the claim that its numbers support.

Promises: the claim follows from the rows alone; a difference whose interval holds 1 is not called a gain, and a loss is
called a loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.errors import RequestError
from deployments.bench.figures import DEFINITIONS, pairs, rows
from deployments.bench.plan import Plan
from deployments.bench.record import Measurement
from deployments.bench.report_page import page
from deployments.bench.variants import baseline


def build(
    plan: Plan, lines: Sequence[Measurement], environment: Mapping[str, Any], token_speculation: str | None
) -> dict[str, Any]:
    """The content of ``report.json``."""
    table = rows(lines, plan.modes, plan.seed, token_speculation)
    against = baseline(plan.modes)
    measured = sum(row["num_requests"] for row in table)
    return {
        "baseline": against,
        "claims": [claim(row, table, against) for row in table if row["mode"] != against],
        "complete": measured == plan.num_requests,
        "num_requests_planned": plan.num_requests,
        "definitions": dict(DEFINITIONS),
        "environment": dict(environment),
        "rows": table,
        "pairs": pairs(lines, against),
    }


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.html``."""
    try:
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / "report.json").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"The report cannot be written to {folder}: {error.strerror}.", "out") from error


def claim(row: Mapping[str, Any], table: Sequence[Mapping[str, Any]], against: str) -> str:
    """One sentence on what a row shows against the variant `against` at the same concurrency."""
    where = f"{row['mode']} at concurrency {row['concurrency']}"
    speedup, interval = row["speedup_vs_target"], row["speedup_ci95"]
    if speedup is None:
        return f"{where}: nothing to compare with, no prompt was answered both by it and by {against}."
    if interval is None:
        return f"{where}: {speedup:.2f} times the target's speed, of only {row['num_pairs']} prompts: an anecdote."
    low, high = interval
    spread = f"95 % interval {low:.2f} to {high:.2f}, {row['num_pairs']} prompts"
    if low > 1:
        text = f"{where} is {speedup:.2f} times as fast as the target alone ({spread})"
    elif high < 1:
        text = f"{where} is slower than the target alone: {speedup:.2f} times its speed ({spread})"
    else:
        text = f"{where}: no difference in speed from the target alone is shown, {speedup:.2f} times ({spread})"
    return text + _accuracy_clause(row, table, against) + "."


def _accuracy_clause(row: Mapping[str, Any], table: Sequence[Mapping[str, Any]], against: str) -> str:
    base = [r for r in table if r["mode"] == against and r["concurrency"] == row["concurrency"]]
    if not base or row["accuracy"] is None or base[0]["accuracy"] is None:
        return ""
    return f"; {row['accuracy']:.0%} of answers right against {base[0]['accuracy']:.0%}"
