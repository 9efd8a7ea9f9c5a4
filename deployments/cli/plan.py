"""``lookahead plan``: how to lay models out on GPUs for given traffic, why, and where the next GPU belongs.

Promises: needs no GPU, no Ray and no model; the profile it writes is one that ``lookahead serve --config`` takes; what
is estimated is called so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actors.errors import RequestError
from deployments.cli.terminal import Json, print_json, progress_on, words_console, write_page, write_text

if TYPE_CHECKING:
    from deployments.planning.answer import Plan
    from deployments.planning.map import Cell, Terms

BAR = 40


def plan(
    target: Annotated[str, typer.Option(help="The target, such as r1-distill-32b.")] = "r1-distill-32b",
    draft: Annotated[str, typer.Option(help="The draft, such as r1-distill-1.5b.")] = "r1-distill-1.5b",
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs there are.")] = 8,
    gpu: Annotated[str | None, typer.Option(help="Their kind: l40s, a100, h100, h200, b200.")] = None,
    costs: Annotated[
        Path | None, typer.Option(help="Engines as `lookahead calibrate --engine` measured them, instead of --gpu.")
    ] = None,
    users: Annotated[float | None, typer.Option(min=1.0, help="Users at once, each one request after another.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.0001, help="Requests a second, instead of --users.")] = None,
    objective: Annotated[str, typer.Option(help="latency: the fastest; cost: the cheapest that is fast enough.")] = (
        "latency"
    ),
    min_speed: Annotated[float, typer.Option(min=0.0, help="Tokens a second that each user gets at least.")] = 0.0,
    max_latency: Annotated[float | None, typer.Option(min=0.1, help="Seconds that a request takes at most.")] = None,
    alpha: Annotated[float, typer.Option(min=0.0, max=1.0, help="Steps of the draft that are accepted.")] = 0.6,
    token_alpha: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Tokens of n-gram look-up that are accepted.")
    ] = 0.35,
    draft_token_alpha: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Tokens of the draft that are the target's: as hints, or inside its engine."
        ),
    ] = 0.75,
    output_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 3000,
    price: Annotated[float, typer.Option(min=0.0, help="Dollars an hour for a GPU (0: an assumed price).")] = 0.0,
    show_map: Annotated[
        bool, typer.Option("--map", help="Instead: where step-level speculation wins at equal hardware.")
    ] = False,
    map_share: Annotated[float, typer.Option(min=0.01, help="With --map: the draft's GPUs over the target's.")] = 0.5,
    write_profile: Annotated[Path | None, typer.Option(help="Write the plan as a profile.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots.")] = None,
    json_output: Json = False,
) -> None:
    """Plan a cluster: replicas, tensor parallelism, depth and token level for a pair of models and its traffic.

    Example: lookahead plan --gpus 8 --gpu h100 --users 4 --write-profile planned.yaml

    Example: lookahead plan --map
    """
    console = words_console(json_output)
    if show_map:
        result, page = _map(console, map_share)
    else:
        from deployments.planning.question import Objective, Question

        if objective not in list(Objective):
            raise RequestError(f"--objective is latency or cost, not {objective!r}.", "objective")
        question = Question(
            target=target,
            draft=draft,
            gpu=gpu if gpu is not None or costs is not None else "h100",
            num_gpus=gpus,
            users=users if users is not None or rate is not None else 8.0,
            rate=rate,
            objective=Objective(objective),
            min_speed=min_speed,
            max_latency=max_latency,
            alpha=alpha,
            token_alpha=token_alpha,
            draft_token_alpha=draft_token_alpha,
            output_tokens=output_tokens,
            usd_per_gpu_hour=price,
            costs=costs,
        )
        result, page = _plan(console, question, write_profile)
    if html is not None:
        write_page(console, html, page)
    if json_output:
        print_json(result)


def _plan(console: Console, question: Any, write_profile: Path | None) -> tuple[dict[str, Any], str]:
    from deployments.planning.answer import beyond_timed, token_level, why
    from deployments.planning.answer import plan as make_plan
    from deployments.planning.profile import profile_text

    with progress_on(console) as progress:
        task = progress.add_task("planning", total=1.0)
        answer = make_plan(question, lambda part: progress.update(task, completed=part))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in NAMES:
        table.add_column(name, justify="right")
    for cells in rows(answer):
        table.add_row(*cells)
    console.print(table)
    words = [*why(answer), *token_level(answer), *_next(answer), *beyond_timed(answer)]
    if question.costs is None:
        words.append("Engines and prices are estimated, not measured.")
    for sentence in words:
        console.print(sentence, markup=False, soft_wrap=True)
    _draw_frontier(console, answer)
    if write_profile is not None:
        write_text(write_profile, profile_text(answer))
        console.print(f"Wrote {write_profile}.", markup=False, soft_wrap=True)
    wrote = str(write_profile) if write_profile is not None else None
    return {**answer.as_dict(), "conclusion": words, "wrote": wrote}, _plan_page(answer, words)


NAMES = ("", "target", "draft", "depth", "k", "a user", "formula", "latency", "all", "$/million")
"""`k`: tokens that the target's engine checks in a pass; with * a draft model inside it writes them. Then tokens a
second of a user, simulated and by formula; of all users; dollars for a million tokens."""


def rows(answer: Plan) -> list[list[str]]:
    """The chosen layout and its rivals."""
    found = []
    for number, one in enumerate((answer.chosen, *answer.rivals)):
        layout, shown = one.predicted.layout, one.as_simulated
        price = shown.usd_per_million(answer.question)
        found.append(
            [
                "" if number else "chosen",
                f"{layout.num_targets} x {layout.target_gpus}",
                f"{layout.num_drafts} x {layout.draft_gpus}" if layout.depth else "-",
                "guided" if layout.is_guided else str(layout.depth) if layout.depth else "-",
                f"{layout.num_proposed}*" if layout.by_draft else str(layout.num_proposed),
                f"{shown.user_tokens_per_s:.1f}",
                f"{one.predicted.user_tokens_per_s:.1f}",
                f"{shown.latency_s(answer.question):.1f} s",
                f"{shown.tokens_per_s:.0f}",
                f"{price:.2f}" if price else "-",
            ]
        )
    return found


def _next(answer: Plan) -> list[str]:
    """Where more GPUs would go."""
    words = {
        "target": "one more target replica",
        "wider target": "targets of twice the GPUs",
        "draft": "one more draft",
        "verifier": "a verifier twice as fast",
    }
    places = [f"{words[one.place]} {one.gain:+.1%} a GPU" for one in answer.next_gpus]
    return [f"More GPUs, best first: {', '.join(places)}."] if places else []


def _draw_frontier(console: Console, answer: Plan) -> None:
    """Bars in the terminal: speed of a user by users, of both kinds."""
    pairs = [(point.users, point.ahead, point.alone) for point in answer.frontier]
    most = max([one.user_tokens_per_s for _, *both in pairs for one in both if one is not None], default=1.0)
    console.print("Tokens a second of a user, by users at once (formula, all GPUs):")
    for users, ahead, alone in pairs:
        for name, one, style in (("lookahead", ahead, "green"), ("target", alone, "bright_blue")):
            if one is not None:
                bar = "█" * max(round(BAR * one.user_tokens_per_s / most), 1)
                console.print(f"{users:>6.0f} {name:<10}[{style}]{bar}[/] {one.user_tokens_per_s:.0f}", soft_wrap=True)


def _plan_page(answer: Plan, words: list[str]) -> str:
    from deployments.planning.profile import profile_text
    from deployments.simulation.page import Line, lines, page, table

    curves = []
    for name in ("ahead", "alone"):
        points = [(point, getattr(point, name)) for point in answer.frontier]
        curve = [(one.user_tokens_per_s, one.tokens_per_s / answer.question.num_gpus) for _, one in points if one]
        curves.append(Line("lookahead" if name == "ahead" else "target alone", sorted(curve)))
    from html import escape

    return page(
        "lookahead plan",
        words,
        [
            ("Layouts, as simulated", table(NAMES, rows(answer))),
            (
                "The frontier: what all users get against what each gets",
                lines(curves, "tokens/s of a user", "tokens/s a GPU"),
            ),
            ("The profile", f"<pre>{escape(profile_text(answer))}</pre>"),
        ],
    )


def _map(console: Console, share: float) -> tuple[dict[str, Any], str]:
    from dataclasses import asdict

    from deployments.planning.map import ALPHAS, COSTS, Terms, draw
    from deployments.simulation.page import Line, lines, page
    from deployments.simulation.page import table as html_table

    terms = Terms(share=share)
    with progress_on(console) as progress:
        task = progress.add_task("cells", total=1.0)
        cells = draw(terms, 2000, lambda part: progress.update(task, completed=part))
    names = ["accepted", *[f"c = {c:g}" for c in COSTS]]
    shown = [[f"{alpha:.1f}", *[map_cell(c) for c in cells if c.alpha == alpha]] for alpha in ALPHAS]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, justify="right")
    for row in shown:
        table.add_row(*row)
    console.print(table)
    words = map_words(terms, cells)
    for sentence in words:
        console.print(sentence, markup=False, soft_wrap=True)
    curves = [Line(f"c = {c:g}", [(x.alpha, max(x.break_even, 0.0)) for x in cells if x.c == c]) for c in COSTS]
    sections = [
        ("Parallel efficiency below which lookahead wins", html_table(names, shown)),
        ("The same, drawn", lines(curves, "accepted", "parallel efficiency")),
    ]
    result = {"terms": asdict(terms), "cells": [cell.as_dict() for cell in cells], "conclusion": words}
    return result, page("lookahead plan --map", words, sections)


def map_cell(cell: Cell) -> str:
    """The break-even in words, the simulated one in brackets."""

    def word(value: float) -> str:
        return "never" if value <= 0.0 else "always" if value >= 1.0 else f"{value:.2f}"

    return word(cell.break_even) + (f" ({word(cell.simulated)})" if cell.simulated is not None else "")


def map_words(terms: Terms, cells: list[Cell]) -> list[str]:
    """What the map says."""
    wins = sum(cell.break_even > 0.6 for cell in cells)
    pairs = [(cell.break_even, cell.simulated) for cell in cells if cell.simulated is not None]
    off = max((abs(formula - simulated) for formula, simulated in pairs), default=0.0)
    return [
        "Step-level speculation wins at equal hardware where the target's parallel efficiency is below the number: at "
        f"0.6, in {wins} of {len(cells)} places.",
        f"The draft has {terms.share:g} GPUs for each of the target's; the target alone has them too, and token-level "
        f"speculation worth {terms.alone_gain:.2f}x; inside lookahead it is worth {terms.inner_gain:.2f}x.",
        f"In brackets: the session on a simulated clock; at most {off:.2f} from the formula.",
    ]
