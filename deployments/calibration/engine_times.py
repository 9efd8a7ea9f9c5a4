"""What a real engine's work takes, measured through the engine's own interface: the costs of simulations and plans.

Promises: passes are timed from a sequence's second pass to its last, so no prompt is read in them, neither its own nor
that of one that came a moment later; prompts are never equal, so nothing but what is meant to be is found in a cache;
the clock is handed in. The engine is timed while no other works; what it is disturbed by in a server is measured there
(`deployments.calibration.served`).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count

from actors.errors import ConfigError, ServiceError
from actors.messages import Prompt, Sampling, StepRule, TokenIds
from actors.roles import Engine
from deployments.simulation.cost_file import DEFAULT_MAX_NUM_SEQS, PassTimes, RoleCosts

SIZES = (1, 2, 4, 8)
NUM_TOKENS = 16
NUM_GUESSED = 64
"""Where hints fit: several passes, although each gives many."""
SHORT, LONG = 64, 384
"""Tokens of prompts."""
READ = (1, 8, 16, 32, SHORT, LONG)
"""So many tokens of prompts are read in one pass."""
NUM_ROUNDS = 3
"""So often everything is timed."""
WHOLE = StepRule(max_tokens=10**6)
GUESSING = ("ngram", "hints")
"""Fewer and more guesses in a pass: look-up proposes few tokens, whether they are right or not, hints that fit many."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One generation, in `num_passes`. `first_s`: seconds until the first tokens; `later_s` and `num_later`: seconds
    and passes from the second ones to the last."""

    first_s: float
    token_ids: TokenIds
    num_passes: float
    later_s: float
    num_later: float

    @property
    def pass_s(self) -> float | None:
        """Seconds of a pass; None if there were two at most."""
        return self.later_s / self.num_later if self.num_later else None


class Stopwatch:
    """Times generations of one engine."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._numbers = count(1)

    async def prompt(self, num_tokens: int) -> TokenIds:
        """A prompt of so many tokens that no other is equal to, and whose text goes on for long: it counts."""
        first = 1000 * next(self._numbers)
        text = "Count on: " + ", ".join(str(first + number) for number in range(num_tokens)) + ","
        return (await self._engine.encode_prompt(Prompt(text=text)))[-num_tokens:]

    async def one(
        self, prompt: TokenIds, num_tokens: int, hints: tuple[TokenIds, ...] = (), speculation: str = "none"
    ) -> Timed:
        """Continues `prompt` by at most so many tokens. ConfigError where the engine guesses though it is not to."""
        begun, ids, num_proposed = self._clock(), list[int](), 0
        told, counted = list[tuple[float, float]](), list[tuple[float, float]]()
        stream = self._engine.generate(
            f"time-{next(self._numbers)}",
            prompt,
            max_tokens=num_tokens,
            rule=WHOLE,
            max_steps=None,
            sampling=Sampling(),
            hints=hints,
            token_speculation=speculation,
        )
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                now = self._clock()
                told.append((now, delta.num_passes))
                counted.append((now, float(len(delta.token_ids))))
                ids += delta.token_ids
                num_proposed += delta.num_proposed
        if speculation == "none" and num_proposed:
            raise ConfigError(
                f"The engine of {self._engine.describe().model} guesses tokens though it is asked not to, so how many "
                "passes it took is not known: no request can switch off the method in its speculative_config. "
                "Calibrate without it, or with method hints.",
                "speculative_config",
            )
        arrivals = counted if speculation == "none" else _outputs(told) or counted
        times, passes = [at for at, _ in arrivals], [num_passes for _, num_passes in arrivals]
        later_s = times[-1] - times[1] if len(times) > 1 else 0.0
        return Timed(times[0] - begun, tuple(ids), sum(passes), later_s, sum(passes[2:]))

    async def passes(self, size: int, num_context: int) -> float:
        """Seconds of a pass in a batch of `size`."""
        prompts = [await self.prompt(num_context) for _ in range(size)]
        found = await asyncio.gather(*(self.one(prompt, NUM_TOKENS) for prompt in prompts))
        times = [one.pass_s for one in found if one.pass_s]
        if not times:
            raise ServiceError("The engine ended every text after two passes at most: nothing can be timed.")
        return statistics.median(times)

    async def reading(self, num_tokens: int) -> float:
        """Seconds of a pass that reads so many tokens of a prompt, and of the call around it."""
        return (await self.one(await self.prompt(num_tokens), 1)).first_s

    async def refrain(self, num_tokens: int) -> TokenIds:
        """A prompt of so many tokens that says the same again and again, so that look-up finds what follows."""
        word = 1000 + next(self._numbers)
        return (await self._engine.encode_prompt(Prompt(text=f" {word} and on to" * num_tokens)))[-num_tokens:]

    async def guessed(self, size: int, speculation: str) -> tuple[int, float] | None:
        """Tokens that each sequence has proposed in a pass, and its seconds; None where the engine proposes none."""
        prompts = [await (self.refrain if speculation == "ngram" else self.prompt)(SHORT) for _ in range(size)]
        known = await asyncio.gather(*(self.one(prompt, NUM_GUESSED) for prompt in prompts))
        before = await self._engine.speculation_stats()
        found = await asyncio.gather(
            *(
                self.one(prompt, NUM_GUESSED, (one.token_ids,), speculation)
                for prompt, one in zip(prompts, known, strict=True)
            )
        )
        slowest, after = max(found, key=lambda one: one.later_s), await self._engine.speculation_stats()
        if before is None or after is None or after.num_drafts == before.num_drafts or slowest.pass_s is None:
            return None
        num_passes = sum(one.num_passes for one in found)
        return round((after.num_draft_tokens - before.num_draft_tokens) / num_passes), slowest.pass_s


