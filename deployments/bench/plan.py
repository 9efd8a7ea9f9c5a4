"""What a benchmark run will do, and in which order. Pure.

Promises: the order and the times of arrival are pure functions of the plan; all modes answer a group of prompts one
after another, in an order that turns from group to group, so that a machine that drifts hits all alike where there are
as many groups as modes, or a multiple of that; in an open loop all modes meet the same arrivals.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from deployments.bench.problems import INSTRUCTION, Problem

_BLOCK_FACTOR = 4
"""With many requests at once a block is so many times the concurrency, so that the loop stays full most of the time;
with few prompts it is less, down to once."""
_OPEN_BLOCK, _LEAST_OPEN_BLOCK = 32, 8
"""Arrivals of one block in an open loop, and with few prompts: it begins and ends with an idle server, and the more
there are, the less that counts."""
_LEAST_GROUPS = 3
"""Fewer give no interval (`figures.bootstrap_ci`)."""


@dataclass(frozen=True, slots=True)
class Load:
    """How requests arrive: from `concurrency` users who each ask again when they were answered (closed loop), or `rate`
    a second at random whoever has been answered (open loop, Poisson). Exactly one of the two is set."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.concurrency} at once" if self.rate is None else f"{self.rate:g} a second"

    @property
    def order(self) -> tuple[bool, float]:
        """Closed loops first, then by how much it is."""
        return (self.rate is not None, self.rate or float(self.concurrency or 0))


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides the results. `server` is an address, or a profile's or file's name with its fingerprint."""

    server: str
    data: str
    num_problems: int
    modes: tuple[str, ...]
    concurrency: tuple[int, ...]
    max_tokens: int
    temperature: float
    seed: int
    rates: tuple[float, ...] = ()
    fidelity: str | None = None
    verifier: str | None = None
    max_lookahead: int | None = None
    instruction: str = INSTRUCTION

    @property
    def loads(self) -> tuple[Load, ...]:
        """Every load of the run, in order."""
        return (*(Load(concurrency=n) for n in self.concurrency), *(Load(rate=rate) for rate in self.rates))

    @property
    def num_requests(self) -> int:
        """Measured requests of the whole run."""
        return self.num_problems * len(self.modes) * len(self.loads)


@dataclass(frozen=True, slots=True)
class Block:
    """Prompts that one mode answers in one loop."""

    mode: str
    load: Load
    indices: tuple[int, ...]


def blocks(plan: Plan) -> Iterator[Block]:
    """The run in order: per load, groups of prompts, each asked in every mode before the next group."""
    for load in plan.loads:
        for number, indices in enumerate(groups(plan, load)):
            turn = number % len(plan.modes)
            for mode in plan.modes[turn:] + plan.modes[:turn]:
                yield Block(mode, load, tuple(indices))


def groups(plan: Plan, load: Load) -> list[range]:
    """The prompts of the run as they are asked under `load`, one group after another."""
    num_groups = count_groups(plan, load)
    edges = (round(plan.num_problems * group / num_groups) for group in range(num_groups + 1))
    return [range(first, end) for first, end in pairwise(edges)]


def count_groups(plan: Plan, load: Load) -> int:
    """How many groups of prompts `load` is asked in: each prompt by itself where one request runs at a time; else as
    many as make blocks of a good size, but enough for the order of modes to turn whole and for an interval, as long as
    blocks do not become too small."""
    if load.concurrency == 1:
        return plan.num_problems
    least, good = _LEAST_OPEN_BLOCK, _OPEN_BLOCK
    if load.concurrency is not None:
        least, good = load.concurrency, load.concurrency * _BLOCK_FACTOR
    num_modes, most = len(plan.modes), max(1, plan.num_problems // least)
    if num_modes == 1:
        return max(1, round(plan.num_problems / good))
    num_turns = max(math.ceil(_LEAST_GROUPS / num_modes), round(plan.num_problems / good / num_modes))
    wanted = num_turns * num_modes
    return wanted if wanted <= most else most - most % num_modes or most


def arrivals(seed: int, rate: float, indices: Iterable[int]) -> list[float]:
    """Seconds from the first request to each: gaps of a Poisson process, which depend on the prompt and not on the
    mode, so that all modes meet the same rush."""
    at, found = 0.0, []
    for number, index in enumerate(indices):
        chance = random.Random(f"{seed} {rate} {index}")  # it must come out the same again
        at += chance.expovariate(rate) if number else 0.0
        found.append(at)
    return found


def fingerprint(value: Any) -> str:
    """Twelve digits that differ where `value` differs."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def describe_data(source: str, problems: Sequence[Problem]) -> str:
    """The name of the data with its fingerprint."""
    return f"{Path(source).name} #{fingerprint([asdict(problem) for problem in problems])}"
