"""An engine without a model: set texts, at a set speed, the same on every machine and in every process.

Promises: what follows a prefix is a pure function of the options and the prefix, so any replica continues any other's
work; a draft says the same as the target in a known share of steps; times are slept on the running event loop's clock,
so a virtual one works too. Sampling parameters change
nothing, but the seed of a sampling draft changes where it strays. Used by tests, load runs and the `scripted` profile.

The text answers a made-up sum: one step an addition, the last one names the result, as a reasoning model would.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import Any

from actors.boundaries import DeltaCutter, StepSplitter
from actors.engines.control_folder import Account, ControlFolder
from actors.engines.hint_calls import HintCalls, HintedCall
from actors.engines.hint_matching import HintTrack, MatchRules
from actors.errors import ConfigError, ContextTooLong, RequestError, RoleUnavailable
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

TURN = 0
"""Token that ends the prompt and begins the model's turn."""
END = 1
"""Token that ends the text."""
FIRST_TEXT = 256
VOCABULARY = "scripted"
TOKEN = re.compile(r"\n\n|\n| ?[!-~]{1,6}| ?[^\s!-~]|\s")
"""A word of ASCII in pieces of six, any other character by itself: no token has more than seven bytes, so that its id
has 64 bits at most, as others' have."""
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gina", "Hugo")
NONSENSE = "of by the 0 = 1 not.\n\n"
"""A step of a draft that is ordered to write nonsense."""
THINGS = ("apples", "books", "coins", "drums", "eggs", "forks", "games", "hats")


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """What is said and how fast. Shares are of steps, times are seconds."""

    role: str = "target"
    """``target`` says the truth; ``draft`` strays from it."""
    seed: int = 0
    agree: float = 1.0
    """Draft: share of steps that are the target's, letter for letter."""
    paraphrase: float = 0.0
    """Draft: share of steps with other words and the same numbers. The rest have other numbers."""
    num_steps: int = 8
    words: int = 12
    """Words of padding in a step, so that steps have a length."""
    think: bool = False
    """Whether the steps stand between ``<think>`` and ``</think>``, and the result after them."""
    first_token_s: float = 0.0
    token_s: float = 0.0
    sequence_s: float = 0.0
    """Time one more running sequence adds to each token."""
    burst: int = 1
    """So many tokens come out together, after the time of all of them: a burst costs this machine about what a token
    does, for runs that measure something else than the engine."""
    hint_gain: float = 1.0
    """Tokens that continue a hint come so many times faster."""
    max_model_len: int = 32768
    vocabulary: str = VOCABULARY
    """Two engines with different names exchange text instead of ids."""
    break_after: int | None = None
    """Break down for ever after so many generations, to see what others make of it."""
    control: str | None = None
    """A folder (`actors.engines.control_folder`) of orders to misbehave, and of a log of all generations. Orders of
    garbage: ``wrong`` (draft: every step strays), ``nonsense`` (draft: steps of no sense), ``broken`` (an error after
    the first token), ``refusing`` (an error before it)."""


def script_options(options: Mapping[str, Any]) -> ScriptOptions:
    """`options` of a configuration; ConfigError names one that does not exist."""
    known = {option.name for option in fields(ScriptOptions)}
    if unknown := sorted(set(options) - known):
        raise ConfigError(
            f"The scripted engine has no option {', '.join(unknown)}; it has: {', '.join(sorted(known))}."
        )
    return ScriptOptions(**options)


def tokenize(text: str) -> TokenIds:
    """Ids of `text`: each is its piece's bytes as a number, so every process knows all of them, of 64 bits at most."""
    return tuple(
        int.from_bytes(b"\x01" + piece.encode("utf-8", "surrogatepass"), "big") for piece in TOKEN.findall(text)
    )


