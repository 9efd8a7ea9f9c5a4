"""Other ways to speculate on steps that a benchmark recorded: depths, branches and stricter acceptance, by the
production session on a simulated clock.

Promises: steps, what became of them, and what draft, target and verifier took for them are those of the run, each row's
own; nothing is fitted to the run's speeds, and each row is also replayed as it was recorded, so that the error of the
method stands beside its figures. Speed-ups are over the run's own target alone, by time for a token, paired by problem.

What it does not know: the text after another decision than the recorded one (the steps are taken to be the same),
hints one by one (their effect is in the measured times), a draft's further versions of a step (`other_share`), the time
between calls.

Run: ``python -m deployments.simulation.replay --help``
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from actors.errors import LookaheadError, RequestError
from deployments.bench.folder import read_plan
from deployments.bench.record import read_requests
from deployments.bench.variants import asked, baseline, wishes
from deployments.coordinator.control.batch_cost import BatchCost
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.clock import Clock
from deployments.simulation.costs import EngineCost
from deployments.simulation.driver import measure_fast
from deployments.simulation.recorded import RecordedScript, script_of
from deployments.simulation.replay_text import is_guided
from deployments.simulation.scripts import Agreement, StepPair, uniform
from deployments.simulation.workload import Machine, Opening
from deployments.telemetry.timeline import Span, Trace, read_trace

SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
"""Batch sizes at which an engine's times are taken over."""
OTHER_SHARE = 0.1
"""The paper's acceptance rises from .63 to .83 with 8 versions of a step: each further one says what the target says in
so many of the cases in which the first does not."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request of a row: its problem, its steps, and what a token of it took."""

    problem: int
    script: RecordedScript
    token_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the run whose steps were judged one by one, what it asked for, the machine that its own times describe,
    and what a token of the target alone took, by problem."""

    variant: str
    asked: Mapping[str, Any]
    requests: tuple[Recorded, ...]
    machine: Machine
    alone_s: dict[int, float]

    @property
    def depth(self) -> int | None:
        """As it was asked for; None: the server's."""
        depth: int | None = self.asked.get("max_lookahead")
        return depth

    @property
    def num_branches(self) -> int:
        """As it was asked for."""
        number: int = self.asked.get("branches", 1)
        return number


@dataclass(frozen=True, slots=True)
class Way:
    """How the steps are replayed. `only_equal`: no verifier is asked, the target's own words count."""

    depth: int
    branches: int = 1
    only_equal: bool = False


@dataclass(frozen=True, slots=True)
class Versions:
    """A recorded request whose draft writes further versions of a step that it missed: `share` of them are right."""

    script: RecordedScript
    seed: int
    share: float
    only_equal: bool

    @property
    def num_steps(self) -> int:
        """As `Script.num_steps`."""
        return self.script.num_steps

    def pair(self, index: int, attempt: int) -> StepPair:
        """As `Script.pair`. No two wrong versions are the same: they differ in length."""
        pair = self.script.pair(index, 0)
        if self.only_equal and pair.agreement is Agreement.SAME:
            pair = replace(pair, agreement=Agreement.DIFFERENT)
        if pair.agreement is not Agreement.DIFFERENT or attempt == 0:
            return pair
        if uniform(self.seed, index, attempt, 7) < self.share:
            right = Agreement.EQUAL if self.only_equal else Agreement.SAME
            return StepPair(pair.num_target_tokens, pair.num_target_tokens, right)
        return replace(pair, num_draft_tokens=pair.num_draft_tokens + attempt)


def read_rows(folder: Path) -> list[Row]:
    """The rows of `folder` that can be replayed, without their guided requests, which have no steps; RequestError if
    there are none, or no row of the target alone."""
    plan, lines = _read_run(folder)
    found: defaultdict[str, dict[int, tuple[float, Trace]]] = defaultdict(dict)
    for line in lines:
        if line["trace"] and not line.get("error") and line.get("concurrency") == 1 and line.get("output_tokens"):
            trace = read_trace(line["trace"])
            if not is_guided(trace):
                found[line["mode"]][int(line["index"])] = (trace.duration_s / int(line["output_tokens"]), trace)
    alone = {problem: token_s for problem, (token_s, _) in found.get(baseline(list(found)), {}).items()}
    rows = [_row(variant, plan, timed, alone) for variant, timed in found.items() if _is_judged(variant, timed)]
    rows = [row for row in rows if row.requests]
    if not rows or not alone:
        raise RequestError(
            f"{folder} holds nothing to replay: it needs a row of the target alone and one of mode lookahead with "
            "steps that were judged, both with --traces and one request at a time.",
            "folder",
        )
    return rows


def _read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        return read_plan(folder), read_requests(folder)
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"The recorded run {folder} cannot be read: {error}.", "folder") from error


def _is_judged(variant: str, timed: dict[int, tuple[float, Trace]]) -> bool:
    return wishes(variant).get("mode") == "lookahead" and any(
        span.kind == "target" for _, trace in timed.values() for span in trace.spans
    )


