"""Long parts of a text cross a connection once, and every call is whole at its other end."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from actors.errors import RoleUnavailable
from actors.messages import MERGED_TOKENS, Ending, JudgeRequest, Piece, Prefix, Step, StepRequest, StepRule
from deployments.link import kept
from deployments.link.client import Link
from deployments.link.kept import MAX_TOKENS, NUM_PLACES, Asked, Keeper, Sender
from deployments.link.server import LinkServer
from tests.unit.link.test_links import until


def request(prefix: Prefix) -> StepRequest:
    return StepRequest("call", "session", prefix, StepRule(), 64)


def question(prefix: Prefix | None) -> JudgeRequest:
    step = Step("So 3.", (1, 2), "v", Ending.BOUNDARY)
    return JudgeRequest("session", "balanced", "How many?", "before", step, None, prefix, "v")


def grown(prefix: Prefix, num_tokens: int, word: int = 7) -> Prefix:
    """`prefix` and steps of 100 tokens behind it."""
    for _ in range(num_tokens // 100):
        prefix = prefix.extended(Piece("w" * 100, (word,) * 100, "v"))
    return prefix


def hand_over(sender: Sender, keeper: Keeper, asked: Asked) -> tuple[Asked, int]:
    """What arrives of `asked`, and the bytes that crossed."""
    news, args = sender.short((asked, 3))
    said = [pickle.dumps(part) for part in news]
    for place, part in map(pickle.loads, said):
        keeper.keep(place, part)
    data = pickle.dumps(args)
    arrived, three = keeper.whole(pickle.loads(data))
    assert three == 3
    return arrived, len(data) + sum(map(len, said))


@pytest.mark.parametrize("asking", [request, question])
def test_a_long_text_crosses_once(asking: Callable[[Prefix], Asked]) -> None:
    sender, keeper = Sender(), Keeper()
    sender.num_places = NUM_PLACES
    prefix = grown(Prefix(tuple(range(5000)), cache_salt="mine"), 30_000)
    arrived, num_bytes = hand_over(sender, keeper, asking(prefix))
    assert arrived == asking(prefix)
    assert num_bytes > 60_000
    for _ in range(30):
        prefix = grown(prefix, 100)
        arrived, num_bytes = hand_over(sender, keeper, asking(prefix))
        assert arrived == asking(prefix)
        assert num_bytes < 16_000


def test_a_question_without_a_prefix_crosses_as_it_is() -> None:
    sender, keeper = Sender(), Keeper()
    sender.num_places = NUM_PLACES
    assert hand_over(sender, keeper, question(None))[0] == question(None)


def test_to_an_end_that_keeps_nothing_all_is_sent() -> None:
    asked = request(grown(Prefix(tuple(range(5000))), 5000))
    assert Sender().short((asked,)) == ([], (asked,))


@pytest.mark.parametrize(
    ("num_places", "max_tokens"),
    [(1, MAX_TOKENS), (4, MAX_TOKENS), (9, MAX_TOKENS), (9, 0), (9, MERGED_TOKENS), (9, 3 * MERGED_TOKENS + 500)],
)
def test_with_little_room_any_order_of_texts_arrives_whole(
    num_places: int, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MAX_TOKENS", max_tokens)
    chance = random.Random(num_places)
    sender, keeper = Sender(), Keeper()
    sender.num_places = num_places
    texts = [Prefix((number,) * chance.choice((3, MERGED_TOKENS))) for number in range(5)]
    for _ in range(200):
        number = chance.randrange(len(texts))
        texts[number] = grown(texts[number], chance.choice((0, 100, 1100)), number)
        if len(texts[number].pieces) > 6:
            texts[number] = Prefix((chance.randrange(9),) * MERGED_TOKENS)
        assert hand_over(sender, keeper, request(texts[number]))[0] == request(texts[number])
        assert dict(sender._places.values()) == keeper._kept
        assert len(keeper._kept) <= num_places
        assert sender.num_tokens == keeper.num_tokens <= max_tokens


def test_however_long_the_texts_are_no_more_than_so_many_tokens_are_kept() -> None:
    sender, keeper = Sender(), Keeper()
    sender.num_places = NUM_PLACES
    for number in range(NUM_PLACES):
        asked = request(Prefix((number,) * 30_000))
        assert hand_over(sender, keeper, asked)[0] == asked
        assert sender.num_tokens == keeper.num_tokens <= MAX_TOKENS
    assert keeper.num_tokens > MAX_TOKENS - 30_000
    assert max(keeper._kept) < 20, "places are used again"


def test_a_text_that_is_too_long_to_be_kept_crosses_with_each_call() -> None:
    sender, keeper = Sender(), Keeper()
    sender.num_places = NUM_PLACES
    small, large = Prefix((1,) * 5000), Prefix((1,) * (MAX_TOKENS + 1))
    hand_over(sender, keeper, request(small))
    assert hand_over(sender, keeper, request(large))[0] == request(large)
    arrived, num_bytes = hand_over(sender, keeper, request(small))
    assert (arrived, num_bytes < 1000) == (request(small), True)


class Reader:
    """A replica that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[StepRequest] = []

    async def step(self, asked: StepRequest) -> int:
        self.asked.append(asked)
        return len(asked.prefix.pieces)

    async def stream(self, asked: StepRequest) -> AsyncGenerator[int, None]:
        self.asked.append(asked)
        yield 1


async def over_a_link(work: Callable[[Link, LinkServer, Reader], Any]) -> None:
    reader = Reader()
    server = LinkServer(reader, {"step", "stream"}, "r", 8)
    link = await Link.open(await server.start("127.0.0.1"), 5.0)
    try:
        await work(link, server, reader)
    finally:
        await link.aclose()
        await server.close()


async def test_over_a_link_calls_arrive_whole_and_long_parts_are_one_object_there() -> None:
    async def work(link: Link, _: LinkServer, reader: Reader) -> None:
        await until(lambda: link._sender.num_places == NUM_PLACES)
        prefixes = [grown(Prefix((1,) * 2000), 3000)]
        prefixes += [grown(prefixes[0], 100), grown(prefixes[0], 1500)]
        for method in ("step", "stream"):
            for prefix in prefixes:
                async with aclosing(link.items(method, request(prefix))) as items:
                    assert [item async for item in items]
        assert [asked.prefix for asked in reader.asked] == [*prefixes, *prefixes]
        assert len({id(asked.prefix.prompt_ids) for asked in reader.asked}) == 1
        assert len({id(asked.prefix.pieces[0]) for asked in reader.asked}) == 1

    await over_a_link(work)


async def test_a_replica_that_lost_a_part_ends_the_connection_and_the_next_one_begins_anew() -> None:
    async def work(link: Link, server: LinkServer, reader: Reader) -> None:
        await until(lambda: link._sender.num_places > 0)
        asked = request(grown(Prefix(()), 3000))
        async with aclosing(link.items("step", asked)) as items:
            assert await anext(items) == len(asked.prefix.pieces)
        for caller in server._callers:
            caller._keeper = Keeper()
        with pytest.raises(RoleUnavailable):
            await asyncio.wait_for(anext(link.items("step", asked)), 5)
        again = await Link.open(server.address, 5.0)
        async with aclosing(again.items("step", asked)) as items:
            assert await anext(items) == len(asked.prefix.pieces)
        await again.aclose()
        assert [each.prefix for each in reader.asked] == [asked.prefix, asked.prefix]

    await over_a_link(work)
