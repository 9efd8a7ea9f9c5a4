"""Engines that write what no author of a model promises: bytes by a pattern, each byte a token.

The text of a token is what it completes, as that of a real byte-level vocabulary: half a character has none.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from actors.boundaries import DeltaCutter, StepSplitter
from actors.engines.hint_calls import HintedCall
from actors.engines.scripted import END, TURN, Script, ScriptedEngine, ScriptOptions
from actors.messages import Delta, Ending, RoleInfo, StepRule, TokenIds

BYTE = 2
"""The id of byte 0."""


@dataclass(frozen=True)
class Odd:
    """A model that writes `start`, then `cycle` for ever; without one the text ends."""

    start: bytes = b""
    cycle: bytes = b""

    def written(self, num: int) -> bytes:
        """Its first `num` bytes, or all."""
        if not self.cycle or num <= len(self.start):
            return self.start[:num]
        return (self.start + self.cycle * (1 + num // len(self.cycle)))[:num]

    def text(self, num: int) -> str:
        """What a client reads of `num` tokens."""
        return codecs.getincrementaldecoder("utf-8")("replace").decode(self.written(num))


class OddEngine(ScriptedEngine):
    """`Engine` over an `Odd` model."""

    def __init__(self, odd: Odd, role: str, token_s: float, vocabulary: str = "bytes", takes_hints: bool = False):
        options = ScriptOptions(
            role=role, token_s=token_s, vocabulary=vocabulary, hint_gain=2.0 if takes_hints else 1.0, max_model_len=4096
        )
        super().__init__(options, role)
        self._odd = odd

    def describe(self) -> RoleInfo:
        return super().describe()

    def encode_text(self, text: str) -> TokenIds:
        return tuple(BYTE + byte for byte in text.encode("utf-8", "surrogatepass"))

    async def _write(
        self,
        call: HintedCall,
        script: Script,
        token_ids: TokenIds,
        max_tokens: int,
        rule: StepRule,
        max_steps: int | None,
    ) -> AsyncGenerator[Delta, None]:
        before = token_ids[len(token_ids) - token_ids[::-1].index(TURN) :]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        shown = decoder.decode(bytes(i - BYTE for i in before))
        splitter = StepSplitter(rule, capped=max_steps is not None, before=shown)
        cutter = DeltaCutter(
            splitter, lambda token: decoder.decode(bytes([token - BYTE])) if token != END else "", max_steps
        )
        for number in range(1, max_tokens + 1):
            place = len(before) + number
            written = self._odd.written(place)
            token = BYTE + written[-1] if len(written) == place else END
            await self._sleep(self._options.token_s)
            await self.check_health()
            self.num_tokens += 1
            final = Ending.END if token == END else Ending.CAP if number == max_tokens else None
            for delta in cutter.feed((token,), final):
                yield delta
            if cutter.finished:
                return
