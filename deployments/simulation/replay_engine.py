"""An engine that writes recorded words pass by pass, with the production proposer's guesses: `actors.roles.Engine`.

Promises: what a call writes is `ReplayText`'s; how many tokens a pass gives follows from the code that proposes in the
real engine, `actors.engines.hint_matching`, on the tokens at hand at that moment; a pass takes what the measured costs
say for its sequences, its proposed tokens and the prompt it reads, and what a server adds to each. A call joins at the
next pass, as in a continuous batch; one that is closed leaves at once and the pass goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from actors.boundaries import DeltaCutter, StepSplitter, stop_ids
from actors.engines.hint_matching import MatchRules
from actors.errors import RequestError
from actors.messages import (
    Delta,
    Ending,
    EngineLoad,
    Nearby,
    Prompt,
    RoleInfo,
    Sampling,
    SpeculationStats,
    StepRule,
    TokenIds,
)
from deployments.simulation.cost_file import RoleCosts
from deployments.simulation.hinted_writing import END, HintedWriting
from deployments.simulation.replay_cache import ReadBefore
from deployments.simulation.replay_text import ReplayText

VOCABULARY = "replayed"


@dataclass(frozen=True, slots=True)
class PassCost:
    """Seconds of passes. `scale` makes all of them longer: a machine that is slower than when it was measured."""

    costs: RoleCosts
    scale: float = 1.0

    def seconds(self, num_sequences: int, num_proposed: int, num_read: int, num_context: int) -> float:
        """A pass over `num_sequences` sequences with `num_proposed` guesses in all, which also reads `num_read` tokens
        of prompts before the last one of each.

        A guess costs less than a sequence, and a token of a prompt less than a guess, behind which is sampled.
        """
        own = self._guessing_s(num_sequences, num_proposed / num_sequences)
        if num_read:
            sampled = num_sequences + num_proposed
            own += max(self._reading_s(sampled + num_read) - self._reading_s(sampled), 0.0)
        return self.scale * (own + self.costs.context_s * num_context)

    def _guessing_s(self, num_sequences: int, proposed: float) -> float:
        """A pass in which each sequence has `proposed` guesses: between the passes that were timed with fewer and with
        more, each in a batch of that size."""
        passes = sorted(self.costs.passes, key=lambda one: one.proposed)
        return _line([(one.proposed, _line(one.pass_s, num_sequences)) for one in passes], proposed)

    def _reading_s(self, num_tokens: float) -> float:
        """A pass of so many tokens of one prompt."""
        if not self.costs.reading_s:
            return max(num_tokens * self.costs.prefill_token_s, self._guessing_s(1, 0.0))
        return _line(self.costs.reading_s, num_tokens)


def _line(points: Sequence[tuple[float, float]], at: float) -> float:
    """On the line between two points; the last line goes on, and nothing is below the first."""
    if len(points) == 1 or at <= points[0][0]:
        return points[0][1]
    right = next((i for i, point in enumerate(points) if point[0] >= at), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


class _Sequence:
    """One generation in the engine, and what of it is on its way to whoever asked for it."""

    def __init__(self, writing: HintedWriting, judging_s: float = 0.0) -> None:
        self.writing = writing
        self.judging_s = judging_s
        self.has_begun = False
        """Whether a pass has begun with it: what it need not read is settled then."""
        self.heard: asyncio.Queue[tuple[TokenIds, Ending | None]] = asyncio.Queue()


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
        takes_hints: bool = True,
        block_size: int = 16,
        num_cached: int = 0,
        hop_s: float = 0.0,
    ) -> None:
        """`rules` None: the engine has no proposer of ours. Without `takes_hints` it looks up n-grams at most, as for
        words of another vocabulary. `num_cached` tokens of the prompt are in the cache at the beginning; `hop_s` is one
        way between coordinator and engine."""
        self._text = text
        self._prompt = prompt
        self._cost = cost
        self._is_draft = is_draft
        self._rules = rules
        self._takes_hints = takes_hints
        self._hop_s = hop_s
        self._before = ReadBefore(block_size, cost.costs.max_num_seqs if rules is not None else 0)
        self._before.keep(prompt[:num_cached])
        self._sequences: dict[str, _Sequence] = {}
        self._passes: asyncio.Task[None] | None = None
        self._other: ReplayEngine | None = None

    def share_machine(self, other: ReplayEngine) -> None:
        """While `other` works, passes that begin here take longer, as it was measured."""
        self._other = other

    def describe(self) -> RoleInfo:
        """As `Engine.describe`."""
        takes_hints = self._takes_hints and self._rules is not None
        return RoleInfo("replayed", VOCABULARY, 10**6, "", takes_hints=takes_hints)

    async def encode_prompt(self, prompt: Prompt) -> TokenIds:
        """As `Engine.encode_prompt`: the recorded one, whatever is asked."""
        return self._prompt

    def encode_text(self, text: str) -> TokenIds:
        """As `Engine.encode_text`: draft and target share the vocabulary, so nothing is ever encoded."""
        raise RequestError("A replayed engine has no tokenizer.")

    async def decode(self, token_ids: TokenIds) -> str:
        """As `Engine.decode`: no prompt comes as token ids."""
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
        nearby: tuple[Nearby, ...] = (),
        token_speculation: str = "hints",
        cache_salt: str = "",
    ) -> AsyncGenerator[Delta, None]:
        """As `Engine.generate`."""
        await asyncio.sleep(self._hop_s)
        written = token_ids[len(self._prompt) :]
        coming = self._text.draft_after(written) if self._is_draft else self._text.target_after(written)
        stops = stop_ids(self._text.vocabulary.texts, rule) if max_steps == 1 else frozenset()
        if max_steps == 1:
            coming = self._stopped(coming, rule, stops)
        writing = HintedWriting(token_ids, coming, max_tokens, self._rules, speculation=token_speculation, stops=stops)
        if self._takes_hints:
            writing.add_hints(hints, nearby)
        sequence = _Sequence(writing)
        cutter = DeltaCutter(StepSplitter(rule, capped=max_steps is not None), self._text.vocabulary.text, max_steps)
        self._enter(call_id, sequence)
        try:
            while not cutter.finished:
                ids, ending = await sequence.heard.get()
                deltas = cutter.feed(ids, ending)
                if deltas:
                    counts = (writing.num_proposed, writing.num_accepted) if cutter.finished else (0, 0)
                    deltas[-1] = replace(deltas[-1], num_proposed=counts[0], num_accepted=counts[1], num_passes=1.0)
                for delta in deltas:
                    yield delta
        finally:
            self._sequences.pop(call_id, None)
            if sequence.has_begun:
                self._before.keep(writing.read)

    async def read(self, call_id: str, seconds: float) -> None:
        """Reads a prompt of another text, a judge's, which alone takes a pass of so many seconds. Cancelled in the
        middle, the pass that reads it goes on."""
        sequence = _Sequence(HintedWriting((), (END,), 1, None), judging_s=seconds)
        try:
            self._enter(call_id, sequence)
            await sequence.heard.get()
        finally:
            self._sequences.pop(call_id, None)

    async def add_hints(self, call_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Engine.add_hints`."""
        await asyncio.sleep(self._hop_s)
        if self._takes_hints and call_id in self._sequences:
            self._sequences[call_id].writing.add_hints(hints)

    async def speculation_stats(self) -> SpeculationStats | None:
        """As `Engine.speculation_stats`: not counted over calls."""
        return None

    async def next_token_probabilities(
        self, call_id: str, token_ids: TokenIds, wanted: TokenIds, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """As `Engine.next_token_probabilities`: refused, since verdicts are replayed too."""
        raise RequestError("A replayed engine has no probabilities.")

    async def token_logprobs(
        self, call_id: str, token_ids: TokenIds, start: int, cache_salt: str = ""
    ) -> tuple[float, ...]:
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

    def _stopped(self, coming: TokenIds, rule: StepRule, stops: frozenset[int]) -> TokenIds:
        """`coming` up to the end of its first step, if one token tells, or their number: asked for one step, the engine
        stops there by itself (`actors.engines.vllm`). Else it goes on until whoever listens has heard the end."""
        text, splitter = self._text.vocabulary.text, StepSplitter(rule)
        for at, token in enumerate(coming, start=1):
            ending = splitter.feed(text(token))
            if ending is not None:
                return coming[:at] if ending is Ending.CAP or token in stops else coming
        return coming

    def _enter(self, call_id: str, sequence: _Sequence) -> None:
        self._sequences[call_id] = sequence
        if self._passes is None:
            self._passes = asyncio.create_task(self._work())

    def _disturbance(self) -> float:
        """By what part a pass that begins now takes longer: words go from one engine to the other while hints come in
        each pass, and no longer."""
        other, costs = self._other, self._cost.costs
        if other is None or not other.num_running():
            return 0.0
        is_guided = any(one.writing.was_told for engine in (self, other) for one in engine._sequences.values())
        return costs.disturbed("guided" if is_guided else "windows")

    async def _work(self) -> None:
        """Pass after pass, while there is something to write."""
        loop = asyncio.get_running_loop()
        while self._sequences:
            batch = dict(list(self._sequences.items())[: self._cost.costs.max_num_seqs])
            await asyncio.sleep(self._begin_pass(list(batch.values())))
            for call_id, sequence in batch.items():
                if self._sequences.get(call_id) is sequence:
                    ids, ending = sequence.writing.advance()
                    ids = (*ids, END) if ending is Ending.END else ids  # it was written, so it counts
                    loop.call_later(self._hop_s, sequence.heard.put_nowait, (ids, ending))
                    if sequence.writing.is_over:
                        del self._sequences[call_id]
        self._passes = None

    def _begin_pass(self, batch: Sequence[_Sequence]) -> float:
        """A pass of `batch` begins, and takes so many seconds: what those take that write, and what each judge's takes
        beyond a pass of one sequence, for the prompt that it reads. Alone, a judge's takes what it took."""
        for sequence in batch:
            self._look_up(sequence)
        slower = 1.0 + self._disturbance()
        proposed = sum(sequence.writing.begin_pass() for sequence in batch)
        read = sum(max(sequence.writing.num_to_read - 1, 0) for sequence in batch)
        context = sum(sequence.writing.num_context for sequence in batch)
        num_writing = sum(1 for sequence in batch if not sequence.judging_s)
        served_s = self._cost.scale * self._cost.costs.stream_s
        seconds = self._cost.seconds(max(num_writing, 1), proposed, read, context) * slower + served_s
        pass_s = self._cost.seconds(1, 0, 0, 0) * slower + served_s
        return seconds + sum(max(sequence.judging_s - pass_s, 0.0) for sequence in batch)

    def _look_up(self, sequence: _Sequence) -> None:
        """What a new sequence need not read, found as its first pass begins."""
        if not sequence.has_begun and not sequence.judging_s:
            running = [other.writing.read for other in self._sequences.values() if other.has_begun]
            sequence.writing.num_to_read = self._before.num_to_read(sequence.writing.read, running)
        sequence.has_begun = True
