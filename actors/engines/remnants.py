"""What a request that ended had read behind its last full block, kept for the one that goes on from there.

vLLM's prefix cache knows full blocks. A draft that starts anew a few tokens back, or a step that follows the step
before, finds all blocks but the last one and reads up to a block again: on a CPU that takes longer than writing a
token. The keys and values are all there, though: in the last blocks of the request that has just ended.

Promises: a kept block is handed on only if whoever gets it has the same tokens before it (by the hash of the chain of
full blocks, in which adapters and salts count) and in it, up to the number that is told; only if nobody else reads it;
and without its place in the prefix cache, since it will be written to. What is kept is a small part of the cache and
the newest. Written against vLLM 0.32; whoever calls this must have one group of full attention.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BLOCKS_KEPT = 3
"""The last so many blocks of a request: a draft is left somewhere in the words that it is ahead."""
KEEPS_ONE_IN = 128
"""Of all blocks, as a bound to the number of requests that something is kept of."""


@dataclass(frozen=True, slots=True)
class Remnant:
    """`blocks` are the last ones, in order, the first of which is number `first` of the request's."""

    token_ids: Sequence[int]
    """Those whose keys and values are there."""
    chain: Sequence[Any]
    """A hash for each full block: of it and all before it."""
    first: int
    blocks: Sequence[Any]

    def reach(self, token_ids: Sequence[int], chain: Sequence[Any], number: int, size: int) -> int:
        """How many of `token_ids` are read, counting on in block `number` of `size` tokens; 0 if none of it is."""
        if not self.first <= number < self.first + len(self.blocks):
            return 0
        if number > len(self.chain) or number > len(chain) or self.chain[number - 1] != chain[number - 1]:
            return 0
        at = start = number * size
        end = min(len(token_ids) - 1, len(self.token_ids), start + size)  # one is left to be read, for what follows it
        while at < end and self.token_ids[at] == token_ids[at]:
            at += 1
        return at if at > start else 0


class Remnants:
    """Of a scheduler's requests. `manager` is vLLM's of the one group, `pool` its blocks."""

    def __init__(self, manager: Any, pool: Any, most: int) -> None:
        self._manager = manager
        self._pool = pool
        self._most = min(most, pool.num_gpu_blocks // KEEPS_ONE_IN)
        self._kept: deque[Remnant] = deque()

    def keep(self, request: Any) -> None:
        """`request` has ended, and its blocks are not freed yet."""
        blocks, size = self._manager.req_to_blocks.get(request.request_id), self._manager.block_size
        tokens = request.all_token_ids
        num_read = min(request.num_computed_tokens, len(tokens))
        number = -(-num_read // size)
        if not self._most or not blocks or number < 2 or number > len(blocks):
            return
        while len(self._kept) >= self._most:
            self._release(self._kept.popleft().blocks)
        first = max(number - BLOCKS_KEPT, 1)
        kept = Remnant(tokens[:num_read], list(request.block_hashes), first, blocks[first:number])
        self._pool.touch(kept.blocks)
        self._kept.append(kept)

    def hand_on(self, request: Any, num_cached: int, num_scheduled: int) -> int:
        """The request's first `num_cached` tokens are full blocks of the cache, and it has a new block for what
        follows, of which `num_scheduled` are to be read now. A kept one takes that place, if one has more: of how many
        tokens then nothing has to be read. One of the scheduled tokens is left at least."""
        size = self._manager.block_size
        number, rest = divmod(num_cached, size)
        blocks = self._manager.req_to_blocks.get(request.request_id, ())
        if rest or not 0 < number < len(blocks):
            return num_cached
        new = blocks[number]
        if new.ref_cnt != 1 or new.block_hash is not None:
            return num_cached
        token_ids = request.prompt_token_ids[: num_cached + num_scheduled]
        found, most = None, num_cached
        for remnant in reversed(self._kept):
            reach = remnant.reach(token_ids, request.block_hashes, number, size)
            if reach > most and remnant.blocks[number - remnant.first].ref_cnt == 1:
                found, most = remnant, reach
        if found is None:
            return num_cached
        self._kept.remove(found)
        block = found.blocks[number - found.first]
        self._pool.evict_blocks({block.block_id})  # from the table of hashes only
        blocks[number] = block
        self._release([*(other for other in found.blocks if other is not block), new])
        return most

    def release(self) -> None:
        """Keep nothing."""
        while self._kept:
            self._release(self._kept.popleft().blocks)

    def _release(self, blocks: Sequence[Any]) -> None:
        self._pool.free_blocks(list(reversed(blocks)))
