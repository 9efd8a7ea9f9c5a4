"""What is kept of requests that ended, over a pool of blocks of our own: who gets it, and that no block is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from actors.engines.remnants import BLOCKS_KEPT, KEEPS_ONE_IN, Remnants

SIZE = 4
NUM_BLOCKS = 2 * KEEPS_ONE_IN


@dataclass(eq=False)
class Block:
    block_id: int
    ref_cnt: int = 0
    block_hash: Any = None


@dataclass
class Request:
    """`token_ids` are there, `num_computed_tokens` of them read; of a new one they are the prompt."""

    request_id: str
    token_ids: list[int]
    num_computed_tokens: int = 0
    salt: str = ""

    @property
    def all_token_ids(self) -> list[int]:
        return self.token_ids

    @property
    def prompt_token_ids(self) -> list[int]:
        return self.token_ids

    @property
    def block_hashes(self) -> list[Any]:
        ends = range(SIZE, len(self.token_ids) + 1, SIZE)
        return [(self.salt, *self.token_ids[:end]) for end in ends]


@dataclass
class Cache:
    """vLLM's manager and pool in one, as far as they are read here."""

    num_gpu_blocks: int = NUM_BLOCKS
    block_size: int = SIZE
    req_to_blocks: dict[str, list[Block]] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    def touch(self, blocks: list[Block]) -> None:
        for block in blocks:
            block.ref_cnt += 1

    def free_blocks(self, blocks: list[Block]) -> None:
        for block in blocks:
            block.ref_cnt -= 1
            assert block.ref_cnt >= 0

    def evict_blocks(self, block_ids: set[int]) -> None:
        for block in self.blocks:
            if block.block_id in block_ids:
                block.block_hash = None

    def begin(self, request: Request) -> None:
        """Blocks for `request`."""
        new = [Block(len(self.blocks) + number) for number in range(-(-len(request.token_ids) // SIZE))]
        self.blocks += new
        self.touch(new)
        self.req_to_blocks[request.request_id] = new
        for block, chain in zip(new, request.block_hashes, strict=False):
            if block not in new[-1:]:
                block.block_hash = chain

    def end(self, request: Request) -> None:
        self.free_blocks(self.req_to_blocks.pop(request.request_id))

    @property
    def num_used(self) -> int:
        return sum(block.ref_cnt > 0 for block in self.blocks)


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def remnants(cache: Cache) -> Remnants:
    return Remnants(cache, cache, 8)


def ended(cache: Cache, remnants: Remnants, tokens: list[int], name: str = "old", salt: str = "") -> list[Block]:
    """A request that wrote `tokens`, the last of which was not read, has ended. Its blocks."""
    request = Request(name, tokens, len(tokens) - 1, salt)
    cache.begin(request)
    blocks = cache.req_to_blocks[name]
    remnants.keep(request)
    cache.end(request)
    return blocks


def test_who_goes_on_gets_the_last_block(cache: Cache, remnants: Remnants) -> None:
    old = ended(cache, remnants, [1, 2, 3, 4, 5, 6, 7])
    new = Request("new", [1, 2, 3, 4, 5, 6, 9])
    cache.begin(new)
    assert remnants.hand_on(new, SIZE, len(new.token_ids) - SIZE) == 6
    assert cache.req_to_blocks["new"][1] is old[1]
    cache.end(new)
    assert cache.num_used == 0


def test_a_block_that_the_old_one_filled_leaves_the_prefix_cache(cache: Cache, remnants: Remnants) -> None:
    old = ended(cache, remnants, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert old[1].block_hash is not None
    new = Request("new", [1, 2, 3, 4, 5, 77])
    cache.begin(new)
    assert remnants.hand_on(new, SIZE, len(new.token_ids) - SIZE) == 5
    assert cache.req_to_blocks["new"][1] is old[1]
    assert old[1].block_hash is None, "it will hold other tokens"
    cache.end(new)
    assert cache.num_used == 0


def test_one_token_is_left_to_be_read(cache: Cache, remnants: Remnants) -> None:
    ended(cache, remnants, [1, 2, 3, 4, 5, 6, 7])
    new = Request("new", [1, 2, 3, 4, 5, 6])
    cache.begin(new)
    assert remnants.hand_on(new, SIZE, len(new.token_ids) - SIZE) == 5


@pytest.mark.parametrize(("num_scheduled", "reach"), [(1, SIZE), (2, 5), (3, 6)])
def test_of_a_part_of_a_prompt_one_token_is_left_too(
    cache: Cache, remnants: Remnants, num_scheduled: int, reach: int
) -> None:
    ended(cache, remnants, [1, 2, 3, 4, 5, 6, 7, 8])
    new = Request("new", [1, 2, 3, 4, 5, 6, 7])
    cache.begin(new)
    assert remnants.hand_on(new, SIZE, num_scheduled) == reach


@pytest.mark.parametrize(
    "new",
    [
        Request("new", [1, 2, 3, 9, 5, 6, 7]),
        Request("new", [1, 2, 3, 4, 9, 6, 7]),
        Request("new", [1, 2, 3, 4, 5, 6, 7], salt="another key's"),
    ],
    ids=["other tokens before", "other tokens in it", "another salt"],
)
def test_who_has_other_tokens_gets_nothing(cache: Cache, remnants: Remnants, new: Request) -> None:
    old = ended(cache, remnants, [1, 2, 3, 4, 5, 6, 7])
    cache.begin(new)
    before = list(cache.req_to_blocks["new"])
    assert remnants.hand_on(new, SIZE, len(new.token_ids) - SIZE) == SIZE
    assert cache.req_to_blocks["new"] == before
    assert old[1].ref_cnt == 1


def test_a_block_that_somebody_reads_stays_theirs(cache: Cache, remnants: Remnants) -> None:
    old = ended(cache, remnants, [1, 2, 3, 4, 5, 6, 7])
    cache.touch(old[1:])
    new = Request("new", [1, 2, 3, 4, 5, 6, 9])
    cache.begin(new)
    assert remnants.hand_on(new, SIZE, len(new.token_ids) - SIZE) == SIZE


def test_a_new_block_that_is_in_the_prefix_cache_already_is_not_replaced(cache: Cache, remnants: Remnants) -> None:
    ended(cache, remnants, [1, 2, 3, 4, 5, 6, 7])
    new = Request("new", [1, 2, 3, 4, 5, 6, 9, 10, 11])
    cache.begin(new)
    assert remnants.hand_on(new, SIZE, len(new.token_ids) - SIZE) == SIZE


def test_the_longest_reach_wins(cache: Cache, remnants: Remnants) -> None:
    ended(cache, remnants, [1, 2, 3, 4, 5, 8, 8], "short")
    long = ended(cache, remnants, [1, 2, 3, 4, 5, 6, 7, 8], "long")
    ended(cache, remnants, [1, 2, 3, 4, 5, 9, 9], "newest")
    new = Request("new", [1, 2, 3, 4, 5, 6, 7, 9])
    cache.begin(new)
    assert remnants.hand_on(new, SIZE, len(new.token_ids) - SIZE) == 7
    assert cache.req_to_blocks["new"][1] is long[1]


def test_only_the_last_blocks_are_kept(cache: Cache, remnants: Remnants) -> None:
    old = ended(cache, remnants, list(range(SIZE * (BLOCKS_KEPT + 3))))
    assert [block.ref_cnt for block in old] == [0, 0, 0, *[1] * BLOCKS_KEPT]
    remnants.release()
    assert cache.num_used == 0


def test_the_oldest_goes_where_there_are_many(cache: Cache, remnants: Remnants) -> None:
    all_blocks = [ended(cache, remnants, [number, *range(1, 6)], f"old-{number}") for number in range(4)]
    assert [blocks[1].ref_cnt for blocks in all_blocks] == [0, 0, 1, 1], "2 of 256 blocks, at one in 128"


def test_a_small_cache_and_a_short_text_keep_nothing(cache: Cache, remnants: Remnants) -> None:
    small = Cache(num_gpu_blocks=KEEPS_ONE_IN - 1)
    ended(small, Remnants(small, small, 8), [1, 2, 3, 4, 5, 6, 7])
    ended(cache, remnants, [1, 2, 3])
    remnants.keep(Request("never scheduled", [1, 2, 3, 4, 5, 6], 5))
    assert small.num_used == cache.num_used == 0
