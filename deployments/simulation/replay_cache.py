"""What a replayed engine has read before, and so need not read again. Pure.

Promises: as in vLLM's prefix cache, whole blocks count, of whoever has read them. Where the engine has our scheduler, a
call also goes on inside the block in which one that ended did (`actors.engines.remnants`): in each one's last blocks,
and each hands its own on once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from actors.engines.remnants import BLOCKS_KEPT
from actors.messages import TokenIds


class ReadBefore:
    """Of one engine, with blocks of `block_size` tokens. It keeps the last blocks of `most_kept` calls that ended; 0
    without our scheduler."""

    def __init__(self, block_size: int, most_kept: int) -> None:
        self._block_size = block_size
        self._read: list[TokenIds] = []
        self._kept: deque[TokenIds] = deque(maxlen=most_kept)

    def keep(self, read: TokenIds) -> None:
        """A call has ended that had read these tokens."""
        self._read.append(read)
        self._kept.append(read)

    def num_to_read(self, token_ids: TokenIds, running: Iterable[TokenIds] = ()) -> int:
        """How many of `token_ids` a new call reads, beside those that have read what is in `running`: the last one at
        least."""
        longest = max((num_common(read, token_ids) for read in (*self._read, *running)), default=0)
        whole = max(min(longest, len(token_ids) - 1), 0) // self._block_size * self._block_size
        return len(token_ids) - (self._go_on(token_ids, whole) if whole else 0)

    def _go_on(self, token_ids: TokenIds, whole: int) -> int:
        """Behind `whole` tokens in whole blocks: to which place another one's block reaches, which it hands on."""
        found, most = None, whole
        for read in reversed(self._kept):
            reach = min(num_common(read, token_ids), whole + self._block_size, len(token_ids) - 1)
            num_blocks = -(-len(read) // self._block_size)
            if reach > most and whole // self._block_size >= num_blocks - BLOCKS_KEPT:
                found, most = read, reach
        if found is not None:
            self._kept.remove(found)
        return most


def num_common(one: TokenIds, other: TokenIds) -> int:
    """With how many tokens both begin."""
    for at, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return at
    return min(len(one), len(other))
