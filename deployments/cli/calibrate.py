"""``lookahead calibrate``: which threshold of a check reaches the precision that is wished for, on recorded steps.

Promises: recorded pairs are on disk as soon as their problem is done, and labels that a verifier gave however the
command ends; what a threshold reaches is said with its interval, and one that is not shown to reach the wish is not
written, nor is one into a file that has another check than the one that is measured; a cluster is started only where a
model has to be asked, and ends with the command; what engines were timed alone is on disk before the server is asked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from actors.errors import RequestError
from deployments.cli.terminal import Json, Temperature, print_json, progress_on, words_console, write_text

if TYPE_CHECKING:
    from deployments.bench.problems import Problem
    from deployments.calibration.pairs import StepPair
    from deployments.calibration.record import Solution
    from deployments.calibration.scoring import Judge, Place, Result
    from deployments.config import Config

PAIRS_FILE, LABELLED_FILE = "pairs.jsonl", "labelled.jsonl"
"""Pairs as they were recorded, and as a verifier labelled them."""
BY_ANSWER = "answer"
SYNTHETIC_SEED = 7_001
"""Of the problems that are made up: others than those on which a benchmark then measures what a threshold does."""
Bar = Callable[[str, int], Callable[[], None]]


def calibrate(
    pairs: Annotated[
        Path | None, typer.Option(help="Recorded pairs, or requests.jsonl of a bench run with --traces.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record pairs: target and draft on the same prefixes.")
    ] = False,
    profile: Annotated[str | None, typer.Option(help="The profile with the check (default: local).")] = None,
    config: Annotated[str | None, typer.Option(help="A config file instead of a profile.")] = None,
    data: Annotated[str, typer.Option(help="Problems to record on: JSON lines, or 'synthetic'.")] = "synthetic",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many problems, or pairs.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest recorded solution, in tokens.")] = 512,
    temperature: Temperature = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Problems, or verdicts, at once.")] = 4,
    verifier: Annotated[
        str | None, typer.Option(help="Its verifier; by default the default fidelity's, or balanced.")
    ] = None,
    check: Annotated[
        str | None, typer.Option(help="The check; by default the verifier's last one with a score.")
    ] = None,
    label_by: Annotated[
        str | None, typer.Option(help="A stronger verifier by its name, or 'answer' (the default of --record).")
    ] = None,
    precision: Annotated[float, typer.Option(min=0.5, max=0.999, help="The precision that is wished for.")] = 0.95,
    out: Annotated[Path, typer.Option(help="Folder for the pairs and the report.")] = Path("calibration"),
    engine: Annotated[
        bool, typer.Option("--engine", help="Instead: time the profile's engines, for simulate and plan.")
    ] = False,
    write_profile: Annotated[
        Path | None, typer.Option(help="Write what was found into this YAML; a new file starts as the profile.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Find the threshold of a check that reaches a precision, by labelled pairs of steps.

    Example: lookahead calibrate --record --profile local --data synthetic --limit 40 --precision 0.9 --out runs/pairs

    Example: lookahead calibrate --pairs runs/pairs/pairs.jsonl --verifier balanced --label-by judge

    Example: lookahead calibrate --engine --profile local --out costs
    """
    if engine:
        _time_engines(profile, config, out, json_output)
        return
    from deployments.calibration.pairs import read_pairs
    from deployments.calibration.profile_file import require_measured
    from deployments.calibration.report import build, conclusion, write
    from deployments.calibration.scoring import find_place, opened
    from deployments.cli.serve import choose

    if record == (pairs is not None):
        raise RequestError("Give --pairs FILE or --record: one of the two.", "pairs")
    settings = choose(profile, config)
    place = find_place(settings, verifier, check)
    if write_profile is not None and write_profile.exists():
        require_measured(_read(write_profile), place, settings, str(write_profile))
    work = _Work(
        console=words_console(json_output),
        config=opened(settings, place),
        place=place,
        pairs=read_pairs(pairs, limit) if pairs is not None else None,
        problems=_problems(data, limit) if record else [],
        pairs_file=out / PAIRS_FILE,
        label_by=_label_by(settings, label_by, record),
        max_tokens=max_tokens,
        temperature=temperature,
        concurrency=concurrency,
    )
    found, result = work.run()
    report = build(place, result, found, precision)
    write(out, report)
    wrote = None
    if write_profile is not None and report["threshold"] is not None:
        _write_profile(write_profile, profile, config, place, report)
        wrote = str(write_profile)
    if json_output:
        print_json({**report, "report": str(out / "calibration.html"), "wrote": wrote})
    _show(work.console, report, conclusion(report), out, wrote)
    if write_profile is not None and wrote is None:
        raise RequestError(f"{write_profile} was not written: no threshold is shown to reach the wish.", "precision")