@dataclass
class _Rounds:
    """Everything that was timed, by what it was, once a round."""

    passes: dict[int, list[float]]
    reading: dict[int, list[float]]
    long: list[float]
    cached: list[float]
    guessed: dict[tuple[str, int], list[tuple[int, float]]]
    """By where the guesses come from and the number of sequences."""

    async def add(self, watch: Stopwatch, long: int) -> None:
        """One more round. `long` is the longest prompt."""
        for length, found in self.reading.items():
            found.append(await watch.reading(length))
        # The first of two equal calls reads the prompt, the second finds all but its last block in the cache: a whole
        # one or a token of it, so the mean is what a call reads that ends anywhere.
        for prompt in (await watch.prompt(SHORT), await watch.prompt(SHORT + 1)):
            await watch.one(prompt, 1)
            self.cached.append((await watch.one(prompt, 1)).first_s)
        for size, times in self.passes.items():
            times.append(await watch.passes(size, SHORT))
        self.long.append(await watch.passes(1, long))
        for (speculation, size), pairs in self.guessed.items():
            one = await watch.guessed(size, speculation)
            if one is not None:
                pairs.append(one)

    @property
    def spread(self) -> float:
        """Of passes that write, guess or read much, the widest range of the rounds over their median."""
        guessed = [[seconds for _, seconds in pairs] for pairs in self.guessed.values() if pairs]
        timed = [*self.passes.values(), self.long, self.reading[max(self.reading)], *guessed]
        return max((max(found) - min(found)) / statistics.median(found) for found in timed)


async def measure(
    engine: Engine,
    model: str,
    clock: Callable[[], float],
    tell: Callable[[], None] = lambda: None,
    sizes: Sequence[int] = SIZES,
) -> RoleCosts:
    """All costs of `engine`, as medians of `NUM_ROUNDS` rounds, since a machine is not as fast in one minute as in the
    next; `tell` is called after each of `num_parts` parts."""
    watch = Stopwatch(engine, clock)
    await watch.one(await watch.prompt(SHORT), 4)  # whatever is compiled or allocated on first use
    tell()
    info = engine.describe()
    long = min(LONG, info.max_model_len // 2)
    rounds = _Rounds(
        {size: [] for size in sizes},
        {length: [] for length in (*READ[:-1], long)},
        [],
        [],
        {(speculation, size): [] for speculation in GUESSING for size in sizes[:2]},
    )
    for _ in range(NUM_ROUNDS):
        await rounds.add(watch, long)
        tell()
    times = [statistics.median(found) for found in rounds.passes.values()]
    context_s = max((statistics.median(rounds.long) - times[0]) / (long - SHORT), 0.0)
    passes = [PassTimes(proposed=0, pass_s=_rising(sizes, times, context_s))]
    least = times[:2]  # more guesses are never the faster ones
    for speculation in GUESSING:
        found = [rounds.guessed[speculation, size] for size in sizes[:2]]
        if not all(found):
            continue
        proposed = round(statistics.median(number for number, _ in found[0]))
        if proposed > passes[-1].proposed:
            least = [
                max(statistics.median(s for _, s in pairs), less) for pairs, less in zip(found, least, strict=True)
            ]
            passes.append(PassTimes(proposed=proposed, pass_s=_rising(sizes[:2], least, context_s)))
    reading = [(length, statistics.median(found)) for length, found in rounds.reading.items()]
    (_, short_s), (_, long_s) = reading[-2:]
    return RoleCosts(
        model=model,
        passes=passes,
        reading_s=_rising_by([length for length, _ in reading], [seconds for _, seconds in reading]),
        context_s=context_s,
        prefill_token_s=max((long_s - short_s) / (long - SHORT), 0.0),
        prefill_passes=max(statistics.mean(rounds.cached) / times[0] - 1.0, 0.0),
        max_num_seqs=info.max_num_seqs or DEFAULT_MAX_NUM_SEQS,
        spread=round(rounds.spread, 3),
    )


def _outputs(told: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """When each output of an engine was there and its passes, from those of its deltas: where a step ends inside a pass
    it makes several, and the last says what all of them took. None where no delta says any."""
    found, is_open = list[tuple[float, float]](), False
    for at, num_passes in told:
        if is_open:
            found.pop()
        found.append((at, num_passes))
        is_open = not num_passes
    return found[:-1] if is_open else found


def num_parts() -> int:
    """How often `measure` tells that a part is done."""
    return NUM_ROUNDS + 1


def _rising(sizes: Sequence[int], times: Sequence[float], context_s: float) -> list[tuple[int, float]]:
    """Times at no context, by batch size."""
    return _rising_by(
        sizes, [max(seconds - context_s * size * SHORT, 1e-6) for size, seconds in zip(sizes, times, strict=True)]
    )


def _rising_by(sizes: Sequence[int], times: Sequence[float]) -> list[tuple[int, float]]:
    """More is never the faster one, whatever chance says."""
    points: list[tuple[int, float]] = []
    for size, seconds in zip(sizes, times, strict=True):
        points.append((size, max(seconds, points[-1][1]) if points else seconds))
    return points
