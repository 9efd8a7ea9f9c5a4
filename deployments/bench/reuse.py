"""What of each call's text an engine had read before, and what of that it found again. Pure.

Promises: measured against one cache without bounds that all replicas share, so that a call on the wrong replica, and a
cache that was too small, both count as misses. A block counts from when it is certain that some engine has read it:
when the call that it belongs to has written its first tokens. Found is what the engine itself says, and of that no more
than was there to be found.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.messages import TokenIds


@dataclass(slots=True)
class _Block:
    """A block of tokens behind its predecessors, and those that have followed it."""

    following: dict[TokenIds, _Block] = field(default_factory=dict)


class Call:
    """One generation in an engine, from its text to its last token."""

    def __init__(self, reuse: Reuse, token_ids: TokenIds) -> None:
        self._reuse = reuse
        self._ids = list(token_ids)
        self._end, self._num_kept = reuse.start, 0
        self.num_prefix = len(token_ids)
        self.num_reusable = reuse.known(token_ids)
        """Tokens that were there to be found when the call began."""
        self.num_found: int | None = None
        """Those of them that the engine found; None: it has written nothing yet."""
        self.replica = ""

    def wrote(self, token_ids: TokenIds, num_cached: int, replica: str) -> None:
        """Tokens came; the engine says that it had found `num_cached` tokens of the text before."""
        if self.num_found is None:
            self.num_found, self.replica = min(num_cached, self.num_reusable), replica
        self._ids += token_ids
        self._end, self._num_kept = self._reuse.keep(self._ids, self._end, self._num_kept)


class Reuse:
    """All calls of one role."""

    def __init__(self, block_size: int) -> None:
        """`block_size`: tokens in a block of the engines' caches; only whole blocks are found again."""
        self._size = block_size
        self.start = _Block()
        self.calls: list[Call] = []

    def begin(self, token_ids: TokenIds) -> Call:
        """A call for what follows `token_ids`."""
        self.calls.append(Call(self, token_ids))
        return self.calls[-1]

    def known(self, token_ids: TokenIds) -> int:
        """Tokens at the beginning of `token_ids` that an engine has read; the last one is always read again."""
        block, num = self.start, 0
        while num + self._size < len(token_ids):
            following = block.following.get(token_ids[num : num + self._size])
            if following is None:
                break
            block, num = following, num + self._size
        return num

    def keep(self, ids: list[int], end: _Block, num_kept: int) -> tuple[_Block, int]:
        """The blocks of `ids` behind the first `num_kept` tokens, which lead to `end`, have been read; the last token
        was only written. The new end, and the tokens up to it."""
        while num_kept + self._size < len(ids):
            block = tuple(ids[num_kept : num_kept + self._size])
            end = end.following.setdefault(block, _Block())
            num_kept += self._size
        return end, num_kept

    def figures(self) -> dict[str, float]:
        """The sums over all calls that wrote anything."""
        calls = [call for call in self.calls if call.num_found is not None]
        reusable = sum(call.num_reusable for call in calls)
        found = sum(call.num_found or 0 for call in calls)
        return {
            "num_calls": len(calls),
            "num_calls_without_words": len(self.calls) - len(calls),
            "prefix_tokens": sum(call.num_prefix for call in calls),
            "reusable_tokens": reusable,
            "found_tokens": found,
            "found_of_reusable": round(found / reusable, 4) if reusable else 1.0,
        }
