"""A coordinator that was given up may live, and with sampling writes other words than the one that took over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from actors.errors import HandedOver, RoleUnavailable
from actors.messages import Piece
from deployments.coordinator.keeper import Keeper
from deployments.gateway.bookmarks import Mark
from deployments.gateway.rejoining import Manner, Rest, fetch
from deployments.gateway.unbroken import Perseverance, Unbroken
from deployments.generation import (
    Channel,
    Committed,
    Finished,
    GenerationRequest,
    Keep,
    Opened,
    Origin,
    Output,
    OutputState,
    Seam,
    Standing,
)
from deployments.lingering import Lingering
from tests.unit.clock import run_virtually
from tests.unit.coordinator import bench
from tests.unit.gateway.script import SUMMARY

MANNER = str(Manner("r", True, 1, ("r",), 1, False))
ASKED = replace(bench.request(), keep=Keep(60.0, "me", MANNER, "r"), timeout_s=100.0)
LATER = 1e12
"""Seconds since 1970: on the clock of a gateway that is wrong."""


class Writer:
    """Writes ``a0 a1 a2`` and so on, or with another letter."""

    def __init__(self, letter: str, token_s: float, num_words: int = 60) -> None:
        self._letter = letter
        self._token_s = token_s
        self._num_words = num_words

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        yield Opened(request.request_id, 7)
        for number in range(request.resume.num_tokens if request.resume is not None else 0, self._num_words):
            await asyncio.sleep(self._token_s)
            word = f"{self._letter}{number} "
            seam = Seam(Piece(word, (number,), "v"), OutputState())
            yield Committed(word, Channel.CONTENT, Origin.TARGET, 1, number, seam)
        yield Finished("stop", 7, self._num_words, 0, SUMMARY)


class Coordinators:
    """Two of them. When `is_cut`, gateways hear no more of the first one, which lives; `asked` are those that may be
    asked for streams."""

    def __init__(self) -> None:
        self.keepers = [Keeper(Writer("a", 0.1).generate, 10, 10**6), Keeper(Writer("b", 0.3).generate, 10, 10**6)]
        self.is_cut = False
        self.asked = [0, 1]

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        number = int(self.is_cut)
        async with aclosing(self.keepers[number].generate(request)) as outputs:
            async for output in outputs:
                if number == 0 and self.is_cut:
                    raise RoleUnavailable("It says nothing any more.")
                yield output

    async def hand_over(self, *asked: Any) -> list[GenerationRequest]:
        return [found for n in self.asked for found in await self.keepers[n].hand_over(*asked)]

    def gateway(self) -> Lingering:
        return Lingering(Unbroken(self.generate).generate, self.hand_over, 10, 10**6)


async def begin(gateway: Lingering, both: Coordinators) -> str:
    """What a client had that left after its gateway has changed the coordinator."""
    had = ""
    async with aclosing(gateway.generate(ASKED)) as outputs:
        async for output in outputs:
            had += output.text if isinstance(output, Committed) else ""
            both.is_cut = "a5" in had
            if "b9" in had:
                break
    assert had == "a0 a1 a2 a3 a4 a5 b6 b7 b8 b9 "
    return had


def text_of(request: GenerationRequest) -> str:
    assert request.resume is not None
    return "".join(text for _, text in request.resume.texts)


@pytest.mark.parametrize(("asked", "is_same_gateway"), [([0, 1], False), ([1, 0], True), ([0], True)])
def test_the_text_that_the_client_was_sent_goes_on(asked: list[int], is_same_gateway: bool) -> None:
    """Whether or not the one that took over can still be asked: the gateway knows as well what it sent."""

    async def come_back() -> None:
        both = Coordinators()
        gateways = [both.gateway(), both.gateway()]
        had = await begin(gateways[0], both)
        await asyncio.sleep(3.0)
        both.asked = asked
        _, (found,), _ = await fetch(gateways[not is_same_gateway], "r", "me")  # type: ignore[arg-type]
        assert text_of(found).startswith(had + "b10 b11 ")
        assert "a6" not in text_of(found)
        for each in (*gateways, *both.keepers):
            await each.close()

    run_virtually(come_back())


def test_what_the_client_has_come_back_to_goes_before_what_its_old_gateway_has_reached() -> None:
    """Both went on behind the same words, each with a coordinator of its own."""

    class Backend:
        async def hand_over(self, stream_id: str, owner: str) -> list[GenerationRequest]:
            return [was("what it reads", LATER, 0), was("what nobody reads, which is longer", 0.0, 3)]

    def was(text: str, fetched_at: float, num_takeovers: int) -> GenerationRequest:
        standing = Standing(7, ((Channel.CONTENT, text),), (), len(text), None)
        keep = Keep(60.0, "me", MANNER, "r", fetched_at)
        return replace(ASKED, resume=standing, keep=keep, num_takeovers=num_takeovers)

    _, (found,), _ = asyncio.run(fetch(Backend(), "r", "me"))  # type: ignore[arg-type]
    assert (text_of(found), found.num_takeovers) == ("what it reads", 0)
    assert found.keep is not None
    assert found.keep.fetched_at > LATER, "a fetch is later than those before, whatever the clock says"


def test_who_fetched_it_before_and_is_gone_does_not_end_it() -> None:
    """The client came back twice, and its first connection of the two hung."""

    async def twice() -> None:
        both = Coordinators()
        gateways = [both.gateway(), both.gateway()]
        asked = replace(ASKED, keep=Keep(1.0, "me", MANNER, "r"))
        async with aclosing(gateways[0].generate(asked)) as outputs:
            assert isinstance(await anext(outputs), Opened)
            await anext(outputs)
        fetches = [(await fetch(gateway, "r", "me"))[1][0] for gateway in gateways]  # type: ignore[arg-type]
        hanging = gateways[0].generate(fetches[0])
        await anext(hanging)
        reading = asyncio.create_task(read_all(gateways[1].generate(fetches[1])))
        await asyncio.sleep(0.5)
        await hanging.aclose()
        assert isinstance((await reading)[-1], Finished)
        for each in (*gateways, *both.keepers):
            await each.close()

    run_virtually(twice())


class Mortal:
    """The only coordinator. `cut_off` are the gateways that hear nothing of it, and do not give up."""

    def __init__(self) -> None:
        self.keeper: Keeper | None = Keeper(Writer("a", 0.1).generate, 10, 10**6)
        self.cut_off: set[int] = set()
        self.gateways = [self._gateway(number) for number in range(2)]

    def _gateway(self, number: int) -> Lingering:
        async def generate(request: GenerationRequest) -> AsyncGenerator[Output, None]:
            if (keeper := self.keeper) is None or number in self.cut_off:
                raise RoleUnavailable("There is none.")
            try:
                async with aclosing(keeper.generate(request)) as outputs:
                    async for output in outputs:
                        if keeper is not self.keeper or number in self.cut_off:
                            raise RoleUnavailable("It says nothing any more.")
                        yield output
            except HandedOver:
                if number in self.cut_off:
                    raise RoleUnavailable("It says nothing any more.") from None
                raise

        unbroken = Unbroken(generate, Perseverance(max_attempts=100))
        return Lingering(unbroken.generate, self.hand_over, 10, 10**6)

    async def hand_over(self, *asked: Any) -> list[GenerationRequest | Exception]:
        if self.keeper is None:
            return [RoleUnavailable("It says nothing.")]
        return [*await self.keeper.hand_over(*asked)]

    async def restart(self, letter: str, after_s: float) -> None:
        """It dies, and another one comes."""
        former, self.keeper = self.keeper, None
        assert former is not None
        await former.close()
        await asyncio.sleep(after_s)
        self.keeper = Keeper(Writer(letter, 0.1).generate, 10, 10**6)


@pytest.mark.parametrize("is_told", [True, False])
def test_what_its_client_has_gone_beyond_is_not_gone_on_with(is_told: bool) -> None:
    """The first gateway's copy ends where the second one fetched the stream, whether or not the first one knows."""

    async def come_back() -> None:
        at = Mortal()
        first, second = at.gateways
        had = await read_up_to("a3 ", first.generate(ASKED))
        at.cut_off = set() if is_told else {0}
        _, fetched, _ = await fetch(second, "r", "me")  # type: ignore[arg-type]
        rest = Rest(second, fetched, [Mark(True, len(had))])
        had += await read_up_to("a19 ", rest.generate(fetched[0]))
        marks = [Mark(True, len(had))]
        restarting = asyncio.create_task(at.restart("c", 0.5))
        await asyncio.sleep(0.2)
        with pytest.raises(RoleUnavailable, match="ask again"):
            await fetch(first, "r", "me", [] if is_told else marks)  # type: ignore[arg-type]
        await restarting
        await asyncio.sleep(6.0)
        _, (found,), _ = await fetch(second, "r", "me", marks)  # type: ignore[arg-type]
        assert text_of(found).startswith(had)
        assert at.keeper is not None
        for each in (first, second, at.keeper):
            await each.close()

    run_virtually(come_back())


async def read_up_to(word: str, outputs: Any) -> str:
    """The text up to `word`, with which the reader is gone."""
    text = ""
    async with aclosing(outputs):
        async for output in outputs:
            text += output.text if isinstance(output, Committed) else ""
            if text.endswith(word):
                break
    return text


async def read_all(outputs: AsyncGenerator[Output, None]) -> list[Output]:
    return [output async for output in outputs]
