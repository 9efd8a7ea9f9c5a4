"""Where step-level speculation wins at equal hardware: a map over cost ratio, acceptance and parallel efficiency. Pure.

Promises: both sides have the same GPUs. The target alone is spread over all of them, with the best token-level
speculation; with lookahead the draft's share of them is the draft's, the target has the rest and its own token-level
speculation. Spreading the target over x times the GPUs makes it 1 + (x - 1) e times as fast, e being its parallel
efficiency. What is drawn is the e below which lookahead wins: ours, from the formulas of `theory.py`; single cells are
checked by the session on a simulated clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deployments.coordinator.theory import token_speed_up, window_speed_up
from deployments.simulation.asking import settings_for
from deployments.simulation.decisions import Decisions
from deployments.simulation.published import session_speed_up

COSTS = (0.05, 0.1, 0.2, 0.3, 0.4)
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOKENS = range(1, 17)


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for the whole map. `share`: the draft's GPUs over the target's. Token level: `token_alpha` and
    `token_cost` of the target alone's best method (a draft model, say), `inner_alpha` of what costs nothing inside
    lookahead (n-gram look-up or hints). `verdict`: of a plain target step."""

    share: float = 0.5
    token_alpha: float = 0.75
    token_cost: float = 0.1
    inner_alpha: float = 0.35
    depth: int = 8
    verdict: float = 0.02

    @property
    def alone_gain(self) -> float:
        """The target alone with the best number of proposed tokens."""
        return max(token_speed_up(self.token_alpha, self.token_cost, k) for k in TOKENS)

    @property
    def inner_gain(self) -> float:
        """The target's token level under lookahead."""
        return max(token_speed_up(self.inner_alpha, 0.0, k) for k in range(1, 9))


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the map. `break_even`: the parallel efficiency below which lookahead wins; None where it was not
    simulated. At 0 or less it never wins, at 1 or more it always does."""

    alpha: float
    c: float
    break_even: float
    simulated: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"alpha": self.alpha, "c": self.c, "break_even": self.break_even, "simulated": self.simulated}


def break_even(terms: Terms, step_speed_up: float) -> float:
    """The efficiency at which the target alone is as fast as lookahead of so much step-level speed-up.

    1 + share e = step_speed_up * inner_gain / alone_gain, solved for e.
    """
    return (step_speed_up * terms.inner_gain / terms.alone_gain - 1.0) / terms.share


def draw(terms: Terms, num_steps: int = 0, tell: Callable[[float], None] = lambda part: None) -> list[Cell]:
    """All cells, rows of alpha; with `num_steps` every other one of both is simulated over so many steps."""
    decisions = Decisions(settings_for("lookahead", terms.depth))
    gain = terms.inner_gain
    cells: list[Cell] = []
    for row, alpha in enumerate(ALPHAS):
        for column, c in enumerate(COSTS):
            formula = window_speed_up(alpha, min(c * gain, 1.0), terms.depth, terms.verdict * gain)
            simulated = None
            if num_steps and row % 2 == 1 and column % 2 == 1:
                played = session_speed_up(decisions, alpha, c * gain, terms.verdict * gain, num_steps, 100 * row)
                simulated = break_even(terms, played)
            cells.append(Cell(alpha, c, break_even(terms, formula), simulated))
            tell(len(cells) / (len(ALPHAS) * len(COSTS)))
    return cells
