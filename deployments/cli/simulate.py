"""``lookahead simulate``: what a cluster would do that is not here, by the production session on a simulated clock.

Promises: needs no Ray, no model and no server; says of every engine whether its costs were measured, given or
estimated; ``--published`` puts each published row beside what formula and session give for it.
"""

from __future__ import annotations

import json
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from actors.errors import RequestError
from deployments.cli.terminal import Json, print_json, progress_on, words_console, write_page
from deployments.cli.validate import validate as validate_run

if TYPE_CHECKING:
    from deployments.simulation.outcome import Outcome
    from deployments.simulation.published import Reproduced
    from deployments.simulation.scenario import Scenario

COLUMNS = (
    "mode",
    "requests",
    "tokens/s",
    "per GPU",
    "a user",
    "latency p50",
    "p95",
    "first step",
    "accepted",
    "target busy",
    "draft busy",
    "coordinators",
    "verifiers",
    "calls",
)

SHORT = {
    "mode": "mode",
    "tokens/s": "tok/s",
    "a user": "a user",
    "latency p50": "p50",
    "p95": "p95",
    "accepted": "accepted",
    "target busy": "target",
    "draft busy": "draft",
    "coordinators": "coord.",
}
"""Those that a terminal has room for, by their short names; all are on the page."""


def simulate(
    scenario: Annotated[
        str | None, typer.Argument(help="A YAML file, or a shipped one: small, failures, thousand-gpus, scale-8 ...")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Reproduce the published table instead of a scenario.")
    ] = False,
    overhead: Annotated[
        float | None,
        typer.Option(min=0.0, max=5.0, help="With --published: the overhead in target steps; without it, fitted."),
    ] = None,
    steps: Annotated[int, typer.Option(min=100, help="With --published: simulated steps of each row.")] = 4000,
    validate: Annotated[
        Path | None, typer.Option(help="A folder of lookahead bench --traces: predict its times and compare.")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="With --validate: the engines' costs, of lookahead calibrate --engine.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="With --validate: the run's profile (default: local).")] = None,
    config: Annotated[str | None, typer.Option(help="With --validate: the run's config file instead.")] = None,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="With --validate: costs as calibrated, not scaled to the target alone.")
    ] = False,
    duration: Annotated[float | None, typer.Option(min=1.0, help="Seconds to simulate, over the scenario's.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change the scenario: coordinator.replicas=2; may be repeated.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots.")] = None,
    json_output: Json = False,
) -> None:
    """Simulate a cluster: what each mode gives on it, with its users, its network and its failures.

    Example: lookahead simulate small

    Example: lookahead simulate scale-64 --set coordinator.replicas=5

    Example: lookahead simulate --published --json

    Example: lookahead simulate --validate runs/first --costs costs/costs.yaml
    """
    if sum((published, scenario is not None, validate is not None)) != 1:
        raise RequestError("Give a scenario, --published or --validate: one of the three.", "scenario")
    console = words_console(json_output)
    if validate is not None:
        result, page = validate_run(console, validate, costs, profile, config, not absolute)
    elif published:
        result, page = _published(console, overhead, steps)
    else:
        result, page = _scenario(console, str(scenario), duration, changes or [])
    if html is not None:
        write_page(console, html, page)
    if json_output:
        print_json(result)


