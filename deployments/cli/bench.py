"""``lookahead bench``: every mode on the same prompts in one run, and a report of what that shows.

Promises: what was measured is on disk at once; a run that was stopped goes on when the same command is given again,
with the block in which it was stopped; only one runs in a folder at a time; the report says what it was measured on and
how.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn

from actors.errors import LookaheadError, RequestError, ServiceError
from deployments.cli.bench_table import show
from deployments.cli.cluster import chosen_config, server, server_key
from deployments.cli.terminal import (
    ApiKey,
    Fidelity,
    Json,
    Temperature,
    Verifier,
    print_json,
    progress_on,
    words_console,
)
from deployments.server.client import DEFAULT_TIMEOUT_S, connect, get_json, served_model

if TYPE_CHECKING:
    from deployments.bench.equal_hardware import VllmServer
    from deployments.bench.folder import Starts
    from deployments.bench.plan import Plan
    from deployments.bench.problems import Problem
    from deployments.bench.record import Record
    from deployments.bench.review import Server
    from deployments.bench.rows import Objective
    from deployments.bench.runner import Manner
    from deployments.config import Config


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a benchmark: what to ask, whom, how, and where it goes. `url` is None where `config` is started.

    `addresses` are those that were given, with their passwords, by what is written of them. `own` are vLLM's own
    servers by mode; those of `apart` are started after the deployment, on its GPUs.
    """

    starts: Starts
    addresses: Mapping[str, str]
    out: Path
    plan: Plan
    problems: list[Problem]
    manner: Manner
    objective: Objective
    config: Config | None
    url: str | None
    model: str | None
    api_key: str | None
    own: Mapping[str, VllmServer]
    apart: tuple[str, ...]


