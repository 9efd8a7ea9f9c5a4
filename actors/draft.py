"""The draft role: writes steps ahead, cheaply.

Promises: one call is one generation in the engine, however many steps it yields; the steps follow one another without
a gap; nothing is written after a step that ends the reasoning or the text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from actors.messages import Delta, Piece, Step, StepRequest
from actors.writer import ModelWriter


class Draft(ModelWriter):
    """`actors.roles.Drafter` over an engine."""

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        """One stream of at most `depth` consecutive steps after `request.prefix`, each yielded as it ends.

        Ends early after a step whose ending `is_last`, or when `request.max_tokens` tokens were written in all.
        """
        async with aclosing(self._steps(request, request.max_tokens, depth)) as steps:
            async for step in steps:
                yield step

    async def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[Piece | Step, None]:
        """As `look_ahead`, and before each step what is written of it, in parts of at least `part_tokens` tokens."""
        nothing = part = Piece("", (), self._info.vocabulary)
        async with aclosing(self._deltas_and_steps(request, request.max_tokens, depth)) as items:
            async for item in items:
                if isinstance(item, Delta):
                    part = part.joined(Piece(item.text, item.token_ids, part.vocabulary))
                    if len(part.token_ids) >= part_tokens:
                        yield part
                        part = nothing
                else:
                    yield item
                    part = nothing