def detokenize(token_ids: TokenIds) -> str:
    """The text of `token_ids`; special tokens have none."""
    return "".join(
        i.to_bytes((i.bit_length() + 7) // 8, "big")[1:].decode("utf-8", "replace")
        for i in token_ids
        if i >= FIRST_TEXT
    )


def prompt_ids(prompt: Prompt) -> TokenIds:
    """`prompt` as these engines read it; roles and texts are written out, special text stays text."""
    if prompt.token_ids is not None:
        if any(i < 0 for i in prompt.token_ids):
            raise RequestError("A token id of the prompt is negative.", "prompt")
        return (*prompt.token_ids, TURN)
    text = prompt.text if prompt.text is not None else "\n".join(f"{m.role}: {m.content}" for m in prompt.messages)
    return (*tokenize(text), TURN)


class Script:
    """What the engine would say to one prompt: a list of steps, the last of which ends the text."""

    def __init__(self, options: ScriptOptions, prompt: str, draw: int | None = None) -> None:
        """`draw`: the seed of a sampling draft, which strays in other places with each."""
        self._options = options
        self._prompt = prompt
        self._draw = "" if draw is None else f" {draw}"

    def step(self, index: int) -> str:
        """Step number `index`, with its boundary; empty after the last."""
        options = self._options
        last = options.num_steps - 1 + options.think
        if index > last:
            return ""
        if index == last:
            return f"The answer is {self._total(options.num_steps - 1)}."
        chance = self._number(f"stray {index}{self._draw}", 10**6) / 10**6
        strays = options.role == "draft" and chance >= options.agree
        wrong = strays and chance >= options.agree + options.paraphrase
        before = self._total(index - 1) if index else 0
        added = self._added(index) + (1 if wrong else 0)
        text = self._words(index, f"said otherwise{self._draw}" if strays else "")
        text += f"{before} + {added} = {before + added}."
        opening = "<think>\n" if options.think and index == 0 else ""
        closes = options.think and index == options.num_steps - 1
        return opening + text + ("\n</think>" if closes else "\n\n")

    def after(self, written: str) -> str:
        """The rest of the step that `written` is in the middle of, or the next whole step."""
        done = re.findall(r".*?(?:\n\n|</think>)", written, re.DOTALL)
        partial = written[sum(map(len, done)) :]
        step = self.step(len(done))
        if not partial:
            return step
        return step[len(partial) :] if step.startswith(partial) else ("\n\n" if step else "")

    def _words(self, index: int, salt: str) -> str:
        name = NAMES[self._number(f"name {index} {salt}", len(NAMES))]
        thing = THINGS[self._number(f"thing {index} {salt}", len(THINGS))]
        size = max(1, self._options.words // 2 + self._number(f"words {index} {salt}", self._options.words + 1))
        middle = " ".join(THINGS[self._number(f"word {index} {i} {salt}", len(THINGS))] for i in range(size))
        return f"{name} counts {thing} {middle}: "

    def _added(self, index: int) -> int:
        return 1 + self._number(f"added {index}", 90)

    def _total(self, index: int) -> int:
        return sum(self._added(i) for i in range(index + 1))

    def _number(self, what: str, below: int) -> int:
        key = f"{self._options.seed}|{self._prompt}|{what}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % below


class HintFollower:
    """Where one generation behind `prompt` stands in its hints; the rules are those of the real proposer."""

    def __init__(self, prompt: TokenIds) -> None:
        self.written: list[int] = []
        self._rules = MatchRules()
        self._before = prompt[-self._rules.realign_max :]
        self._tracks: dict[tuple[int, TokenIds], HintTrack] = {}

    def guess(self, call: HintedCall) -> int | None:
        """The next token by the hint of `call` that agrees longest; None where none fits."""
        rules, best, agreement = self._rules, None, -1
        tail = [*self._before, *self.written[-rules.realign_max :]][-rules.realign_max :]
        hints = [(0, hint) for hint in call.hints] + [(near.num_before, near.token_ids) for near in call.nearby]
        for num_before, hint in hints:
            track = self._tracks.setdefault((num_before, hint), HintTrack(hint, num_before))
            track.follow(self.written, tail, rules)
            if track.fits(rules) and track.agreement > agreement:
                best, agreement = track.hint[track.offset], track.agreement
        return best


class ScriptedEngine:
    """`actors.roles.Engine` over a `Script`."""

    def __init__(self, options: ScriptOptions, replica: str = "") -> None:
        self._options = options
        self._replica = replica
        self._running: set[str] = set()
        self._broken: str | None = None
        self._control = ControlFolder(options.control)
        self._hint_calls = HintCalls(vocabulary_size=sys.maxsize)
        self._num_hint_tokens = 0
        self._num_hint_accepted_tokens = 0
        self.num_generations = 0
        self.num_tokens = 0
        """Tokens generated since the start, which shows whether cancelled work goes on."""

    @classmethod
    async def create(cls, options: dict[str, Any], replica: str) -> ScriptedEngine:
        """An engine from config options, as `script_options` reads them."""
        return cls(script_options(options), replica)

    def describe(self) -> RoleInfo:
        """As `Engine.describe`."""
        options = self._options
        takes_hints = options.hint_gain > 1.0
        return RoleInfo("scripted", options.vocabulary, options.max_model_len, self._replica, takes_hints)

    async def encode_prompt(self, prompt: Prompt) -> TokenIds:
        """As `Engine.encode_prompt`, but at once: scripted texts are short."""
        return prompt_ids(prompt)

    def encode_text(self, text: str) -> TokenIds:
        """As `Engine.encode_text`."""
        return tokenize(text)

    async def decode(self, token_ids: TokenIds) -> str:
        """As `Engine.decode`, but special tokens have no text here."""
        return detokenize(token_ids)

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
        """As `Engine.generate`, one token (or `burst`) a delta."""
        await self.check_health()
        room = self._options.max_model_len - len(token_ids)
        if room < 1:
            raise ContextTooLong.of_prompt(len(token_ids), self._options.max_model_len)
        limit = min(max_tokens, room)
        script = self._script(token_ids, sampling)
        self.num_generations += 1
        self._running.add(call_id)
        account = Account(limit, max_steps)
        try:
            if token_speculation != "hints":
                hints, nearby = (), ()
            with self._hint_calls.running(call_id, hints, nearby) as call:
                await self._sleep(self._options.first_token_s)
                async with aclosing(self._write(call, script, token_ids, limit, rule, max_steps)) as deltas:
                    async for delta in deltas:
                        account.wrote(delta)
                        yield delta
        finally:
            self._running.discard(call_id)
            if self._control.is_there:
                self._control.log({"role": self._options.role, "call_id": call_id} | account.closed(_prompt(token_ids)))

    async def add_hints(self, call_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Engine.add_hints`."""
        self._hint_calls.add(call_id, hints)

    async def speculation_stats(self) -> SpeculationStats | None:
        """As `Engine.speculation_stats`: one token a draft, for each token where a hint had one to offer."""
        proposed, accepted = self._num_hint_tokens, self._num_hint_accepted_tokens
        return SpeculationStats(proposed, proposed, accepted, (accepted,), proposed, accepted)

    def _script(self, token_ids: TokenIds, sampling: Sampling) -> Script:
        samples = self._options.role == "draft" and sampling.temperature > 0
        draw = sampling.seed if samples else None
        strays = self._options.role == "draft" and self._control.orders().garbage == "wrong"
        options = replace(self._options, agree=0.0, paraphrase=0.0) if strays else self._options
        return Script(options, _prompt(token_ids), draw)

    async def _write(
        self,
        call: HintedCall,
        script: Script,
        token_ids: TokenIds,
        max_tokens: int,
        rule: StepRule,
        max_steps: int | None,
    ) -> AsyncGenerator[Delta, None]:
        follower = HintFollower(token_ids)
        written = detokenize(token_ids[_turn(token_ids) + 1 :])
        splitter = StepSplitter(rule, capped=max_steps is not None, before=written)
        cutter = DeltaCutter(splitter, lambda token: detokenize((token,)), max_steps)
        pending: list[int] = []
        ready: list[int] = []
        time_s = passes = 0.0
        for number in range(1, max_tokens + 1):
            if not pending:
                pending = list(tokenize(self._said(script, written))) or [END]
            if self._control.orders().garbage in (("refusing",) if number == 1 else ("refusing", "broken")):
                raise RuntimeError("The scripted engine was ordered to break off.")
            token = pending.pop(0)
            written += detokenize((token,))
            guess = follower.guess(call)
            follower.written.append(token)
            self._num_hint_tokens += guess is not None
            self._num_hint_accepted_tokens += guess == token
            num_passes = 1.0 / self._options.hint_gain if guess == token else 1.0
            time_s += num_passes * (self._options.token_s + self._options.sequence_s * (len(self._running) - 1))
            passes += num_passes
            ready.append(token)
            final = Ending.END if token == END else Ending.CAP if number == max_tokens else None
            if len(ready) < self._options.burst and pending and final is None:
                continue  # a step's last token waits for no other
            await self._sleep(time_s)
            await self.check_health()
            self.num_tokens += len(ready)
            for delta in cutter.feed(ready, final):
                yield replace(delta, replica=self._replica, num_passes=passes)
            if cutter.finished:
                return
            ready, time_s, passes = [], 0.0, 0.0

    def _said(self, script: Script, written: str) -> str:
        if self._options.role == "draft" and self._control.orders().garbage == "nonsense":
            return NONSENSE
        return script.after(written)

    async def next_token_probabilities(
        self, call_id: str, token_ids: TokenIds, wanted: TokenIds, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """As `Engine.next_token_probabilities`: all to the first wanted token."""
        await self.check_health()
        await self._sleep(self._options.first_token_s + self._options.token_s)
        return tuple(float(i == 0) for i in range(len(wanted)))

    async def token_logprobs(
        self, call_id: str, token_ids: TokenIds, start: int, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """As `Engine.token_logprobs`: certainty."""
        await self.check_health()
        await self._sleep(self._options.first_token_s + self._options.token_s)
        return (0.0,) * (len(token_ids) - start)

    def break_down(self, reason: str) -> None:
        """From now on every call fails as if the engine had died."""
        self._broken = reason

    async def check_health(self) -> None:
        """As `Engine.check_health`."""
        limit = self._options.break_after
        if limit is not None and self.num_generations >= limit and not self._running:
            self._broken = f"scripted to break after {limit} generations"
        if self._broken is not None:
            raise RoleUnavailable(f"The scripted engine is broken: {self._broken}.")

    def num_running(self) -> int:
        """As `Engine.num_running`."""
        return len(self._running)

    def load(self) -> EngineLoad:
        """As `Engine.load`: nothing waits, and there is no cache."""
        return EngineLoad(len(self._running))

    async def shutdown(self) -> None:
        """As `Engine.shutdown`."""
        self._broken = "shut down"

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0) * self._control.orders().slow)


def _prompt(token_ids: TokenIds) -> str:
    return detokenize(token_ids[: _turn(token_ids)])


def _turn(token_ids: TokenIds) -> int:
    """Where the prompt ends and the model's turn begins."""
    return len(token_ids) - 1 - token_ids[::-1].index(TURN)
