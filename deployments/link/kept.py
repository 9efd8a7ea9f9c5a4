"""Long parts of a text that the other end of a connection keeps, so that they cross it once. Pure.

Promises: `Keeper.whole` gives exactly what `Sender.short` was given; both ends have the same parts in the same places,
because what a place holds is said before the call that counts on it, on a connection that keeps the order; at both ends
no more than `NUM_PLACES` parts of `MAX_TOKENS` tokens together are kept, however long each is; to an end that did not
say that it keeps parts, everything is sent each time.

A part is a piece of a prefix that is added to no more, or a long prompt. Calls of one request share these objects, so
they are known by identity.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from actors.messages import MERGED_TOKENS, JudgeRequest, Piece, Prefix, StepRequest, TokenIds

NUM_PLACES = 512
"""Parts that a connection keeps at most."""
MAX_TOKENS = 512 * 1024
"""Tokens that they have together at most: some 25 MB at each end."""

Part = Piece | TokenIds
Asked = StepRequest | JudgeRequest
"""What may carry a prefix."""
NOTHING: TokenIds = ()
"""What a place holds from which a part was taken."""


@dataclass(frozen=True, slots=True)
class Short:
    """What a call asks, without its prefix, and the parts of that: the prompt, then the pieces. A number is a place at
    the end that reads it."""

    request: Asked
    parts: tuple[int | Part, ...]


class Sender:
    """What one connection's other end keeps."""

    def __init__(self) -> None:
        self.num_places = 0
        """How many it said that it has."""
        self.num_tokens = 0
        """Of all parts that it keeps."""
        self._places: OrderedDict[int, tuple[int, Part]] = OrderedDict()
        """By identity; the parts are held here, so that no other object gets theirs. The least lately used first."""
        self._free: list[int] = []
        """Places that held a part and hold nothing."""

    def short(self, args: tuple[Any, ...]) -> tuple[list[tuple[int, Part]], tuple[Any, ...]]:
        """What to say first, a part for each place, and the arguments to send in the place of `args`."""
        named = self._named(args)
        if not named:
            return [], args
        news = self._place(named)
        return news, tuple(self._shortened(arg, named) for arg in args)

    def _named(self, args: tuple[Any, ...]) -> dict[int, Part]:
        """Of the parts of a call those that are to have places, by identity: long ones, as many as fit in together."""
        named: dict[int, Part] = {}
        room = MAX_TOKENS
        for part in (part for arg in args if (prefix := _prefix(arg)) is not None for part in _parts(prefix)):
            if MERGED_TOKENS <= _size(part) <= room and len(named) < self.num_places and id(part) not in named:
                named[id(part)] = part
                room -= _size(part)
        return named

    def _place(self, named: dict[int, Part]) -> list[tuple[int, Part]]:
        """Give each part of `named` a place, in the place of those that were not used longest; what is to be said."""
        news: list[tuple[int, Part]] = []
        for key in (key for key in named if key in self._places):
            self._places.move_to_end(key)  # what must go is none of these: they fit in together
        for key, part in named.items():
            if key in self._places:
                continue
            while len(self._places) >= self.num_places or self.num_tokens + _size(part) > MAX_TOKENS:
                news.append(self._give_up_oldest())
            place = self._free.pop() if self._free else len(self._places)
            self._places[key] = (place, part)
            self.num_tokens += _size(part)
            news.append((place, part))
        return news

    def _give_up_oldest(self) -> tuple[int, Part]:
        place, part = self._places.popitem(last=False)[1]
        self.num_tokens -= _size(part)
        self._free.append(place)
        return place, NOTHING

    def _shortened(self, arg: Any, named: dict[int, Part]) -> Any:
        prefix = _prefix(arg)
        if prefix is None:
            return arg
        parts = tuple(self._places[id(part)][0] if id(part) in named else part for part in _parts(prefix))
        return Short(replace(arg, prefix=replace(prefix, prompt_ids=(), pieces=())), parts)


class Keeper:
    """The parts that one connection's reader keeps."""

    def __init__(self) -> None:
        self._kept: dict[int, Part] = {}

    @property
    def num_tokens(self) -> int:
        """Of all parts."""
        return sum(map(_size, self._kept.values()))

    def keep(self, place: int, part: Part) -> None:
        """From now on `place` holds `part`, or nothing."""
        if not 0 <= place < NUM_PLACES:
            raise KeyError(place)
        if part == NOTHING:
            self._kept.pop(place, None)
        else:
            self._kept[place] = part

    def whole(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as they were before they were shortened; KeyError if a place holds nothing."""
        return tuple(self._restored(arg) if isinstance(arg, Short) else arg for arg in args)

    def _restored(self, short: Short) -> Asked:
        prompt, *pieces = (self._kept[part] if isinstance(part, int) else part for part in short.parts)
        prefix = replace(short.request.prefix, prompt_ids=prompt, pieces=tuple(pieces))  # type: ignore[type-var]  # as it was
        return replace(short.request, prefix=prefix)  # type: ignore[arg-type]


def _prefix(arg: Any) -> Prefix | None:
    return arg.prefix if isinstance(arg, Asked) else None


def _parts(prefix: Prefix) -> tuple[Part, ...]:
    return prefix.prompt_ids, *prefix.pieces


def _size(part: Part) -> int:
    return len(part.token_ids if isinstance(part, Piece) else part)