def _row(variant: str, plan: Mapping[str, Any], timed: dict[int, tuple[float, Trace]], alone: dict[int, float]) -> Row:
    traces = [trace for _, trace in timed.values()]
    judged = [s for trace in traces for s in trace.spans if s.kind == "verdict" and s.outcome != "cancelled"]
    verdicts = [span.elapsed_s for span in judged]
    machine = Machine(
        _cost([[s for s in trace.spans if s.kind == "target"] for trace in traces]),
        _cost([[s for s in trace.spans if s.kind == "draft"] for trace in traces]),
        sum(verdicts) / len(verdicts) if verdicts else 0.0,
    )
    requests = [Recorded(problem, script_of(trace), token_s) for problem, (token_s, trace) in sorted(timed.items())]
    kept = tuple(one for one in requests if one.script.pairs and one.problem in alone)
    return Row(variant, asked(variant, plan), kept, machine, alone)


def _cost(requests: Iterable[Sequence[Span]]) -> EngineCost:
    """What an engine took for a token of a step, its call included, by how many steps it wrote at once."""
    cost = BatchCost()
    for spans in requests:
        for span in spans:
            if span.num_tokens and span.elapsed_s > 0.0 and span.outcome != "cancelled":
                together = sum(_overlap_s(span, other) for other in spans) / span.elapsed_s
                cost.add(together, span.elapsed_s / span.num_tokens, float(span.num_tokens))
    times = [max(cost.at(size), 1e-6) for size in SIZES]
    return EngineCost(tuple(zip(SIZES, times, strict=True)))


def _overlap_s(one: Span, other: Span) -> float:
    return max(min(one.end_s, other.end_s) - max(one.start_s, other.start_s), 0.0)


def replay(row: Row, way: Way, max_target_steps: int | None, other_share: float = OTHER_SHARE) -> dict[int, float]:
    """Seconds a token of each problem of `row`, its steps replayed in another `way`."""
    settings = SessionSettings(
        "",
        (),
        (),
        "",
        10**9,
        max_lookahead=way.depth,
        max_target_steps=max_target_steps,
        branches=way.branches,
        verifier=None if way.only_equal else "as recorded",
        spans=False,
        progress_s=0.2,
    )

    def opening(_: Clock) -> Opening:
        return lambda settings: (Session(settings), ())

    token_s = {}
    for one in row.requests:
        script = Versions(one.script, one.problem, other_share, way.only_equal)
        measured = measure_fast(row.machine, settings, 1, script.num_steps, partial(_only, script), opening)
        token_s[one.problem] = measured.elapsed_s / measured.num_tokens
    return token_s


def _only(script: Versions, _: int) -> Versions:
    return script


def errors(row: Row, way: Way, max_target_steps: int | None) -> list[float]:
    """By problem: the replayed time of a token over the real one, the row being replayed as it was recorded."""
    replayed = replay(row, way, max_target_steps)
    return [replayed[one.problem] / one.token_s for one in row.requests]


def main(
    folder: Annotated[Path, typer.Argument(help="A run of `lookahead bench --traces`.")],
    depths: Annotated[str, typer.Option(help="Steps to look ahead.")] = "1,2,4,8",
    branches: Annotated[str, typer.Option(help="Versions of a step, at the depth of the row.")] = "2,4",
    depth: Annotated[int, typer.Option(help="The server's, of rows that asked for none.")] = 4,
    max_target_steps: Annotated[int, typer.Option(help="The server's; 0: no bound.")] = 2,
    other_share: Annotated[
        float, typer.Option(help="In so many of the cases in which the draft's step is not the target's, another is.")
    ] = OTHER_SHARE,
) -> None:
    """Print the replayed rows as a table in Markdown, and the error of the method on the rows that were recorded."""
    bound = max_target_steps or None
    try:
        rows = read_rows(folder)
    except LookaheadError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    print("| steps of | acceptance | depth | branches | tokens/s | speed-up | |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        own = Way(row.depth or depth, row.num_branches)
        ways = [own, *(Way(number) for number in _numbers(depths)), *(Way(own.depth, n) for n in _numbers(branches))]
        ways += [replace(way, only_equal=True) for way in ways if way.branches == 1]
        print(_line(row, own, {one.problem: one.token_s for one in row.requests}, "measured"))
        for way in dict.fromkeys(ways):
            print(_line(row, way, replay(row, way, bound, other_share), "replayed"), flush=True)
    print()
    for row in rows:
        off = errors(row, Way(row.depth or depth, row.num_branches), bound)
        print(
            f"{row.variant}: replayed as recorded, a token takes {median(off):.2f} of its real time (median of "
            f"{len(off)} problems, {min(off):.2f} to {max(off):.2f})."
        )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


def _line(row: Row, way: Way, token_s: dict[int, float], what: str) -> str:
    speed_up = median(row.alone_s[problem] / seconds for problem, seconds in token_s.items())
    tokens_per_s = median(1.0 / seconds for seconds in token_s.values())
    acceptance = "only equal steps" if way.only_equal else "as recorded"
    columns = [f"`{row.variant}`", acceptance, str(way.depth), str(way.branches)]
    return f"| {' | '.join(columns)} | {tokens_per_s:.2f} | {speed_up:.2f} | {what} |"


if __name__ == "__main__":
    typer.run(main)
