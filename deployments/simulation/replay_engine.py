"""An engine that writes recorded words pass by pass, with the production proposer's guesses: `actors.roles.Engine`.

Promises: what a call writes is `ReplayText`'s; how many tokens a pass gives follows from the code that proposes in the
real engine, `actors.engines.hint_matching`, on the tokens at hand at that moment; a pass takes what the measured costs
say for its sequences, its proposed tokens and the prompt it reads. A call joins at the next pass, as in a continuous
batch; one that is closed leaves at once and the pass goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from actors.boundaries import DeltaCutter, StepSplitter
from actors.engines.hint_matching import HintedSequence, MatchRules
from actors.errors import RequestError
from actors.messages import (
    Delta,
    Ending,
    EngineLoad,
    Prompt,
    RoleInfo,
    Sampling,
    SpeculationStats,
    StepRule,
    TokenIds,
)
from deployments.simulation.cost_file import RoleCosts
from deployments.simulation.replay_text import END, ReplayText

VOCABULARY = "replayed"


@dataclass(frozen=True, slots=True)
class PassCost:
    """Seconds of passes. `scale` makes all of them longer: a machine that is slower than when it was measured."""

    costs: RoleCosts
    scale: float = 1.0

    def seconds(self, num_sequences: int, num_proposed: int, num_read: int, num_context: int) -> float:
        """A pass over `num_sequences` sequences with `num_proposed` guesses in all, which also reads `num_read` tokens
        of prompts. Reading and decoding share the pass: the longer of the two, and what else decodes beside it."""
        a_sequence = num_proposed / max(num_sequences, 1)
        decode = self._decode(num_sequences, a_sequence)
        reading = max(num_read * self.costs.prefill_token_s - self._decode(1, 0.0), 0.0)
        return self.scale * (decode + reading + self.costs.context_s * num_context)

    def _decode(self, num_sequences: int, proposed: float) -> float:
        known = sorted((one.proposed, _line(one.pass_s, num_sequences)) for one in self.costs.passes)
        return _line(known, proposed)


def _line(points: Sequence[tuple[float, float]], at: float) -> float:
    """On the line between two points; the last line goes on, and nothing is below the first."""
    if len(points) == 1 or at <= points[0][0]:
        return points[0][1]
    right = next((i for i, point in enumerate(points) if point[0] >= at), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


@dataclass
class _Sequence:
    """One generation in the engine."""

    before: TokenIds
    coming: TokenIds
    num_to_read: int
    hinted: HintedSequence
    max_tokens: int
    num_written: int = 0
    num_proposed: int = 0
    num_accepted: int = 0
    guess: list[int] = field(default_factory=list)
    heard: asyncio.Queue[tuple[TokenIds, Ending | None]] = field(default_factory=asyncio.Queue)
    is_over: bool = False

    def propose(self) -> int:
        """What is guessed for the next pass."""
        written = self.coming[: self.num_written]
        room = max(self.max_tokens - self.num_written - 1, 0)
        context = np.array((*self.before, *written), dtype=np.int64)
        self.guess = self.hinted.propose(context, self.num_written, room).tokens
        self.num_proposed += len(self.guess)
        return len(self.guess)

    def advance(self) -> tuple[TokenIds, Ending | None]:
        """What a pass gives: the guesses that are right, and a token of its own."""
        rest, num = self.coming[self.num_written :], 1
        while num <= len(self.guess) and num < len(rest) and self.guess[num - 1] == rest[num - 1]:
            num += 1
        ids = rest[: min(num, self.max_tokens - self.num_written)]
        self.num_accepted += len(ids) - 1
        self.num_written += len(ids)
        self.num_to_read = 0
        ending = Ending.END if END in ids else Ending.CAP if self.num_written >= self.max_tokens else None
        self.is_over = ending is not None
        return tuple(token for token in ids if token != END), ending


class ReplayEngine:
    """One engine for one request's words."""

    def __init__(
        self,
        text: ReplayText,
        prompt: TokenIds,
        cost: PassCost,
        *,
        is_draft: bool,
        rules: MatchRules | None,
        block_size: int = 16,
        num_cached: int = 0,
        hop_s: float = 0.0,
    ) -> None:
        """`rules` None: the engine has no proposer of ours. `num_cached` tokens of the prompt are in the cache at the
        beginning; `hop_s` is one way between coordinator and engine."""
        self._text = text
        self._prompt = prompt
        self._cost = cost
        self._is_draft = is_draft
        self._rules = rules
        self._block_size = block_size
        self._hop_s = hop_s
        self._cached: list[TokenIds] = [prompt[:num_cached]]
        self._sequences: dict[str, _Sequence] = {}
        self._passes: asyncio.Task[None] | None = None
        self._other: ReplayEngine | None = None
        self._disturbance = 0.0

    def share_machine(self, other: ReplayEngine, disturbance: float) -> None:
        """While `other` works, passes that begin here take so much longer, as a part of their time."""
        self._other, self._disturbance = other, disturbance

    def describe(self) -> RoleInfo:
        """As `Engine.describe`."""
        return RoleInfo("replayed", VOCABULARY, 10**6, "", takes_hints=self._rules is not None)

    def encode_prompt(self, prompt: Prompt) -> TokenIds:
        """As `Engine.encode_prompt`: the recorded one, whatever is asked."""
        return self._prompt

    def encode_text(self, text: str) -> TokenIds:
        """As `Engine.encode_text`: draft and target share the vocabulary, so nothing is ever encoded."""
        raise RequestError("A replayed engine has no tokenizer.")

    async def generate(
        self,
        call_id: str,
        token_ids: TokenIds,
        *,
        max_tokens: int,
        rule: StepRule,
        max_steps: int | None,
        sampling: Sampling,
        priority: int = 0,
        hints: tuple[TokenIds, ...] = (),
        token_speculation: str = "hints",
    ) -> AsyncGenerator[Delta, None]:
        """As `Engine.generate`."""
        await asyncio.sleep(self._hop_s)
        written = token_ids[len(self._prompt) :]
        coming = self._text.draft_after(written) if self._is_draft else self._text.target_after(written)
        guesses = self._rules is not None
        hinted = HintedSequence(
            self._rules or MatchRules(),
            uses_hints=guesses and token_speculation == "hints",
            uses_ngrams=guesses and token_speculation in ("hints", "ngram"),
        )
        hinted.add(hints)
        sequence = _Sequence(token_ids, coming, self._to_read(token_ids), hinted, max_tokens)
        cutter = DeltaCutter(StepSplitter(rule, capped=max_steps is not None), self._text.vocabulary.text, max_steps)
        self._enter(call_id, sequence)
        try:
            while not cutter.finished:
                ids, ending = await sequence.heard.get()
                for delta in cutter.feed(ids, ending):
                    counts = (sequence.num_proposed, sequence.num_accepted) if cutter.finished else (0, 0)
                    yield replace(delta, num_proposed=counts[0], num_accepted=counts[1])
        finally:
            self._sequences.pop(call_id, None)
            self._cached.append((*token_ids, *coming[: sequence.num_written]))

    async def read(self, call_id: str, seconds: float) -> None:
        """Reads a prompt of another text for so many seconds of the engine alone: a judge's. Cancelled in the middle,
        the pass that reads it goes on."""
        num_tokens = round(seconds / (self._cost.costs.prefill_token_s * self._cost.scale or seconds))
        sequence = _Sequence((), (END,), max(num_tokens, 1), HintedSequence(MatchRules(), uses_ngrams=False), 1)
        try:
            self._enter(call_id, sequence)
            await sequence.heard.get()
        finally:
            self._sequences.pop(call_id, None)

    async def add_hints(self, call_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Engine.add_hints`."""
        await asyncio.sleep(self._hop_s)
        if call_id in self._sequences:
            self._sequences[call_id].hinted.add(hints)

    async def speculation_stats(self) -> SpeculationStats | None:
        """As `Engine.speculation_stats`: not counted over calls."""
        return None

    async def next_token_probabilities(self, call_id: str, token_ids: TokenIds, wanted: TokenIds) -> tuple[float, ...]:
        """As `Engine.next_token_probabilities`: refused, since verdicts are replayed too."""
        raise RequestError("A replayed engine has no probabilities.")

    async def token_logprobs(self, call_id: str, token_ids: TokenIds, start: int) -> tuple[float, ...]:
        """As `Engine.token_logprobs`: refused, since verdicts are replayed too."""
        raise RequestError("A replayed engine has no probabilities.")

    async def check_health(self) -> None:
        """As `Engine.check_health`: it does not break."""

    def num_running(self) -> int:
        """As `Engine.num_running`."""
        return len(self._sequences)

    def load(self) -> EngineLoad:
        """As `Engine.load`."""
        return EngineLoad(len(self._sequences))

    async def shutdown(self) -> None:
        """As `Engine.shutdown`."""
        if self._passes is not None:
            self._passes.cancel()
            await asyncio.gather(self._passes, return_exceptions=True)

    def _enter(self, call_id: str, sequence: _Sequence) -> None:
        self._sequences[call_id] = sequence
        if self._passes is None:
            self._passes = asyncio.create_task(self._work())

    def _to_read(self, token_ids: TokenIds) -> int:
        """Tokens that are in no whole block of the cache; the last one is always read."""
        longest = max(_num_common(known, token_ids) for known in self._cached)
        longest = min(longest, len(token_ids) - 1)
        return len(token_ids) - longest // self._block_size * self._block_size

    async def _work(self) -> None:
        """Pass after pass, while there is something to write."""
        loop = asyncio.get_running_loop()
        while self._sequences:
            batch = dict(list(self._sequences.items())[: self._cost.costs.max_num_seqs])
            proposed = sum(sequence.propose() for sequence in batch.values())
            read = sum(sequence.num_to_read for sequence in batch.values())
            context = sum(len(sequence.before) + sequence.num_written for sequence in batch.values())
            seconds = self._cost.seconds(len(batch), proposed, read, context)
            if self._other is not None and self._other.num_running():
                seconds *= 1.0 + self._disturbance
            await asyncio.sleep(seconds)
            for call_id, sequence in batch.items():
                if self._sequences.get(call_id) is sequence:
                    loop.call_later(self._hop_s, sequence.heard.put_nowait, sequence.advance())
                    if sequence.is_over:
                        del self._sequences[call_id]
        self._passes = None


def _num_common(one: TokenIds, other: TokenIds) -> int:
    """With how many tokens both begin."""
    for at, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return at
    return min(len(one), len(other))
