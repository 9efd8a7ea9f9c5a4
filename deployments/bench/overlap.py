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
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.errors import LookaheadError, RequestError
from deployments.bench.folder import read_plan
from deployments.bench.record import read_requests
from deployments.bench.variants import asked
from deployments.coordinator.theory import async_speed_up


def main(
    folder: Annotated[Path, typer.Argument(help="The --out folder of a bench run with --traces.")],
    max_lookahead: Annotated[int, typer.Option(help="Depth of that run, for rows that asked for none.")] = 4,
) -> None:
    """Print what was found of each request in mode lookahead, by row, and the median ratio of each row."""
    try:
        found = rows(folder, max_lookahead)
    except LookaheadError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    medians = {
        variant: statistics.median(one["measured_over_predicted"] for one in asked) for variant, asked in found.items()
    }
    print(json.dumps({"requests": found, "median_ratio": medians}, indent=2))


def rows(folder: Path, max_lookahead: int) -> dict[str, list[dict[str, float]]]:
    """Measured against predicted for each request of the rows of mode lookahead; RequestError if there is none."""
    try:
        plan, lines = read_plan(folder), read_requests(folder)
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"The run {folder} cannot be read: {error}.", "folder") from error
    found: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    for line in lines:
        wished = asked(line["mode"], plan)
        if line["trace"] is None or wished.get("mode") != "lookahead":
            continue
        compared = row(line["trace"], wished.get("max_lookahead", max_lookahead))
        if compared is not None:
            found[line["mode"]].append(compared)
    if not found:
        raise RequestError(
            f"{folder} holds no request in which draft and target wrote steps: it needs a row of mode lookahead in "
            "windows (with controller=off it is sure to be), and --traces.",
            "folder",
        )
    return dict(found)


def row(trace: dict[str, Any], max_lookahead: int) -> dict[str, float] | None:
    """Measured against predicted for one trace; None where a figure is missing."""
    seconds: dict[str, list[float]] = {"draft": [], "target": []}
    for span in trace["spans"]:
        if span["kind"] in seconds and "engine_s" in span["detail"]:
            seconds[span["kind"]].append(span["detail"]["engine_s"])
    summary = trace["summary"]
    if not seconds["draft"] or not seconds["target"] or summary is None:
        return None
    target_s = statistics.mean(seconds["target"])
    c = statistics.mean(seconds["draft"]) / target_s
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
