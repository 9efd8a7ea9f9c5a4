"""``lookahead bench``: every mode on the same prompts in one run, and a report of what that shows.

Promises: what was measured is on disk at once and is never asked again; a run that was stopped goes on when the same
command is given again; the report says what it was measured on and how.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from actors.errors import LookaheadError, RequestError, ServiceError
from deployments.cli.client import DEFAULT_TIMEOUT_S, connect, get_json, served_model
from deployments.cli.cluster import chosen_config, server, server_key
from deployments.cli.terminal import ApiKey, Fidelity, Json, Temperature, Verifier, print_json, words_console

if TYPE_CHECKING:
    from deployments.bench.plan import Plan
    from deployments.bench.problems import Problem
    from deployments.bench.record import Record
    from deployments.bench.runner import Manner
    from deployments.config import Config


def bench(
    out: Annotated[Path, typer.Option(help="Folder for requests.jsonl, report.json and report.html.")],
    profile: Annotated[str | None, typer.Option(help="Start this shipped profile for the run.")] = None,
    config: Annotated[Path | None, typer.Option(help="Start the cluster of this config file for the run.")] = None,
    url: Annotated[str | None, typer.Option(help="Measure a server that runs already.")] = None,
    modes: Annotated[
        str, typer.Option(help="What to compare, commas between: MODE or MODE:WISH:WISH (lookahead:exact:ngram).")
    ] = "target,lookahead",
    data: Annotated[str, typer.Option(help="JSON lines with question and answer, or 'synthetic'.")] = "synthetic",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many problems.")] = None,
    concurrency: Annotated[str, typer.Option(help="Requests at once; several levels with commas between.")] = "1",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 1024,
    temperature: Temperature = 0.0,
    seed: Annotated[int, typer.Option(help="Of synthetic problems, sampling and intervals.")] = 0,
    fidelity: Fidelity = None,
    verifier: Verifier = None,
    max_lookahead: Annotated[int | None, typer.Option(min=1, help="How many steps the draft may be ahead.")] = None,
    request_timeout: Annotated[float, typer.Option(min=1, help="Seconds for one whole answer.")] = DEFAULT_TIMEOUT_S,
    traces: Annotated[bool, typer.Option("--traces", help="Keep the step trace of each request.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed before.")] = False,
    api_key: ApiKey = None,
    json_output: Json = False,
) -> None:
    """Measure modes against each other: speed, accuracy, accept rate, paired by prompt.

    The same command again goes on where it was stopped.

    Example: lookahead bench --profile local --modes target,lookahead --data synthetic --limit 20 --out runs/first
    """
    from deployments.bench.plan import Plan, describe_data
    from deployments.bench.runner import Manner

    chosen = chosen_config(profile, config, url)
    problems = _problems(data, limit, seed)
    plan = Plan(
        server=_describe_server(chosen, profile or str(config), url),
        data=describe_data(data, problems),
        num_problems=len(problems),
        modes=_modes(modes),
        concurrency=_levels(concurrency),
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        fidelity=fidelity,
        verifier=verifier,
        max_lookahead=max_lookahead,
    )
    console = words_console(json_output)
    manner = Manner(request_timeout, traces, retry_failed)
    report = _run(console, out, plan, problems, manner, chosen, url, server_key(chosen, api_key))
    if json_output:
        print_json(report)
    _show(console, report, out)
    _check(report)


def _run(
    console: Console,
    out: Path,
    plan: Plan,
    problems: list[Problem],
    manner: Manner,
    config: Config | None,
    url: str | None,
    api_key: str | None,
) -> dict[str, Any]:
    """Measure what is missing in `out` and write the report there, also of a run that a failure ended early."""
    from deployments.bench import report
    from deployments.bench.environment import describe_command, describe_machine, hide_secrets
    from deployments.bench.plan import claim_folder
    from deployments.bench.record import Record
    from deployments.bench.runner import remaining

    command = describe_command(sys.argv[1:])
    environment = {
        "command": command,
        "runs": claim_folder(out, plan, command),
        "plan": asdict(plan),
        "server": None,
        **describe_machine(),
        "config": hide_secrets(config.model_dump(mode="json")) if config else None,
    }
    with Record(out) as record:
        if record.lines:
            console.print(f"Going on: {len(record.lines)} requests are in {out} already.", markup=False)
        try:
            if remaining(plan, record, manner.retry_failed):
                with server(config, url) as address:
                    environment["server"] = asyncio.run(
                        _measure(console, address, api_key, plan, problems, record, manner)
                    )
        except KeyboardInterrupt:
            console.print("Stopped; the same command goes on where this one was.", style="yellow")
            raise
        finally:
            built = report.build(plan, record.lines, environment, _token_speculation(config))
            if record.lines:
                report.write(out, built)
    return built


async def _measure(
    console: Console,
    url: str,
    api_key: str | None,
    plan: Plan,
    problems: list[Problem],
    record: Record,
    manner: Manner,
) -> Any:
    """Ask all that is left, with a progress bar; what the server says of itself."""
    from deployments.bench.record import Measurement
    from deployments.bench.runner import Runner, remaining
    from deployments.bench.token_counts import TokenCounter

    num_left = sum(len(indices) for _, indices in remaining(plan, record, manner.retry_failed))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with connect(url, api_key) as http:
        model = await served_model(http)
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task("warming up", total=num_left)

            def on_answer(line: Measurement) -> None:
                words = f"{line.mode}, {line.concurrency} at once"
                progress.update(task, advance=1, description=words)
                if line.error:
                    console.print(f"prompt {line.index}, {line.mode}: {line.error}", style="red", markup=False)

            await Runner(http, model, plan, problems, record, manner, on_answer, TokenCounter(http)).run()
        try:
            return await get_json(http, "/version")
        except LookaheadError as error:
            return {"error": str(error)}


def _problems(data: str, limit: int | None, seed: int) -> list[Problem]:
    from deployments.bench.problems import DEFAULT_SYNTHETIC, read_problems, synthetic

    return synthetic(limit or DEFAULT_SYNTHETIC, seed) if data == "synthetic" else read_problems(data, limit)


def _modes(text: str) -> tuple[str, ...]:
    from deployments.bench.variants import wishes

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise RequestError(f"--modes {text!r} must name modes, each once, with commas between.", "modes")
    for name in names:
        wishes(name)
    return tuple(names)


def _levels(text: str) -> tuple[int, ...]:
    try:
        levels = [int(level) for level in text.split(",")]
    except ValueError as error:
        raise RequestError(
            f"--concurrency {text!r} must be whole numbers with commas between.", "concurrency"
        ) from error
    if min(levels) < 1 or len(set(levels)) != len(levels):
        raise RequestError(f"--concurrency {text!r} must be numbers of 1 or more, each once.", "concurrency")
    return tuple(levels)


def _describe_server(config: Config | None, name: str, url: str | None) -> str:
    from deployments.bench.plan import fingerprint

    return str(url) if config is None else f"{name} #{fingerprint(config.model_dump(mode='json'))}"


def _token_speculation(config: Config | None) -> str | None:
    """How the target speculates on tokens inside a step; None where a server's config is not known."""
    if config is None:
        return None
    method = config.target.engine.options.get("speculative_config") or {}
    return str(method.get("method", "none")) if isinstance(method, dict) else str(method)


