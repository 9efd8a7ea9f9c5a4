"""The report of a benchmark: ``report.json`` for programs, ``report.html`` for people.

Promises: all of it follows from the measured requests, the plan and the environment; the same requests give the same
report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.errors import RequestError
from deployments.bench.claims import claim, headline, notes
from deployments.bench.equal_hardware import method_of
from deployments.bench.plan import Plan
from deployments.bench.record import Measurement
from deployments.bench.report_page import page
from deployments.bench.rows import DEFINITIONS, Objective, over_vllm, pairs, rows
from deployments.bench.runner import count_left
from deployments.bench.variants import baseline, takes_salt


def build(
    plan: Plan,
    lines: Sequence[Measurement],
    environment: Mapping[str, Any],
    token_speculation: str | None,
    objective: Objective | None = None,
) -> dict[str, Any]:
    """The content of ``report.json``. `token_speculation` is how the deployment's target speculates on tokens."""
    objective = objective or Objective()
    own = {mode: method_of(server["options"]) for mode, server in environment.get("own", {}).items()}
    table = rows(lines, plan, token_speculation, objective, own)
    against, beside_vllm = baseline(plan.modes), over_vllm(lines, plan)
    num_left = count_left(plan, lines, retry_failed=False)
    return {
        "headline": headline(table, against),
        "claims": [
            *(claim(row, against) for row in table if row["mode"] != against),
            *(claim(row, row["against"]) for row in beside_vllm),
        ],
        "notes": [*notes(table), *_apart(environment.get("apart", ())), *_read_before(plan)],
        "baseline": against,
        "objective": asdict(objective) if objective.is_given else None,
        "complete": not num_left,
        "num_requests_planned": plan.num_requests,
        "num_requests_left": num_left,
        "definitions": dict(DEFINITIONS),
        "environment": dict(environment),
        "rows": table,
        "over_vllm": beside_vllm,
        "pairs": pairs(lines, plan, against),
    }


def _apart(modes: Sequence[str]) -> list[str]:
    if not modes:
        return []
    return [
        f"{', '.join(modes)}: asked after the other rows had ended, on the GPUs that they had, so not in turn with "
        "them: a machine that drifts hits one more than the other."
    ]


def _read_before(plan: Plan) -> list[str]:
    """The rows whose prompts may be in their server's cache from the second load on."""
    modes = [mode for mode in plan.modes if not takes_salt(mode)] if len(plan.loads) > 1 else []
    if not modes:
        return []
    return [
        f"{', '.join(modes)}: from the second load on it may have found prompts in its server's cache that it had read "
        "under an earlier one; the other rows read theirs anew. Compare it under the first load."
    ]


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.html``."""
    try:
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / "report.json").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"The report cannot be written to {folder}: {error.strerror}.", "out") from error