def _scenario(console: Console, name: str, duration: float | None, changes: list[str]) -> tuple[dict[str, Any], str]:
    from deployments.simulation.run import run_scenario
    from deployments.simulation.scenario import load_scenario

    scenario = load_scenario(name, changes)
    if duration is not None:
        scenario = scenario.model_copy(update={"duration_s": duration})
    begun = time.process_time()
    with progress_on(console, remaining=True) as progress:
        tasks: dict[str, TaskID] = {mode: progress.add_task(mode, total=1.0) for mode in scenario.speculation.modes}
        outcomes = run_scenario(scenario, lambda mode, part: progress.update(tasks[mode], completed=part))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in SHORT.values():
        table.add_column(name, justify="left" if name == "mode" else "right", no_wrap=True)
    for outcome in outcomes:
        shown = dict(zip(COLUMNS, cells(outcome), strict=True))
        table.add_row(*(shown[column] for column in SHORT))
    console.print(table)
    words = conclusion(scenario, outcomes)
    for sentence in words:
        console.print(sentence, markup=False, soft_wrap=True)
    took, executed = time.process_time() - begun, sum(outcome.num_executed_steps for outcome in outcomes)
    console.print(f"{executed} steps were simulated at {60.0 * executed / took:,.0f} a minute of CPU.", style="dim")
    result = {
        "simulated_steps_per_cpu_minute": 60.0 * executed / took,
        "scenario": scenario.model_dump(mode="json"),
        "outcomes": [outcome.as_dict() for outcome in outcomes],
        "conclusion": words,
    }
    return result, _scenario_page(scenario, outcomes, words)


def cells(outcome: Outcome) -> list[str]:
    """An outcome as a row of `COLUMNS`."""

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    return [
        outcome.mode,
        str(outcome.num_requests),
        f"{outcome.tokens_per_s:.1f}",
        f"{outcome.tokens_per_s_per_gpu:.2f}",
        shown(outcome.user_tokens_per_s, "{:.1f}"),
        shown(outcome.latency_p50_s, "{:.1f} s"),
        shown(outcome.latency_p95_s, "{:.1f} s"),
        shown(outcome.first_step_p50_s, "{:.2f} s"),
        shown(outcome.accept_rate, "{:.0%}"),
        f"{outcome.target_busy:.0%}",
        f"{outcome.draft_busy:.0%}",
        f"{outcome.coordinator_busy:.0%}",
        f"{outcome.verifier_full:.0%}",
        f"{outcome.calls_mb_per_s:.1f} MB/s",
    ]


def conclusion(scenario: Scenario, outcomes: list[Outcome]) -> list[str]:
    """What the outcomes say, in sentences."""
    words = []
    base = outcomes[0]
    for other in outcomes[1:]:
        if base.tokens_per_s and base.user_tokens_per_s and other.user_tokens_per_s:
            words.append(
                f"{other.mode} against {base.mode}: {other.tokens_per_s / base.tokens_per_s:.2f}x the tokens of all "
                f"users, {other.user_tokens_per_s / base.user_tokens_per_s:.2f}x the speed of one."
            )
    lost = sum(outcome.num_lost_calls for outcome in outcomes)
    refused, failed = sum(o.num_refused for o in outcomes), sum(o.num_failed for o in outcomes)
    if scenario.failures:
        words.append(f"{lost} calls were lost with their replicas; {failed} requests failed for it.")
    if refused and scenario.admission is None:
        words.append(f"{refused} requests were refused, since {scenario.arrivals.max_in_flight} were in flight.")
    for outcome in outcomes if scenario.admission is not None else []:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(outcome.refused.items()))
        waited = "none began" if outcome.wait_p95_s is None else f"those that began waited {outcome.wait_p95_s:.1f} s"
        words.append(f"{outcome.mode}: {outcome.num_refused} refused ({reasons or 'none'}); p95 of {waited}.")
    for outcome in outcomes if scenario.autoscaling is not None else []:
        most = {role: max(numbers[role] for _, numbers in outcome.replicas) for role in outcome.replicas[0][1]}
        shown = ", ".join(f"{number} of {role}" for role, number in most.items())
        words.append(f"{outcome.mode}: at most {shown} replicas; {outcome.mean_gpus:.1f} GPUs on average.")
    roles = {"target": scenario.target, "draft": scenario.draft}
    estimated = [name for name, role in roles.items() if role.is_estimated]
    if estimated:
        words.append(f"Estimated, not measured: what an engine costs ({', '.join(estimated)}).")
    return words