def bench(
    out: Annotated[Path, typer.Option(help="Folder for requests.jsonl, report.json and report.html.")],
    profile: Annotated[str | None, typer.Option(help="Start this shipped profile for the run.")] = None,
    config: Annotated[Path | None, typer.Option(help="Start the cluster of this config file for the run.")] = None,
    url: Annotated[str | None, typer.Option(help="Measure a server that runs already, any OpenAI endpoint.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; by default the first one offered.")] = None,
    modes: Annotated[
        str,
        typer.Option(
            help="What to compare, commas between: MODE, MODE:WISH:WISH (lookahead:exact:ngram), 'plain' for a server "
            "that is not lookahead, 'vllm' for vLLM's own server, started beside (on GPUs: after the others); @URL "
            "behind one asks another server."
        ),
    ] = "target,lookahead",
    data: Annotated[
        str,
        typer.Option(
            help="JSON lines with question and answer, or with HumanEval's fields; or synthetic[:easy|:medium|:hard]."
        ),
    ] = "synthetic",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many problems.")] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Requests at once (closed loop); several levels with commas. 1 without --rate.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Requests a second at random times (open loop, Poisson); levels with commas.")
    ] = None,
    objective_s: Annotated[float | None, typer.Option(min=0, help="Goodput counts answers within so many s.")] = None,
    objective_ttft_s: Annotated[
        float | None, typer.Option(min=0, help="Goodput counts answers whose first text came within so many s.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 1024,
    temperature: Temperature = 0.0,
    seed: Annotated[int, typer.Option(help="Of synthetic problems, arrivals, sampling and intervals.")] = 0,
    fidelity: Fidelity = None,
    verifier: Verifier = None,
    max_lookahead: Annotated[int | None, typer.Option(min=1, help="How many steps the draft may be ahead.")] = None,
    request_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one whole answer.")] = DEFAULT_TIMEOUT_S,
    traces: Annotated[bool, typer.Option("--traces", help="Keep the step trace of each request.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask blocks again in which one failed.")] = False,
    api_key: ApiKey = None,
    json_output: Json = False,
) -> None:
    """Measure modes against each other: speed, goodput, accuracy, accept rates, paired by prompt.

    The same command again goes on where it was stopped.

    Example: lookahead bench --profile local --modes target,lookahead --data synthetic --limit 20 --out runs/first
    """
    from deployments.bench.environment import describe_start, without_password
    from deployments.bench.equal_hardware import needs_gpus, own_servers
    from deployments.bench.folder import claim_folder
    from deployments.bench.plan import Plan, describe_data
    from deployments.bench.problems import instruction, load
    from deployments.bench.rows import Objective
    from deployments.bench.runner import Manner
    from deployments.bench.variants import address, base_url

    chosen, url, named = chosen_config(profile, config, url), base_url(url) if url else None, _modes(modes)
    addresses = {without_password(place): place for place in (*map(address, named), url) if place is not None}
    url = without_password(url) if url else None
    problems = load(data, limit, seed)
    plan = Plan(
        server=_describe_server(chosen, profile or str(config), url),
        data=describe_data(data, problems),
        num_problems=len(problems),
        modes=tuple(map(without_password, named)),
        concurrency=tuple(map(int, _levels(concurrency or ("" if rate else "1"), "concurrency", whole=True))),
        rates=_levels(rate or "", "rate"),
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        fidelity=fidelity,
        verifier=verifier,
        max_lookahead=max_lookahead,
        instruction=instruction(problems),
    )
    own = own_servers(chosen, plan.modes)
    apart = tuple(own) if chosen is not None and needs_gpus(chosen) else ()
    console = words_console(json_output)
    manner, objective = Manner(request_timeout, traces, retry_failed), Objective(objective_s, objective_ttft_s)
    key = server_key(chosen, api_key)
    with claim_folder(out, plan, describe_start(sys.argv[1:])) as starts:
        run = Run(starts, addresses, out, plan, problems, manner, objective, chosen, url, model, key, own, apart)
        report = _run(console, run)
    if json_output:
        print_json(report)
    show(console, report, out)
    _check(report)


def _run(console: Console, run: Run) -> dict[str, Any]:
    """Measure what is missing in the folder and write the report there, also of a run that a failure ended early."""
    from deployments.bench import report, sandbox
    from deployments.bench.environment import hide_secrets
    from deployments.bench.record import Record, latest

    command = run.starts.runs[-1]["command"]
    environment = {
        "command": command,
        "runs": run.starts.runs,
        "plan": asdict(run.plan),
        "apart": list(run.apart),
        **({"sandbox": sandbox.describe()} if any(problem.code for problem in run.problems) else {}),
        "config": hide_secrets(run.config.model_dump(mode="json")) if run.config else None,
        **({"own": {mode: hide_secrets(asdict(server)) for mode, server in run.own.items()}} if run.own else {}),
    }
    with Record(run.out) as record:
        if record.lines:
            console.print(f"Going on: {_kept(run, record)} They are in {run.out}.", markup=False, soft_wrap=True)
        try:
            _measure_missing(console, run, record)
        except KeyboardInterrupt:
            console.print(f"Stopped; {_kept(run, record)} Go on with:", style="yellow", markup=False, soft_wrap=True)
            console.print(f"  {command}", markup=False, soft_wrap=True)
            raise
        finally:
            environment |= run.starts.ran_on(latest(record.lines).values())
            built = report.build(run.plan, record.lines, environment, _token_speculation(run.config), run.objective)
            if record.lines:
                report.write(run.out, built)
    return built


def _kept(run: Run, record: Record) -> str:
    """How many requests are not asked again, in a sentence."""
    from deployments.bench.record import latest
    from deployments.bench.runner import count_left

    num_kept = run.plan.num_requests - count_left(run.plan, record.lines, run.manner.retry_failed)
    num_again = len(latest(record.lines)) - num_kept
    again = f" ({num_again} more will be asked again, with the rest of their block)" if num_again else ""
    return f"{num_kept} of {run.plan.num_requests} requests are kept{again}."


def _measure_missing(console: Console, run: Run, record: Record) -> None:
    """Ask and grade what is left."""
    from deployments.bench.review import review_all
    from deployments.bench.runner import remaining
    from deployments.bench.vllm_server import all_running, running

    left = {block.mode for block, _ in remaining(run.plan, record.lines, run.manner.retry_failed)}
    together = [mode for mode in run.plan.modes if mode not in run.apart]
    if left.intersection(together):
        beside = {mode: server for mode, server in run.own.items() if mode in together}
        with server(run.config, run.url) as url, all_running(beside) as own:
            asyncio.run(_measure(console, _places(together, url, own), url, run, record))
    for mode in filter(left.__contains__, run.apart):
        console.print(f"{mode}: vLLM's own server gets the GPUs that the deployment had.", markup=False)
        with running(run.own[mode]) as url:
            asyncio.run(_measure(console, {mode: url}, None, run, record))
    if not left:
        asyncio.run(review_all(record, run.problems, {}))
    _run_programs(console, run, record)


def _run_programs(console: Console, run: Run, record: Record) -> None:
    """Grade the answers that are programs, now that no server that was started for the run is there to be reached."""
    from deployments.bench import sandbox
    from deployments.bench.review import run_programs

    if num := len(record.waiting()):
        with progress_on(console, MofNCompleteColumn(), remaining=True) as progress:
            task = progress.add_task("running programs", total=num)
            asyncio.run(run_programs(record, run.problems, lambda: progress.advance(task)))
    if num := len(record.waiting()):
        words = f"The programs of {num} answers were {sandbox.describe()}. Until the same command has run them, "
        console.print(f"{words}their rows have no accuracy.", style="yellow", markup=False, soft_wrap=True)


async def _measure(console: Console, places: Mapping[str, str], ours: str | None, run: Run, record: Record) -> None:
    """Ask all that is left of the modes in `places`, their servers' addresses, with a progress bar. The run's key and
    model are for the server at `ours`."""
    from deployments.bench.record import Measurement
    from deployments.bench.runner import Runner, remaining

    left = remaining(run.plan, record.lines, run.manner.retry_failed)
    num_left = sum(len(indices) for block, indices in left if block.mode in places)
    async with AsyncExitStack() as stack:
        servers = {place: await _connect(stack, place, run, place == ours) for place in dict.fromkeys(places.values())}
        by_mode = {mode: servers[place] for mode, place in places.items()}
        said = {place: await _version(found) for place, found in servers.items()}
        others = {place: version for place, version in said.items() if place != ours}
        run.starts.answered_by(
            {mode: found.model for mode, found in by_mode.items()},
            {**said.get(ours or "", {}), **({"others": others} if others else {})},
        )
        with progress_on(console, MofNCompleteColumn(), remaining=True) as progress:
            task = progress.add_task("warming up", total=num_left)

            def on_answer(line: Measurement) -> None:
                progress.update(task, advance=1, description=f"{line.mode}, {line.load}")
                if line.error:
                    console.print(f"prompt {line.index}, {line.mode}: {line.error}", style="red", markup=False)

            await Runner(by_mode, run.plan, run.problems, record, run.manner, on_answer).run()


def _places(modes: Iterable[str], url: str, own: Mapping[str, str]) -> dict[str, str]:
    """The address of the server that each mode asks."""
    from deployments.bench.variants import address

    return {mode: address(mode) or own.get(mode, url) for mode in modes}


async def _connect(stack: AsyncExitStack, place: str, run: Run, is_ours: bool) -> Server:
    """A connection to one server. The key and the model's name are for the run's own server alone."""
    from deployments.bench.review import Server
    from deployments.bench.token_counts import TokenCounter

    address = run.addresses.get(place, place)
    http = await stack.enter_async_context(connect(address, run.api_key if is_ours else None))
    return Server(http, (run.model if is_ours else None) or await served_model(http), TokenCounter(http))


async def _version(found: Server) -> dict[str, Any]:
    try:
        said = await get_json(found.http, "/version")
    except LookaheadError as error:
        return {"error": str(error)}
    return said if isinstance(said, dict) else {"version": said}


def _modes(text: str) -> tuple[str, ...]:
    from deployments.bench.environment import without_password
    from deployments.bench.variants import address, wishes

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        wishes(name)
        address(name)
    if not names or len(set(map(without_password, names))) != len(names):
        raise RequestError(
            f"--modes {without_password(text)!r} must name modes, each once, with commas between.", "modes"
        )
    return tuple(names)


def _levels(text: str, option: str, whole: bool = False) -> tuple[float, ...]:
    """The numbers of a list; none of an empty one."""
    if not text:
        return ()
    kind = "whole numbers of 1 or more" if whole else "numbers above zero"
    try:
        levels = [int(level) if whole else float(level) for level in text.split(",")]
    except ValueError as error:
        raise RequestError(f"--{option} {text!r} must be {kind} with commas between.", option) from error
    if not all(0 < level < float("inf") for level in levels) or len(set(levels)) != len(levels):
        raise RequestError(f"--{option} {text!r} must be {kind}, each once.", option)
    return tuple(levels)


def _describe_server(config: Config | None, name: str, url: str | None) -> str:
    from deployments.bench.plan import fingerprint

    return str(url) if config is None else f"{name} #{fingerprint(config.model_dump(mode='json'))}"


def _token_speculation(config: Config | None) -> str | None:
    """How the target speculates on tokens inside a step where a row does not say: as the engine does, or as requests
    wish by default, where it hears them; None where a server's config is not known."""
    from deployments.bench.equal_hardware import OURS, method_of

    if config is None:
        return None
    method = method_of(config.target.engine.options)
    return config.speculation.token_speculation if method == OURS else method


def _check(report: dict[str, Any]) -> None:
    """ServiceError if a mode answered nothing: then the run shows nothing of it."""
    empty = [row["mode"] for row in report["rows"] if row["num_failed"] == row["num_requests"]]
    if empty:
        raise ServiceError(f"Every request failed in mode {', '.join(dict.fromkeys(empty))}; see requests.jsonl.")
