"""Long parts of a text that the other end of a connection keeps, so that they cross it once. Pure.

Promises: `Keeper.whole` gives exactly what `Sender.short` was given; both ends have the same parts in the same places,
because what a place holds is said before the call that counts on it, on a connection that keeps the order; memory is
bounded at both ends; to an end that did not say that it keeps parts, everything is sent each time.

A part is a piece of a prefix that is added to no more, or a long prompt. Calls of one request share these objects, so
they are known by identity.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from actors.messages import MERGED_TOKENS, Piece, StepRequest, TokenIds

NUM_PLACES = 512
"""Parts that a connection keeps: half a million tokens, some 25 MB at each end."""

Part = Piece | TokenIds


@dataclass(frozen=True, slots=True)
class Short:
    """A call's `StepRequest` without its prefix, and the parts of that: the prompt, then the pieces. A number is a
    place at the end that reads it."""

    request: StepRequest
    parts: tuple[int | Part, ...]


class Sender:
    """What one connection's other end keeps."""

    def __init__(self) -> None:
        self.num_places = 0
        """How many it said that it has."""
        self._places: OrderedDict[int, tuple[int, Part]] = OrderedDict()
        """By identity; the parts are held here, so that no other object gets theirs. The least lately used first."""

    def short(self, args: tuple[Any, ...]) -> tuple[list[tuple[int, Part]], tuple[Any, ...]]:
        """What to say first, a part for each place, and the arguments to send in the place of `args`."""
        news: list[tuple[int, Part]] = []
        if not self.num_places:
            return news, args
        return news, tuple(self._shortened(arg, news) if isinstance(arg, StepRequest) else arg for arg in args)

    def _shortened(self, request: StepRequest, news: list[tuple[int, Part]]) -> StepRequest | Short:
        prefix = request.prefix
        parts: tuple[Part, ...] = (prefix.prompt_ids, *prefix.pieces)
        if len(parts) > self.num_places or not any(map(_is_long, parts)):
            return request
        placed = tuple(self._place(part, news) if _is_long(part) else part for part in parts)
        return Short(replace(request, prefix=replace(prefix, prompt_ids=(), pieces=())), placed)

    def _place(self, part: Part, news: list[tuple[int, Part]]) -> int:
        found = self._places.get(id(part))
        if found is None:
            full = len(self._places) == self.num_places
            place = self._places.popitem(last=False)[1][0] if full else len(self._places)
            found = self._places[id(part)] = (place, part)
            news.append(found)
        self._places.move_to_end(id(part))
        return found[0]


class Keeper:
    """The parts that one connection's reader keeps."""

    def __init__(self) -> None:
        self._kept: dict[int, Part] = {}

    def keep(self, place: int, part: Part) -> None:
        """From now on `place` holds `part`."""
        if not 0 <= place < NUM_PLACES:
            raise KeyError(place)
        self._kept[place] = part

    def whole(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as they were before they were shortened; KeyError if a place holds nothing."""
        return tuple(self._restored(arg) if isinstance(arg, Short) else arg for arg in args)

    def _restored(self, short: Short) -> StepRequest:
        prompt, *pieces = (self._kept[part] if isinstance(part, int) else part for part in short.parts)
        prefix = replace(short.request.prefix, prompt_ids=prompt, pieces=tuple(pieces))  # type: ignore[arg-type]  # as it was
        return replace(short.request, prefix=prefix)


def _is_long(part: Part) -> bool:
    return len(part.token_ids if isinstance(part, Piece) else part) >= MERGED_TOKENS