def _time_engines(profile: str | None, config: str | None, out: Path, json_output: bool) -> None:
    """Writes ``costs.yaml`` into `out`: first what the engines take alone, then with what the server adds."""
    from deployments.calibration.engine_run import COSTS_FILE, time_engines
    from deployments.calibration.served import as_measured, measure_served, num_asked
    from deployments.cli.cluster import server
    from deployments.cli.serve import choose
    from deployments.simulation.cost_file import write_costs

    console = words_console(json_output)
    settings = choose(profile, config)
    file = _folder(out) / COSTS_FILE
    with progress_on(console, MofNCompleteColumn()) as progress:
        bar = _bars_of(progress)
        costs = asyncio.run(time_engines(settings, bar))
        write_costs(file, costs.model_copy(update={"source": f"{costs.source}, engines alone"}))
        tell = bar("both as served", num_asked(settings))
        try:
            with server(as_measured(settings), None) as url:
                costs = measure_served(url, settings, costs, tell)
        except BaseException:
            kept = f"{file} has what was timed of the engines alone, without what a server adds to it."
            console.print(kept, style="yellow", markup=False, soft_wrap=True)
            raise
    write_costs(file, costs)
    if json_output:
        print_json({**costs.model_dump(mode="json"), "wrote": str(file)})
    for role in (costs.target, costs.draft):
        points = ", ".join(f"{1000 * seconds:.0f} ms at {size}" for size, seconds in role.passes[0].pass_s)
        more = f"{role.disturbance:.0%} more as served beside the other"
        if role.disturbance_guided is not None:
            more += f", {role.disturbance_guided:.0%} while words go between them"
        more += f", {1000 * role.stream_s:.0f} ms more for each in the server" if role.stream_s else ""
        console.print(f"{role.model}: a pass takes {points}; {more}.", markup=False, soft_wrap=True)
    if costs.unsteady:
        console.print(costs.unsteady, style="yellow", markup=False, soft_wrap=True)
    console.print(f"Wrote {file}; give it to simulate (costs:) and plan (--costs).", markup=False, soft_wrap=True)


def _bars_of(progress: Progress) -> Bar:
    """What begins a bar of `progress`, and gives what moves it on by one."""

    def bar(words: str, total: int) -> Callable[[], None]:
        task = progress.add_task(words, total=total)
        return lambda: progress.advance(task)

    return bar


@dataclass(frozen=True, slots=True)
class _Work:
    """One start of the command. `pairs` were given; None: they are recorded on `problems`, into `pairs_file`."""

    console: Console
    config: Config
    place: Place
    pairs: list[StepPair] | None
    problems: Sequence[Problem]
    pairs_file: Path
    label_by: str | None
    max_tokens: int
    temperature: float
    concurrency: int

    def run(self) -> tuple[list[StepPair], Result]:
        """The labelled pairs, and what the check makes of them; with a cluster while one is needed."""
        from deployments.calibration.roles import asks_models
        from deployments.cli.cluster import server

        if self.pairs is None and self.pairs_file.exists():
            raise RequestError(f"{self.pairs_file} is there already: use it with --pairs, or another --out.", "out")
        needs_cluster = self.pairs is None or asks_models(self.config, self._verifiers)
        # Serve's handles in this process are shut down after the loop of `asyncio.run`: they need one of their own.
        os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "1")
        with server(self.config, None) if needs_cluster else nullcontext():
            return asyncio.run(self._work(needs_cluster))

    @property
    def _verifiers(self) -> list[str]:
        """Those that are asked."""
        from deployments.calibration.scoring import BEFORE, OPEN

        return [name for name in (BEFORE, OPEN, self.label_by) if name in self.config.verifier.verifiers]

    async def _work(self, has_cluster: bool) -> tuple[list[StepPair], Result]:
        from deployments.calibration.roles import deployed_judge, local_judge
        from deployments.calibration.scoring import measure

        with progress_on(self.console, MofNCompleteColumn(), remaining=True) as progress:
            bar = _bars_of(progress)
            pairs, why = self.pairs if self.pairs is not None else await self._record(bar), ""
            judge = deployed_judge() if has_cluster else await local_judge(self.config, self._verifiers)
            if self.label_by is not None and self.label_by != BY_ANSWER:
                pairs, why = await self._label(pairs, judge, self.label_by, bar)
            num_labelled = sum(pair.same is not None for pair in pairs)
            if not num_labelled:
                raise RequestError(
                    f'No pair has a label{why}: give "same": true or false in the file, name a stronger verifier with '
                    "--label-by, or record on problems that the target answers rightly.",
                    "label_by",
                )
            result = await measure(pairs, judge, self.place, self.concurrency, bar("scoring", num_labelled))
        return pairs, result

    async def _label(
        self, pairs: Sequence[StepPair], judge: Judge, verifier: str, bar: Bar
    ) -> tuple[list[StepPair], str]:
        """The pairs with their labels, and in words why some have none; what was judged is in a file then."""
        from deployments.calibration.scoring import label

        judged: list[StepPair] = []
        reasons: list[str] = []

        def keep(pair: StepPair, reason: str | None) -> None:
            judged.append(pair)
            if reason is not None:
                reasons.append(reason.rstrip("."))

        try:
            tick = bar(f"labelling by {verifier}", len(pairs))
            pairs = await label(pairs, judge, verifier, self.concurrency, tick, keep)
        finally:
            # Asking a judge again for what it said costs more than anything else here.
            if any(pair.same is not None for pair in judged):
                file = _folder(self.pairs_file.parent) / LABELLED_FILE
                write_text(file, "".join(f"{pair.line()}\n" for pair in judged))
        if not reasons:
            return list(pairs), ""
        why = f"{verifier} gave none to {len(reasons)} of {len(pairs)}; the reason for the first: {reasons[0]}"
        self.console.print(f"Labels: {why}.", markup=False, soft_wrap=True)
        return list(pairs), f" ({why})"

    async def _record(self, bar: Bar) -> list[StepPair]:
        from deployments.calibration.record import record_all
        from deployments.calibration.roles import deployed_recorder

        recorder = deployed_recorder(self.config, self.max_tokens, self.temperature)
        tick = bar("recording", len(self.problems))
        with (_folder(self.pairs_file.parent) / self.pairs_file.name).open("w", encoding="utf-8") as file:

            def keep(solution: Solution) -> None:
                file.writelines(f"{pair.line()}\n" for pair in solution.pairs)
                file.flush()
                tick()

            found = await record_all(
                recorder, self.problems, self.concurrency, by_answer=self.label_by == BY_ANSWER, on_solution=keep
            )
        pairs = [pair for solution in found for pair in solution.pairs]
        num_equal = sum(solution.num_equal for solution in found)
        self.console.print(
            f"{len(pairs)} pairs in {self.pairs_file}; at {num_equal} more places both wrote the same.", soft_wrap=True
        )
        return pairs


