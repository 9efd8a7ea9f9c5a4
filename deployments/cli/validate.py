"""``lookahead simulate --validate``: a recorded benchmark beside what the simulator says of it.

Promises: modes without a trace are named, not left out in silence; the words say what was taken from the run and what
was predicted, and where run, configuration and costs do not belong together; all files that are missing are named, and
before anything takes time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from actors.errors import RequestError
from deployments.cli.terminal import progress_on

if TYPE_CHECKING:
    from deployments.simulation.validation import ValidationRow

COLUMNS = (
    "mode",
    "prompts",
    "tokens/s: measured",
    "predicted",
    "latency p50: measured",
    "predicted",
    "off",
    "speed-up: measured",
    "predicted",
    "off",
)

SHORT = ("mode", "tok/s", "pred.", "p50", "pred.", "off", "speed-up", "pred.", "off")
"""Those that a terminal has room for; all are on the page."""

PAIRED = ("paired by prompt", "latency", "95 %", "speed-up", "95 %", "within 10 %", "off beyond chance")


def validate(
    console: Console, folder: Path, costs: Path | None, profile: str | None, config: str | None, anchored: bool
) -> tuple[dict[str, Any], str]:
    """The result for programs, and the page. RequestError where the run or its costs cannot be used."""
    from deployments.config import load_config, load_profile
    from deployments.simulation.cost_file import read_costs
    from deployments.simulation.cutting import cut_as_served, cut_at_words
    from deployments.simulation.page import page
    from deployments.simulation.page import table as html_table
    from deployments.simulation.strangers import strangers
    from deployments.simulation.validation import compare, predict, read_run

    if costs is None:
        raise RequestError("--validate needs --costs, a file of `lookahead calibrate --engine`.", "costs")
    if missing := [str(path) for path in (folder, costs) if not path.exists()]:
        raise RequestError(
            f"There is no {' and no '.join(missing)}: --validate takes a folder of `lookahead bench --traces`, and "
            "--costs a file of `lookahead calibrate --engine`."
        )
    served = load_config(config) if config is not None else load_profile("local" if profile is None else profile)
    timed, (plan, lines) = read_costs(costs), read_run(folder)
    with progress_on(console) as progress:
        task = progress.add_task("answers", total=1.0)
        tell = lambda part: progress.update(task, completed=part)  # noqa: E731
        cut = cut_as_served(served)
        answers, against = predict(served, timed, folder, anchored=anchored, cut=cut or cut_at_words, tell=tell)
    rows = compare(answers, against, int(plan.get("seed") or 0))
    shown, paired = [cells(row) for row in rows], [paired_cells(row) for row in rows]
    _print(console, SHORT, [[cell[0], *cell[2:]] for cell in shown])
    console.print()
    _print(console, PAIRED, paired)
    others = [mode for mode in plan["modes"] if mode not in {row.mode for row in rows}]
    words = conclusion(rows, against, others, anchored, served.target.model if cut is None else None)
    words += strangers(served, timed, plan, lines)
    if timed.unsteady:
        words.append(timed.unsteady)
    for sentence in words:
        console.print(sentence, markup=False, soft_wrap=True)
    result = {"against": against, "anchored": anchored, "rows": [row.as_dict() for row in rows], "conclusion": words}
    tables = [("Measured and predicted", html_table(COLUMNS, shown)), ("Prompt by prompt", html_table(PAIRED, paired))]
    return result, page("lookahead simulate --validate", words, tables)


def _print(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def paired_cells(row: ValidationRow) -> list[str]:
    """What it is off, prompt by prompt, and both verdicts, as words."""
    return [
        row.mode,
        _off(row.latency_ratio),
        _interval(row.latency_ratio_ci95),
        _off(row.speed_up_ratio),
        _interval(row.speed_up_ratio_ci95),
        "yes" if row.holds else "no",
        {True: "yes", False: "no", None: "-"}[row.stands_out],
    ]


def _off(ratio: float | None) -> str:
    return f"{ratio - 1.0:+.0%}" if ratio is not None else "-"


def _interval(found: tuple[float, float] | None) -> str:
    return f"{_off(found[0])} to {_off(found[1])}" if found is not None else "-"


def cells(row: ValidationRow) -> list[str]:
    """A row as words."""
    speed_up = row.speed_up is not None and row.predicted_speed_up is not None
    return [
        row.mode,
        str(row.num_prompts),
        f"{row.tokens_per_s:.2f}",
        f"{row.predicted_tokens_per_s:.2f}",
        f"{row.latency_p50_s:.1f} s",
        f"{row.predicted_latency_p50_s:.1f} s",
        f"{row.off_latency:+.1%}",
        f"{row.speed_up:.2f}" if speed_up else "-",
        f"{row.predicted_speed_up:.2f}" if speed_up else "-",
        f"{row.off_speed_up:+.1%}" if row.off_speed_up is not None else "-",
    ]


def conclusion(
    rows: list[ValidationRow], against: str, others: list[str], anchored: bool, missing: str | None = None
) -> list[str]:
    """What the rows say, in sentences. `missing`: a model whose tokenizer is not here."""
    judged = [row for row in rows if row.mode != against] if anchored else rows
    good = [row.mode for row in judged if row.holds]
    words = [f"{len(good)} of {len(judged)} modes are within 10 % in median latency and in speed-up."]
    missed = [row.mode for row in judged if not row.holds]
    if missed:
        words.append(f"Not within: {', '.join(missed)}.")
    told = [row for row in judged if row.stands_out is not None]
    if told:
        out = [row.mode for row in told if row.stands_out]
        named = f": {', '.join(out)}" if out else ""
        words.append(f"{len(out)} of {len(told)} are off by more than 10 % beyond chance, paired by prompt{named}.")
    if len(told) < len(judged):
        words.append("With fewer than three prompts nothing is said of chance.")
    if anchored:
        words.append(
            f"All passes of a prompt are scaled so that {against} takes as long as measured there; its own row is no "
            "prediction. --absolute leaves the costs as they were calibrated."
        )
    words.append("Words, verdicts and the time of verdicts are the recorded ones; all other times are predicted.")
    if missing is not None:
        words.append(f"{missing} is not on this machine: tokens are cut at words and signs.")
    if others:
        words.append(f"Without a trace, so not predicted: {', '.join(others)}.")
    return words
