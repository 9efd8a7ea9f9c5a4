"""The published table of Lookahead Reasoning (arXiv 2506.19830) from its accept rates and one overhead figure.

Promises: each row stands beside the paper's. What goes in: the accept rate of each set, the n-gram speed-up of each set
(the token level is not predicted, since no token accept rates are published; those of the first pair stand in for the
second, for which no n-gram row is published), one ratio c of a draft step to a target step for both pairs, assumed, and
one overhead for all rows: the time between the end of a target step and its verdict, over a plain target step. It is
fitted to the fourteen rows of lookahead alone unless it is given; the rows of both levels are then predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.theory import window_speed_up
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Cluster, Ended, Pool
from deployments.simulation.costs import EngineCost, linear_cost
from deployments.simulation.decisions import Decisions
from deployments.simulation.passages import Passages
from deployments.simulation.request import Request
from deployments.simulation.scripts import RandomScript

COST_RATIO = 0.1
"""A draft step of 1.5B or 1.7B over a target step of 32B: assumed; the paper does not give it."""
DEPTH = 10
"""So deep that the draft never waits (1 / c)."""
STEP_TOKENS = 20
STEPS_PER_TEXT = 500


@dataclass(frozen=True, slots=True)
class Published:
    """One set of one pair as published: speed-ups over plain decoding. `ngram` None: not published."""

    pair: str
    name: str
    accept_rate: float
    lookahead: float
    ngram: float | None
    both: float


SETS = ("AIME24", "AMC23", "GSM8K", "HumanEval", "GPQA", "MT-Bench", "LiveCodeBench")
_FIRST, _SECOND = "R1-Distill 1.5B -> 32B", "Qwen3 1.7B -> 32B"
_NGRAM = (1.53, 1.50, 1.39, 1.32, 1.48, 1.25, 1.45)
_ROWS: dict[str, tuple[tuple[float, float, float], ...]] = {
    _FIRST: (
        (0.47, 1.36, 1.82),
        (0.58, 1.48, 2.00),
        (0.63, 1.71, 2.11),
        (0.44, 1.27, 1.54),
        (0.35, 1.14, 1.63),
        (0.48, 1.27, 1.51),
        (0.47, 1.21, 1.58),
    ),
    _SECOND: (
        (0.43, 1.12, 1.49),
        (0.53, 1.22, 1.62),
        (0.50, 1.32, 1.68),
        (0.39, 1.13, 1.39),
        (0.30, 1.04, 1.44),
        (0.38, 1.10, 1.49),
        (0.40, 1.08, 1.32),
    ),
}
PUBLISHED = tuple(
    Published(pair, SETS[i], rate, lookahead, _NGRAM[i] if pair == _FIRST else None, both)
    for pair, rows in _ROWS.items()
    for i, (rate, lookahead, both) in enumerate(rows)
)


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A published set, and what formula and session give for it."""

    published: Published
    ngram_used: float
    lookahead_formula: float
    lookahead_session: float
    both_formula: float
    both_session: float

    @property
    def lookahead_off(self) -> float:
        """The session over the paper, less 1."""
        return self.lookahead_session / self.published.lookahead - 1.0

    @property
    def both_off(self) -> float:
        """The session over the paper, less 1."""
        return self.both_session / self.published.both - 1.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"lookahead_off": self.lookahead_off, "both_off": self.both_off}


def fitted_overhead() -> float:
    """The overhead at which the formula's rows of lookahead alone are nearest to the paper's, in squared logarithms."""

    def off(overhead: float) -> float:
        return sum(
            math.log(window_speed_up(row.accept_rate, COST_RATIO, DEPTH, overhead) / row.lookahead) ** 2
            for row in PUBLISHED
        )

    low, high = 0.0, 2.0
    for _ in range(60):
        third = (high - low) / 3.0
        low, high = (low, high - third) if off(low + third) < off(high - third) else (low + third, high)
    return (low + high) / 2.0


def reproduce(overhead: float, num_steps: int, tell: Callable[[int], None] = lambda done: None) -> list[Reproduced]:
    """Every row, the session's by `num_steps` steps on a virtual clock. `tell` is told how many rows are done."""
    alone, together = _decisions(), _decisions()
    rows = []
    for done, row in enumerate(PUBLISHED):
        gain = row.ngram if row.ngram is not None else _NGRAM[SETS.index(row.name)]
        seed = 1000 * done
        rows.append(
            Reproduced(
                row,
                gain,
                window_speed_up(row.accept_rate, COST_RATIO, DEPTH, overhead),
                session_speed_up(alone, row.accept_rate, COST_RATIO, overhead, num_steps, seed),
                # Both levels: the target's steps are `gain` times as fast, draft and overhead are what they were.
                window_speed_up(row.accept_rate, COST_RATIO * gain, DEPTH, overhead * gain) * gain,
                session_speed_up(together, row.accept_rate, COST_RATIO * gain, overhead * gain, num_steps, seed) * gain,
            )
        )
        tell(done + 1)
    return rows


def session_speed_up(
    decisions: Decisions, alpha: float, c: float, verdict: float, num_steps: int, seed: int = 0
) -> float:
    """Of one user, over plain decoding: steps take one second on the target, `c` on the draft, verdicts `verdict`."""
    clock = Clock()
    target, draft = linear_cost(1.0 / STEP_TOKENS, 0.0), linear_cost(c / STEP_TOKENS, 0.0)
    judge = EngineCost(((1, max(verdict, 1e-9)),))
    cluster = Cluster(clock, decisions, Pool(clock, target, 1), Pool(clock, draft, 1), Pool(clock, judge, 1))
    passages = Passages(lambda number: RandomScript(seed + number, STEPS_PER_TEXT, alpha, STEP_TOKENS, 0.0, 0.0))
    begun = 0

    def ask(_: Ended | None = None) -> None:
        nonlocal begun
        begun += 1
        Request(cluster, begun, passages.of(begun), 0, lambda _: clock.after(0.0, ask))

    ask()
    while cluster.counts.num_committed < num_steps:
        clock.tick()
    return cluster.counts.num_committed_tokens / STEP_TOKENS / clock.now


def _decisions() -> Decisions:
    return Decisions(SessionSettings("", (), (), "", 1, max_lookahead=DEPTH, verifier="simulated"))


def conclusion(rows: list[Reproduced], overhead: float, fitted: bool) -> list[str]:
    """What the rows say, in sentences."""
    alone, both = [row.lookahead_off for row in rows], [row.both_off for row in rows]
    worst = max(rows, key=lambda row: abs(row.lookahead_off))
    worst_both = max(rows, key=lambda row: abs(row.both_off))
    pairs = {pair: sum(row.lookahead_off for row in rows if row.published.pair == pair) / len(SETS) for pair in _ROWS}
    return [
        f"With an overhead of {overhead:.2f} of a target step ({'fitted' if fitted else 'given'}), the rows of "
        f"lookahead alone are {_mean(alone):.1%} off in the mean of absolute differences, {worst.published.name} of "
        f"{worst.published.pair} most ({worst.lookahead_off:+.0%}).",
        f"The rows of both levels, to which nothing is fitted, are {_mean(both):.1%} off, "
        f"{worst_both.published.name} of {worst_both.published.pair} most ({worst_both.both_off:+.0%}).",
        "Where they differ: "
        + ", ".join(f"{pair} is {mean:+.0%} off on average" for pair, mean in pairs.items())
        + "; one cost ratio and one overhead for both pairs cannot show that they differ in both.",
    ]


def _mean(values: list[float]) -> float:
    return sum(abs(value) for value in values) / len(values)
