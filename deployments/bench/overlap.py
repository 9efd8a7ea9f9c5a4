"""Does the pipeline overlap as the formula says? From the traces of a bench run, request by request.

Promises: alpha, c and the mean target step are measured in the same request as its wall time; the formula is
`theory.async_speed_up`, which holds for endless reasoning, plus the end that it leaves out: the last step is not hidden
behind a later one, so an accepted one adds (1 - c) of a target step. What is printed is the measured wall time over the
predicted one, so 1.15 means 15 % lost.

Run: ``lookahead bench ... --traces --out DIR`` and then ``python -m deployments.bench.overlap DIR``
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.bench.record import read_requests
from deployments.coordinator.theory import async_speed_up


def main(
    folder: Annotated[Path, typer.Argument(help="The --out folder of a bench run with --traces.")],
    max_lookahead: Annotated[int, typer.Option(help="Depth of that run.")] = 4,
) -> None:
    """Print a row for each lookahead request, and the median ratio."""
    rows = [
        row(r["trace"], max_lookahead) for r in read_requests(folder) if r["mode"] == "lookahead" and r.get("trace")
    ]
    rows = [r for r in rows if r is not None]
    ratios = [r["measured_over_predicted"] for r in rows if r is not None]
    print(json.dumps({"requests": rows, "median_ratio": statistics.median(ratios)}, indent=2))


def row(trace: dict[str, Any], max_lookahead: int) -> dict[str, float] | None:
    """Measured against predicted for one trace; None where a figure is missing."""
    seconds: dict[str, list[float]] = {"draft": [], "target": []}
    for span in trace["spans"]:
        if span["kind"] in seconds and "engine_s" in span["detail"]:
            seconds[span["kind"]].append(span["detail"]["engine_s"])
    if not seconds["draft"] or not seconds["target"]:
        return None
    target_s = statistics.mean(seconds["target"])
    c = statistics.mean(seconds["draft"]) / target_s
    summary = trace["summary"]
    speed_up = async_speed_up(summary["accept_rate"], c, max_lookahead + 1)
    predicted = summary["num_steps"] * target_s / speed_up + summary["accept_rate"] * max(1 - c, 0.0) * target_s
    return {
        "num_steps": summary["num_steps"],
        "alpha": summary["accept_rate"],
        "c": c,
        "formula_speed_up": speed_up,
        "predicted_s": predicted,
        "measured_s": trace["duration_s"],
        "measured_over_predicted": trace["duration_s"] / predicted,
    }


if __name__ == "__main__":
    typer.run(main)
