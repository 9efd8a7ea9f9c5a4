"""``lookahead chaos``: breaks a cluster of scripted engines while it answers, and says which promises it kept.

Promises: exit code 1 if one promise is broken, with what broke it; nothing is left running; what the run has shown is
printed whatever becomes of its files.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.errors import RequestError
from deployments.cli.terminal import Json, print_json, words_console

if TYPE_CHECKING:
    from deployments.chaos.files import Files
    from deployments.chaos.run import Progress as RunProgress
    from deployments.chaos.run import Settings

NUM_SHOWN = 20
"""Failed streams in the terminal; all are in the report."""


def chaos(
    streams: Annotated[int, typer.Option(min=1, help="At least so many streams; more while faults go on.")] = 200,
    concurrency: Annotated[int, typer.Option(min=1, help="Streams at once.")] = 24,
    duration: Annotated[float, typer.Option(min=1, help="Seconds of faults.")] = 300.0,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds from fault to fault.")] = 2.0,
    longest: Annotated[
        float, typer.Option(min=1, help="Most seconds that a fault is kept up; each takes 1 or more.")
    ] = 6.0,
    roles: Annotated[str, typer.Option(help="Who may be struck.")] = "draft,target,verifier,coordinator",
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of each role.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed gives the same faults.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a client waits for a whole stream.")] = 180.0,
    address: Annotated[
        str, typer.Option(help="Ray cluster: 'local' starts one here, 'auto' joins the running one.")
    ] = "local",
    out: Annotated[Path | None, typer.Option(help="Folder for events.jsonl and report.json.")] = None,
    json_output: Json = False,
) -> None:
    """Kill, freeze, slow and confuse replicas while streams run whose texts are known; exit 1 if a promise breaks.

    Example: lookahead chaos --streams 20 --duration 30 --roles draft,target,verifier
    """
    from deployments.chaos.files import Files
    from deployments.chaos.run import Settings

    named = tuple(dict.fromkeys(name.strip() for name in roles.split(",") if name.strip()))
    if not named:
        raise RequestError("--roles names no role.", "roles")
    settings = Settings(
        streams,
        concurrency,
        duration,
        every,
        named,
        seed,
        (1.0, longest),
        num_replicas=replicas,
        timeout_s=timeout,
        address=address,
    )
    console, files = words_console(json_output), Files(out)
    report = _watched(settings, files)
    _show(console, report)
    if json_output:
        print_json(report)
    files.finish(report)
    if not report["kept"]:
        raise typer.Exit(1)


def _watched(settings: Settings, files: Files) -> dict[str, Any]:
    """A run, with a bar of how far it is."""
    from deployments.chaos.run import run_chaos

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*columns, console=Console(stderr=True, emoji=False)) as bar:
        task = bar.add_task("", total=settings.duration_s, now="")

        def show(progress: RunProgress) -> None:
            words = f"{progress.num_faults} faults, {progress.num_ended} streams ended, {progress.num_failed} failed"
            now = f"{words}; {progress.last}" if progress.last else words
            done = min(progress.elapsed_s, settings.duration_s)
            bar.update(task, completed=done, description=progress.phase, now=now)

        with contextlib.redirect_stdout(io.StringIO()):  # Ray prints there that workers died
            return run_chaos(settings, files, show)


def _show(console: Console, report: dict[str, Any]) -> None:
    kinds = ("kill", "freeze", "slow", "garbage")
    table = Table("struck", *kinds)
    for role, counts in report["faults"].items():
        table.add_row(role, *(str(sum(n for name, n in counts.items() if name.startswith(kind))) for kind in kinds))
    console.print(table)
    silence, degraded = report["longest_silence_s"], report["degraded"]
    console.print(
        f"{report['num_faults']} faults, {report['num_streams']} streams, {report['num_failed']} failed; longest "
        f"silence of a stream: median {silence.get('p50', 0):.1f} s, p99 {silence.get('p99', 0):.1f} s"
    )
    if degraded:
        console.print("Degraded: " + ", ".join(f"{reason} {count}" for reason, count in sorted(degraded.items())))
    for failure in report["failures"][:NUM_SHOWN]:
        words = f"{failure['request_id']} ({failure['kind']}, after {failure['after_s']} s): {failure['problem']}"
        console.print(words, style="red", markup=False)
        console.print("    " + ", ".join(failure["faults_before"]), markup=False)
    for name, promise in report["promises"].items():
        mark, style = ("kept  ", "green") if promise["kept"] else ("BROKEN", "red")
        console.print(f"{mark} {name}: {promise['what']}", style=style, markup=False)
        if not promise["kept"] and name in ("engines", "ray", "processes"):
            key = {"engines": "work"}.get(name, name)
            console.print(f"       {report['aftermath'].get(key)}", markup=False)
