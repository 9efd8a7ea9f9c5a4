"""The hints of the calls that run in an engine, kept where the calls come in.

Promises: hints reach their call whether they come before it, with it or while it runs; hints with ids that the model
does not have are dropped, since looking one up would end the engine; nothing is kept of a call that has ended, at most
the newest `MAX_HINTS` hints of one that runs, and at most `MAX_EARLY` sets of hints of calls that never come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actors.engines.hint_matching import MAX_HINTS
from actors.engines.hint_options import request_arguments
from actors.messages import Nearby, TokenIds

MAX_EARLY = 256
"""Hints may overtake their call on the way here: they are kept for so many calls, and the oldest make room."""

Hints = tuple[TokenIds, ...]


@dataclass(slots=True)
class HintedCall:
    """A running call: the name of its request in the engine, and its hints so far, the likeliest first."""

    request_id: str
    hints: Hints
    nearby: tuple[Nearby, ...] = ()

    def arguments(self, speculation: str, num_written: int) -> dict[str, Any]:
        """As `request_arguments`, after `num_written` tokens of the call."""
        return request_arguments(self.request_id, self.hints, speculation, num_written, self.nearby)


class HintCalls:
    """The running calls by their id."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._calls: dict[str, HintedCall] = {}
        self._early: OrderedDict[str, Hints] = OrderedDict()

    @contextmanager
    def running(self, call_id: str, hints: Hints, nearby: tuple[Nearby, ...] = ()) -> Iterator[HintedCall]:
        """The call `call_id` for as long as it runs."""
        near = tuple(one for one in nearby if self.usable((one.token_ids,)))[:MAX_HINTS]
        call = HintedCall(call_id, _newest((*self._early.pop(call_id, ()), *self.usable(hints))), near)
        self._calls[call_id] = call
        try:
            yield call
        finally:
            if self._calls.get(call_id) is call:
                del self._calls[call_id]

    def add(self, call_id: str, hints: Hints) -> tuple[str, Hints] | None:
        """Put `hints` before the call's, or forget those if there are none. What the engine has to be told now, and of
        which request; None if nothing."""
        if not hints:
            return self._forget(call_id)
        usable = self.usable(hints)
        if not usable:
            return None
        if (call := self._calls.get(call_id)) is not None:
            call.hints = _newest((*usable, *call.hints))
            return call.request_id, usable
        self._early[call_id] = _newest((*usable, *self._early.pop(call_id, ())))
        while len(self._early) > MAX_EARLY:
            self._early.popitem(last=False)
        return None

    def _forget(self, call_id: str) -> tuple[str, Hints] | None:
        self._early.pop(call_id, None)
        call = self._calls.get(call_id)
        if call is None or not (call.hints or call.nearby):
            return None
        call.hints = call.nearby = ()
        return call.request_id, ()

    def usable(self, hints: Hints) -> Hints:
        """Those of `hints` that have a token, and only tokens of the vocabulary."""
        return tuple(hint for hint in hints if hint and min(hint) >= 0 and max(hint) < self._vocabulary_size)


def _newest(hints: Hints) -> Hints:
    """A sequence keeps no more."""
    return hints[:MAX_HINTS]
