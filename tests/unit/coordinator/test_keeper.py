"""Generations without a reader: how long, how many, for whom. On a virtual clock; one token takes 0.1 s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from actors.errors import HandedOver, RequestError, RoleUnavailable
from actors.messages import Message, Prompt
from deployments.coordinator.keeper import Keeper
from deployments.generation import Channel, Committed, Finished, GenerationRequest, Keep, Opened, Origin, Output
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import Bench, request, truth

TRUTH = truth()


def kept(name: str = "r", seconds: float = 5.0, owner: str = "me") -> GenerationRequest:
    return replace(request(mode="target"), request_id=name, keep=Keep(seconds, owner, "{}", name), timeout_s=100.0)


async def read(keeper: Keeper, of: GenerationRequest, num_outputs: int | None) -> list[Output]:
    """So many outputs, then the reader is gone."""
    outputs: list[Output] = []
    async with aclosing(keeper.generate(of)) as answers:
        async for output in answers:
            outputs.append(output)
            if len(outputs) == num_outputs:
                break
    return outputs


def text(outputs: list[Output]) -> str:
    return "".join(o.text for o in outputs if isinstance(o, Committed))


def test_what_nobody_reads_is_written_on_and_fetched() -> None:
    async def lose() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 10**6)
        had = await read(keeper, kept(), 4)
        await asyncio.sleep(2.0)
        assert bench.target_engine.num_running() == 1
        assert await keeper.hand_over("unknown", "me") == []
        (fetched,) = await keeper.hand_over("r", "me")
        assert bench.target_engine.num_running() == 0, "who was left has ended"
        assert fetched.resume is not None
        assert len(fetched.resume.texts[0][1]) > len(text(had)) + 50
        assert fetched.timeout_s == pytest.approx(100 - 2.3, abs=0.2)
        rest = await read(keeper, fetched, None)
        assert fetched.resume.texts[0][1] + text(rest) == TRUTH
        assert isinstance(rest[-1], Finished)
        (again,) = await keeper.hand_over("r", "me")
        assert again.resume is not None
        assert again.resume.finished == rest[-1]
        num_generations = bench.target_engine.num_generations
        assert await read(keeper, again, None) == [rest[-1]], "it is only kept again"
        assert bench.target_engine.num_generations == num_generations
        await keeper.close()

    run_virtually(lose())


def test_nobody_else_may_fetch_and_after_its_time_nobody() -> None:
    async def late() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 10**6)
        await read(keeper, kept(seconds=3.0), 4)
        assert await keeper.hand_over("r", "another") == []
        assert bench.target_engine.num_running() == 1
        await asyncio.sleep(3.1)
        assert (bench.target_engine.num_running(), keeper.num_kept) == (0, 0)
        assert await keeper.hand_over("r", "me") == []

    run_virtually(late())


def test_a_request_that_is_not_kept_ends_with_its_reader() -> None:
    async def leave() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 10**6)
        await read(keeper, request(mode="target"), 4)
        await asyncio.sleep(0)
        assert (bench.target_engine.num_running(), keeper.num_kept) == (0, 0)

    run_virtually(leave())


def test_what_was_refused_is_not_kept() -> None:
    async def refused() -> None:
        keeper = Keeper((await Bench().coordinator()).generate, 10, 10**6)
        with pytest.raises(RequestError):
            await read(keeper, replace(kept(), max_tokens=10**6), None)
        assert keeper.num_kept == 0

    run_virtually(refused())


def test_who_is_read_elsewhere_is_told() -> None:
    async def twice() -> None:
        keeper = Keeper((await Bench().coordinator()).generate, 10, 10**6)
        reading = asyncio.create_task(read(keeper, kept(), None))
        await asyncio.sleep(1.0)
        (fetched,) = await keeper.hand_over("r", "me")
        with pytest.raises(HandedOver):
            await reading
        assert fetched.resume is not None
        assert fetched.resume.num_tokens == 9 or fetched.resume.num_tokens == 10
        await keeper.close()

    run_virtually(twice())


def test_what_was_asked_for_or_fetched_since_is_not_ended_by_who_had_it_before() -> None:
    async def late() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 10**6)
        before = kept().keep
        assert before is not None
        for since in (replace(before, fetched_at=1.0), replace(before, manner="asked again")):
            reading = asyncio.create_task(read(keeper, replace(kept(), keep=since), None))
            await asyncio.sleep(1.0)
            assert await keeper.hand_over("r", "me", before) == []
            assert text(await reading) == TRUTH
        await keeper.close()

    run_virtually(late())


def test_what_is_let_go_is_not_kept_and_who_reads_it_goes_on_elsewhere() -> None:
    async def let_go() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 10**6)
        reading = asyncio.create_task(read(keeper, kept(), None))
        await asyncio.sleep(1.0)
        (found,) = await keeper.hand_over("r", "me", kept().keep)
        assert found.resume is not None
        with pytest.raises(RoleUnavailable, match="another coordinator goes on"):
            await reading
        assert (keeper.num_kept, bench.target_engine.num_running()) == (0, 0)
        await keeper.close()

    run_virtually(let_go())


def test_one_that_drains_waits_as_long_as_anything_is_kept() -> None:
    async def drain() -> float:
        keeper = Keeper((await Bench().coordinator()).generate, 10, 10**6)
        await keeper.drain()
        await read(keeper, kept(seconds=3.0), 4)
        begun = asyncio.get_running_loop().time()
        await keeper.drain()
        took_s = asyncio.get_running_loop().time() - begun
        await keeper.close()
        return took_s

    assert run_virtually(drain()) == pytest.approx(3.0)


def test_too_many_or_too_much_is_not_kept() -> None:
    async def crowd(max_requests: int, max_bytes: int) -> list[str]:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, max_requests, max_bytes)
        for name in "abcd":
            await read(keeper, kept(name, seconds=60.0), 4)
        await asyncio.sleep(20.0)
        assert bench.target_engine.num_running() == 0
        assert keeper.num_bytes <= max_bytes
        found = [name for name in "abcd" if await keeper.hand_over(name, "me")]
        await keeper.close()
        return found

    assert run_virtually(crowd(10, 10**6)) == ["a", "b", "c", "d"]
    assert run_virtually(crowd(2, 10**6)) == ["c", "d"], "who was left longest goes first"
    assert run_virtually(crowd(10, 35_000)) == ["d"]


LONG = "word " * 2000


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": Prompt(text=LONG)},
        {"prompt": Prompt(messages=(Message("user", "?"), Message("assistant", LONG)))},
        {"prompt": Prompt(messages=(Message("user", "?"),), template_options=LONG)},
        {"prompt": Prompt(token_ids=(7,) * 280)},
        {"stop": (LONG,)},
    ],
)
def test_what_was_asked_counts_as_well(asked: dict[str, Any]) -> None:
    """Ten kilobytes each, of which two fit."""

    async def one_word(request: GenerationRequest) -> AsyncGenerator[Output, None]:
        yield Opened(request.request_id, 7)
        yield Committed("w", Channel.CONTENT, Origin.TARGET, 1, 0)
        await asyncio.sleep(30.0)

    async def crowd() -> None:
        keeper = Keeper(one_word, 10, 25_000)
        for name in "abcd":
            await read(keeper, replace(kept(name, seconds=60.0), **asked), 2)
        assert (keeper.num_kept, keeper.num_bytes // 10_000) == (2, 2)
        await keeper.close()
        assert keeper.num_bytes == 0

    run_virtually(crowd())


def test_one_that_is_read_is_read_on_where_it_cannot_be_kept() -> None:
    async def full() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 1000)
        outputs = await read(keeper, kept(), None)
        assert text(outputs) == TRUTH
        assert keeper.num_kept == 0
        await read(keeper, kept(), 60)
        await asyncio.sleep(0.01)
        assert bench.target_engine.num_running() == 0, "not kept any more, so it ends with its reader"

    run_virtually(full())


def test_a_slow_reader_stops_the_writer_and_not_the_memory() -> None:
    async def slow() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 10**6)
        async with aclosing(keeper.generate(kept())) as answers:
            assert isinstance(await anext(answers), Opened)
            await anext(answers)
            await asyncio.sleep(60.0)
            assert keeper.num_kept == 1
        (fetched,) = await keeper.hand_over("r", "me")
        assert fetched.resume is not None
        assert fetched.resume.num_tokens <= 70, "one queue of outputs"
        await keeper.close()

    run_virtually(slow())


def test_whose_time_is_over_while_it_is_written_is_told_and_nobody_else() -> None:
    async def wait() -> None:
        bench = Bench()
        expired: list[str] = []
        generate = (await bench.coordinator()).generate
        keeper = Keeper(generate, 10, 10**6, lambda of: expired.append(of.request_id))
        await read(keeper, kept("whole", 1.0), None)
        await read(keeper, kept("taken", 1.0), 4)
        await keeper.hand_over("taken", "me")
        await read(keeper, kept("left", 3.0), 4)
        await asyncio.sleep(2.0)
        assert expired == []
        await asyncio.sleep(1.1)
        assert (expired, keeper.num_kept) == (["left"], 0)
        await keeper.close()

    run_virtually(wait())


def test_what_ends_before_its_time_is_told_where_it_was_being_written() -> None:
    async def end() -> list[str]:
        expired: list[str] = []
        generate = (await Bench().coordinator()).generate
        keeper = Keeper(generate, 2, 10**6, lambda of: expired.append(of.request_id))
        unread = keeper.generate(kept("unopened"))
        opening = asyncio.create_task(anext(unread))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        for name in ("first", "second", "third"):
            await read(keeper, kept(name, 60.0), 4)
        await asyncio.sleep(0.5)
        await read(keeper, kept("third", 60.0), 4)
        async with aclosing(keeper.generate(kept("read"))) as reading:
            await anext(reading)
            told = list(expired)
            closing = asyncio.create_task(keeper.close())
            await asyncio.sleep(0)
        await closing
        assert told == expired, "closing ends no work of others"
        return told

    assert run_virtually(end()) == ["unopened", "first", "second"]


def test_what_is_finished_waits_with_the_other_choices_of_its_stream() -> None:
    async def part() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 10**6)
        short, long = (replace(kept(seconds=1.0), request_id=name) for name in ("r-0", "r-1"))
        reading = asyncio.create_task(read(keeper, long, None))
        await read(keeper, replace(short, max_tokens=3), None)
        await asyncio.sleep(3.0)
        assert len(await keeper.hand_over("r", "me")) == 2, "its client is there, and may lose its connection now"
        with pytest.raises(HandedOver):
            await reading
        (fetched,) = (each for each in await keeper.hand_over("r", "me") if each.request_id == "r-1")
        await asyncio.sleep(0.9)
        reading = asyncio.create_task(read(keeper, fetched, 20))
        await asyncio.sleep(1.5)
        assert keeper.num_kept == 2, "the other one was fetched with it"
        await reading
        await asyncio.sleep(0.9)
        assert keeper.num_kept == 2
        await asyncio.sleep(0.2)
        assert (keeper.num_kept, bench.target_engine.num_running()) == (0, 0), "nobody has come back for either"

    run_virtually(part())


def test_of_an_id_that_was_used_again_the_former_stream_does_not_wait_with_the_new_one() -> None:
    async def again() -> None:
        bench = Bench()
        keeper = Keeper((await bench.coordinator()).generate, 10, 10**6)
        former = replace(kept(seconds=1.0), request_id="r-0")
        await read(keeper, former, 4)
        other = replace(kept(seconds=1.0).keep, manner="asked again")  # type: ignore[type-var]
        reading = asyncio.create_task(read(keeper, replace(former, request_id="r", keep=other), None))
        await asyncio.sleep(1.1)
        assert (keeper.num_kept, bench.target_engine.num_running()) == (1, 1)
        assert text(await reading) == TRUTH
        await keeper.close()

    run_virtually(again())


@pytest.mark.parametrize("way", ["read_out", "hand_over"])
def test_a_fetch_that_is_given_up_leaves_nothing_for_ever(way: str) -> None:
    async def slowly(request: GenerationRequest) -> AsyncGenerator[Output, None]:
        try:
            yield Opened(request.request_id, 7)
            await asyncio.sleep(3.0)
        finally:
            await asyncio.sleep(1.0)

    async def give_up() -> None:
        keeper = Keeper(slowly, 10, 10**6)
        reading = asyncio.create_task(read(keeper, kept(seconds=2.0), None))
        await asyncio.sleep(0.5)
        within = (5.0,) if way == "read_out" else ()
        fetching = asyncio.create_task(getattr(keeper, way)("r", "me", *within))
        await asyncio.sleep(0.5)
        fetching.cancel()
        with pytest.raises(HandedOver):
            async with asyncio.timeout(0.1):
                await reading
        assert keeper.num_kept == 1
        await asyncio.sleep(1.6)
        assert keeper.num_kept == 0
        await keeper.close()

    run_virtually(give_up())