def _problems(data: str, limit: int | None) -> list[Problem]:
    from deployments.bench.problems import DEFAULT_SYNTHETIC, read_problems, synthetic

    return synthetic(limit or DEFAULT_SYNTHETIC, SYNTHETIC_SEED) if data == "synthetic" else read_problems(data, limit)


def _label_by(config: Config, name: str | None, record: bool) -> str | None:
    """Who labels; None: the file. RequestError for a verifier that is not there."""
    if name is None:
        return BY_ANSWER if record else None
    if name == BY_ANSWER and not record:
        raise RequestError("Labels by the final answer are made while recording; use --record.", "label_by")
    if name != BY_ANSWER and name not in config.verifier.verifiers:
        known = ", ".join(config.verifier.verifiers)
        raise RequestError(f"There is no verifier {name!r} to label by; there are: {known}.", "label_by")
    return name


def _write_profile(path: Path, profile: str | None, config: str | None, place: Place, report: dict[str, Any]) -> None:
    """The threshold and the probabilities, into `path`, which starts as the configuration that was used."""
    from deployments.calibration.profile_file import with_check
    from deployments.config import profile_text

    if path.exists():
        text, source = _read(path), str(path)
    elif config is not None:
        text, source = _read(Path(config)), config
    else:
        profile = "local" if profile is None else profile
        text, source = profile_text(profile), f"profile {profile}"
    # Not rounded: a shorter number accepts what nothing was shown of, or no longer the pair that gave the threshold.
    accept = report["threshold"]["threshold"]
    zones = place.check.model_dump(include={"accept", "reject"})
    reject = accept if zones["reject"] == zones["accept"] else min(zones["reject"], accept)
    settings = {"accept": accept, "reject": reject, "calibration": report["calibration"]}
    write_text(path, with_check(text, place, settings, source))


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"The folder {path} cannot be made: {error.strerror}.", "out") from error
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}.", "config") from error


def _show(console: Console, report: dict[str, Any], words: str, out: Path, wrote: str | None) -> None:
    from deployments.calibration.page import num_of, shown

    for ended, counts in report["decided_before"].items():
        console.print(f"{ended}: {counts['num']} pairs, {counts['num_right']} of them rightly")
    for what in ("unscored", "unlabelled"):
        if num := report[f"num_{what}"]:
            console.print(f"{what}: {num_of(num, 'pair')}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("from", "accepted", "precision", "95 % interval", "recall"):
        table.add_column(name, justify="right")
    for one in shown(report["thresholds"]):
        interval = f"{one['low']:.3f}-{one['high']:.3f}"
        table.add_row(
            f"{one['threshold']:.4g}",
            str(one["num_accepted"]),
            f"{one['precision']:.3f}",
            interval,
            f"{one['recall']:.3f}",
        )
    console.print(table)
    console.print(words, markup=False, soft_wrap=True)
    console.print(f"Report: {out / 'calibration.html'}", markup=False, soft_wrap=True)
    if wrote is not None:
        console.print(f"Wrote {wrote}.", markup=False, soft_wrap=True)
