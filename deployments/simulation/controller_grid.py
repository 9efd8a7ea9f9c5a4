"""Does the controller find the best depth? A grid of simulated machines and texts, every fixed depth beside it.

Promises: all runs of a cell write the same texts on the same machine; speed-ups are over the target alone with as many
users; the controller starts knowing nothing, and what it loses until it knows is in its figure. What is called best is
the best of the fixed depths in hindsight, so chance is on its side.

Run: ``python -m deployments.simulation.controller_grid --help``
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import typer

from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.pacer import Manner
from deployments.coordinator.pipeline import Observer
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.simulation import guided_grid
from deployments.simulation.clock import Clock
from deployments.simulation.costs import EngineCost
from deployments.simulation.driver import measure_fast
from deployments.simulation.guided_grid import GuidedCell
from deployments.simulation.scripts import RandomScript
from deployments.simulation.workload import NO_GAIN, HintGain, Machine, Measured, Opening

TOKEN_S = 0.1
DEPTHS = (1, 2, 4, 8)
MAX_DEPTH = 8
PROGRESS_S = 0.2
"""As in the shipped profiles: the target's words come as often, if it writes them as fast."""
LEAST_SPEED_UP, LEAST_OF_BEST = 0.97, 0.95
"""What the controller promises."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One machine, one kind of text, so many users. `c` is the draft's token over the target's, `share` what one more
    sequence adds to a pass of either engine (0: free, 1: saturated), `call_s` a call's latency."""

    alpha: float
    c: float
    share: float
    users: int = 1
    mean_tokens: float = 10.0
    sigma: float = 0.5
    length_effect: float = 0.5
    steps_per_request: int = 40
    call_s: float = 0.03
    verdict_s: float = 0.0
    hint_gain: HintGain = NO_GAIN
    max_num_seqs: int = 1_000_000
    num_coordinators: int = 1
    """Requests go to them by turns. Each has a controller of its own, which sees the others' work in the batch only."""

    def machine(self) -> Machine:
        """Its engines."""
        target = EngineCost(_line(TOKEN_S, self.share), call_s=self.call_s, max_num_seqs=self.max_num_seqs)
        draft = EngineCost(_line(TOKEN_S * self.c, self.share), call_s=self.call_s / 3.0)
        return Machine(target, draft, self.verdict_s, self.hint_gain)

    def script(self, number: int) -> RandomScript:
        """The text of request `number`."""
        equal_share = 0.5 if self.verdict_s else 1.0
        return RandomScript(
            number + 1,
            self.steps_per_request,
            self.alpha,
            self.mean_tokens,
            self.sigma,
            equal_share,
            self.length_effect,
        )

    def settings(self, depth: int) -> SessionSettings:
        """Those of every request; depth 0 is the target alone."""
        return SessionSettings(
            "",
            (),
            (),
            "",
            10**9,
            mode="lookahead" if depth else "target",
            max_lookahead=max(depth, 1),
            verifier="as scripted" if self.verdict_s else None,
            spans=False,
            progress_s=PROGRESS_S,
            restart_in_step=False,
        )


def _line(token_s: float, share: float) -> tuple[tuple[int, float], ...]:
    return ((1, token_s), (2, token_s * (1.0 + share)))


def run_fixed(cell: Cell, depth: int, num_steps: int) -> Measured:
    """All requests at one depth."""

    def opening(_: Clock) -> Opening:
        return lambda settings: (Session(settings), ())

    return measure_fast(cell.machine(), cell.settings(depth), cell.users, num_steps, cell.script, opening)


def run_controlled(
    cell: Cell, num_steps: int, watch: Callable[[Clock], tuple[Observer, ...]] = lambda _: ()
) -> Measured:
    """A fresh controller chooses for all of its coordinator's; `watch` makes further observers of every request, for a
    clock."""

    def opening(clock: Clock) -> Opening:
        turns = itertools.cycle([Controller() for _ in range(cell.num_coordinators)])
        manner = Manner(MAX_DEPTH, "as scripted")

        def open_request(settings: SessionSettings) -> tuple[Session, tuple[Observer, ...]]:
            pacer = next(turns).open(settings.session_id, manner, lambda: clock.now)
            return Session(settings, pacer.decide), (pacer, *watch(clock))

        return open_request

    return measure_fast(cell.machine(), cell.settings(MAX_DEPTH), cell.users, num_steps, cell.script, opening)


