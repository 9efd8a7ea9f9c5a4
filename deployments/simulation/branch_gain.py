"""What branches give: versions of the nearest draft steps, by the production session on a simulated clock.

Promises: each version agrees with the target as often as the first one does and independently of it, which is more than
sampled versions of one model do: what is printed is an upper bound. A pass costs what it holds.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Annotated

import typer

from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.clock import Clock
from deployments.simulation.controller_grid import Cell
from deployments.simulation.driver import measure_fast
from deployments.simulation.workload import Opening

BRANCHES = (1, 2, 4)


def tokens_per_s(cell: Cell, depth: int, branches: int, num_steps: int) -> float:
    """Of all users together; depth 0 is the target alone."""

    def opening(_: Clock) -> Opening:
        def open_request(settings: SessionSettings) -> tuple[Session, tuple[()]]:
            return Session(settings), ()

        return open_request

    settings = replace(cell.settings(depth), branches=branches if depth else 1)
    return measure_fast(cell.machine(), settings, cell.users, num_steps, cell.script, opening).tokens_per_s


def main(
    alphas: Annotated[str, typer.Option(help="Acceptance rates.")] = "0.4,0.6,0.8",
    shares: Annotated[str, typer.Option(help="What one more sequence adds to a pass.")] = "0,0.02,0.1",
    users: Annotated[str, typer.Option(help="Users at once.")] = "1,8",
    cost: Annotated[float, typer.Option(help="Draft's time over the target's.")] = 0.1,
    depth: Annotated[int, typer.Option(help="How deep to look ahead.")] = 4,
    steps: Annotated[int, typer.Option(help="Steps of each user.")] = 400,
) -> None:
    """Print the speed-ups over the target alone as a table in Markdown."""
    lists = [[float(value) for value in text.split(",")] for text in (alphas, shares, users)]
    print("| alpha | share | users | " + " | ".join(f"{n} version{'s' if n > 1 else ''}" for n in BRANCHES) + " |")
    print("|---" * (3 + len(BRANCHES)) + "|")
    for alpha, share, num_users in itertools.product(*lists):
        cell = Cell(alpha, cost, share, int(num_users), length_effect=0.0)
        total = int(steps * num_users)
        alone = tokens_per_s(cell, 0, 1, total)
        gains = (tokens_per_s(cell, depth, branches, total) / alone for branches in BRANCHES)
        print(
            f"| {alpha:g} | {share:g} | {num_users:g} | " + " | ".join(f"{gain:.2f}" for gain in gains) + " |",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