def _scenario_page(scenario: Scenario, outcomes: list[Outcome], words: list[str]) -> str:
    from deployments.simulation.page import bars, page, table

    scaled = [(f"Replicas that were wanted: {o.mode}", _replicas_plot(o)) for o in outcomes if o.replicas]
    best = max(outcomes, key=lambda outcome: outcome.tokens_per_s)
    claim = (
        f"{scenario.name}: {scenario.num_gpus} GPUs, most tokens with {best.mode}: {best.tokens_per_s:.0f} a second."
    )
    settings = json.dumps(scenario.model_dump(mode="json"), indent=2)
    return page(
        "lookahead simulate",
        [claim, *words],
        [
            ("Numbers", table(COLUMNS, [cells(outcome) for outcome in outcomes])),
            ("Tokens a second, all users", bars({outcome.mode: outcome.tokens_per_s for outcome in outcomes})),
            (
                "Tokens a second, one user (median)",
                bars({outcome.mode: outcome.user_tokens_per_s or 0.0 for outcome in outcomes}),
            ),
            ("Latency p95, seconds", bars({outcome.mode: outcome.latency_p95_s or 0.0 for outcome in outcomes})),
            *scaled,
            ("The scenario", f"<pre>{escape(settings)}</pre>"),
        ],
    )


def _replicas_plot(outcome: Outcome) -> str:
    """Steps of the replicas that were wanted over the time."""
    from deployments.simulation.page import Line, lines

    ends = [*(at for at, _ in outcome.replicas[1:]), outcome.duration_s]
    rows = []
    for role in outcome.replicas[0][1]:
        steps = [
            point
            for (at, numbers), end in zip(outcome.replicas, ends, strict=True)
            for point in ((at, float(numbers[role])), (end, float(numbers[role])))
        ]
        rows.append(Line(role, steps))
    return lines(rows, "seconds", "replicas")


def _published(console: Console, overhead: float | None, steps: int) -> tuple[dict[str, Any], str]:
    from deployments.simulation.page import page
    from deployments.simulation.page import table as html_table
    from deployments.simulation.published import COST_RATIO, DEPTH, PUBLISHED, conclusion, fitted_overhead, reproduce

    used = fitted_overhead() if overhead is None else overhead
    with progress_on(console, remaining=True) as progress:
        task = progress.add_task("rows", total=len(PUBLISHED))
        rows = reproduce(used, steps, lambda done: progress.update(task, completed=done))
    names = ["pair", "set", "accepted", "n-gram", "lookahead: paper", "formula", "session", "off"]
    names += ["both: paper", "formula", "session", "off"]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="left" if name in ("pair", "set") else "right")
    shown = [published_cells(row) for row in rows]
    for cell in shown:
        table.add_row(*cell)
    console.print(table)
    words = conclusion(rows, used, overhead is None)
    for sentence in words:
        console.print(sentence, markup=False, soft_wrap=True)
    result = {
        "overhead": used,
        "overhead_is_fitted": overhead is None,
        "cost_ratio": COST_RATIO,
        "max_lookahead": DEPTH,
        "rows": [row.as_dict() for row in rows],
        "conclusion": words,
    }
    return result, page("lookahead simulate --published", words, [("The published table", html_table(names, shown))])


def published_cells(row: Reproduced) -> list[str]:
    """A reproduced row as words; an n-gram figure in brackets is the other pair's."""
    published = row.published
    return [
        published.pair,
        published.name,
        f"{published.accept_rate:.2f}",
        f"{row.ngram_used:.2f}" if published.ngram is not None else f"({row.ngram_used:.2f})",
        f"{published.lookahead:.2f}",
        f"{row.lookahead_formula:.2f}",
        f"{row.lookahead_session:.2f}",
        f"{row.lookahead_off:+.0%}",
        f"{published.both:.2f}",
        f"{row.both_formula:.2f}",
        f"{row.both_session:.2f}",
        f"{row.both_off:+.0%}",
    ]