@dataclass(frozen=True, slots=True)
class Row:
    """Speed-ups over the target alone."""

    cell: Cell
    fixed: dict[int, float] = field(default_factory=dict)
    controlled: float = 1.0

    @property
    def best(self) -> float:
        """Of the fixed depths and the target alone."""
        return max(1.0, *self.fixed.values())

    @property
    def holds(self) -> bool:
        """Whether the controller kept both promises here."""
        return self.controlled >= LEAST_SPEED_UP and self.controlled >= LEAST_OF_BEST * self.best


def compare(cell: Cell, num_steps: int, depths: tuple[int, ...] = DEPTHS) -> Row:
    """Every policy on `cell`, for `num_steps` steps of each user."""
    total = num_steps * cell.users
    alone = run_fixed(cell, 0, total).tokens_per_s
    fixed = {depth: run_fixed(cell, depth, total).tokens_per_s / alone for depth in depths}
    return Row(cell, fixed, run_controlled(cell, total).tokens_per_s / alone)


def main(
    alphas: Annotated[str, typer.Option(help="Acceptance rates.")] = "0,0.5,0.85",
    costs: Annotated[str, typer.Option(help="Draft's time over the target's.")] = "0.1,0.5",
    shares: Annotated[str, typer.Option(help="What one more sequence adds to a pass.")] = "0,0.1,1",
    users: Annotated[str, typer.Option(help="Users at once.")] = "1,8",
    steps: Annotated[
        str, typer.Option(help="Steps of a single user; of each of several, over the root of their number.")
    ] = "800,100",
    coordinators: Annotated[int, typer.Option(help="Coordinators among which the users are spread.")] = 1,
    guided: Annotated[
        bool, typer.Option("--guided", help="Requests that are guided; --alphas are shares of tokens, not of steps.")
    ] = False,
) -> None:
    """Print the grid as a table in Markdown, and at the end where the promises do not hold."""
    lists = [[float(value) for value in text.split(",")] for text in (steps, alphas, costs, shares, users)]
    if guided:
        print_guided(lists)
        return
    rows = []
    print(
        "| steps | alpha | c | share | users | "
        + " | ".join(f"depth {depth}" for depth in DEPTHS)
        + " | controller | of the best |"
    )
    print("|---" * (7 + len(DEPTHS)) + "|")
    for num_steps, alpha, c, share, num_users in itertools.product(*lists):
        each = int(num_steps / num_users**0.5)
        row = compare(Cell(alpha, c, share, int(num_users), num_coordinators=coordinators), each)
        rows.append(row)
        fixed = " | ".join(f"{row.fixed[depth]:.2f}" for depth in DEPTHS)
        part = f"{row.controlled / row.best:.1%}" + ("" if row.holds else " (missed)")
        print(
            f"| {each} | {alpha:g} | {c:g} | {share:g} | {num_users:g} | {fixed} | {row.controlled:.2f} | {part} |",
            flush=True,
        )
    worst = min(row.controlled for row in rows), min(row.controlled / row.best for row in rows)
    missed = sum(not row.holds for row in rows)
    print(f"\n{missed} of {len(rows)} missed; least speed-up {worst[0]:.3f}, least part of the best {worst[1]:.1%}")


def print_guided(lists: list[list[float]]) -> None:
    """The grid of guided requests; `lists` are steps, shares of tokens, costs, shares and users."""
    rows = []
    print("| steps | alpha | c | share | users | guided | controller | of the best |\n" + "|---" * 8 + "|")
    for num_steps, alpha, c, share, num_users in itertools.product(*lists):
        each = int(num_steps / num_users**0.5)
        row = guided_grid.compare(GuidedCell(alpha, c, share, int(num_users)), each)
        rows.append(row)
        cells = f"{each} | {alpha:g} | {c:g} | {share:g} | {num_users:g} | {row.guided:.2f} | {row.controlled:.2f}"
        print(f"| {cells} | {row.controlled / row.best:.1%} |", flush=True)
    worst = min(row.controlled for row in rows), min(row.controlled / row.best for row in rows)
    print(f"\nleast speed-up {worst[0]:.3f}, least part of the better way {worst[1]:.1%}")


if __name__ == "__main__":
    typer.run(main)