def _show(console: Console, report: dict[str, Any], out: Path) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("mode", "at once", "done", "failed", "tok/s", "p50 s", "right", "accepted", "speed-up", "95 %"):
        table.add_column(name, justify="left" if name == "mode" else "right", no_wrap=True)
    for row in report["rows"]:
        interval = row["speedup_ci95"]
        table.add_row(
            row["mode"],
            str(row["concurrency"]),
            str(row["num_requests"]),
            str(row["num_failed"]),
            f"{row['tokens_per_s']:.1f}",
            _format(row["latency_p50_s"], ".2f"),
            _format(row["accuracy"], ".0%"),
            _format(row["accept_rate"], ".0%"),
            _format(row["speedup_vs_target"], ".2f"),
            f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else "-",
        )
    console.print(table)
    for text in report["claims"]:
        console.print(text, markup=False)
    console.print(f"Report: {out / 'report.html'}", markup=False, soft_wrap=True)


def _format(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _check(report: dict[str, Any]) -> None:
    """ServiceError if a mode answered nothing: then the run shows nothing of it."""
    empty = [row["mode"] for row in report["rows"] if row["num_failed"] == row["num_requests"]]
    if empty:
        raise ServiceError(f"Every request failed in mode {', '.join(dict.fromkeys(empty))}; see requests.jsonl.")
