"""Coordinators that die in mid-stream, one after the other, and a reader that notices nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import pytest

from actors.errors import (
    AttemptsExhausted,
    CapacityError,
    DeadlineExceeded,
    RequestError,
    RoleUnavailable,
    StrategyError,
)
from deployments.coordinator.coordinator import Coordinator
from deployments.gateway.unbroken import Perseverance, Unbroken
from deployments.generation import Committed, Finished, GenerationRequest, Opened, Output
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import Bench, request, truth

Behaviour = Callable[[int, GenerationRequest], Exception | int]
"""What the coordinator of a number does: dies before it says anything, or after so many outputs."""


class Mortals:
    """Coordinators in this process, each of which ends as `behave` says. `asked` are the requests they got."""

    def __init__(self, coordinator: Coordinator, behave: Behaviour) -> None:
        self._coordinator = coordinator
        self._behave = behave
        self.asked: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        fate = self._behave(len(self.asked), request)
        self.asked.append(request)
        if isinstance(fate, Exception):
            raise fate
        async with aclosing(self._coordinator.generate(request)) as outputs:
            async for output in outputs:
                if fate == 0:
                    raise RoleUnavailable("The coordinator replica was lost.")
                fate -= 1
                yield output


async def outlive(behave: Behaviour, wanted: GenerationRequest) -> tuple[list[Output], Mortals]:
    mortals = Mortals(await Bench().coordinator(), behave)
    async with aclosing(Unbroken(mortals.generate).generate(wanted)) as outputs:
        return [output async for output in outputs], mortals


async def read(unbroken: Unbroken, wanted: GenerationRequest, into: list[Output] | None = None) -> None:
    """All that comes, before it breaks off too."""
    async with aclosing(unbroken.generate(wanted)) as outputs:
        async for output in outputs:
            if into is not None:
                into.append(output)


def text(outputs: list[Output]) -> str:
    return "".join(o.text for o in outputs if isinstance(o, Committed))


@pytest.mark.parametrize("mode", ["target", "lookahead"])
@pytest.mark.parametrize("lives", [2, 3, 7])
def test_coordinators_may_die_one_after_the_other(mode: str, lives: int) -> None:
    outputs, mortals = run_virtually(outlive(lambda n, _: lives, request(mode=mode, verifier="exact")))
    assert text(outputs) == truth()
    assert [type(o) for o in outputs].count(Opened) == 1
    last = outputs[-1]
    assert isinstance(last, Finished)
    assert last.summary.degraded == ("coordinator_resumed",)
    assert last.num_output_tokens == sum(o.num_tokens for o in outputs if isinstance(o, Committed))
    assert len(mortals.asked) > 5


def test_whoever_takes_over_is_told_how_long_it_has_taken() -> None:
    _, mortals = run_virtually(outlive(lambda n, _: 3, request(mode="target")))
    resumed = [asked.resume for asked in mortals.asked if asked.resume is not None]
    assert len(resumed) > 5
    for number, resume in enumerate(resumed, 1):
        lost_s = 0.1 + 0.05  # with each coordinator one token, and the pause before the next one
        assert resume.elapsed_s == pytest.approx(0.1 * resume.num_tokens + lost_s * number, abs=0.11)


def test_one_that_lives_is_asked_once_and_nothing_is_degraded() -> None:
    outputs, mortals = run_virtually(outlive(lambda n, _: 10**6, request(mode="target")))
    assert (text(outputs), len(mortals.asked)) == (truth(), 1)
    assert isinstance(outputs[-1], Finished)
    assert outputs[-1].summary.degraded == ()


def test_a_coordinator_that_dies_before_its_first_word_costs_nothing() -> None:
    gone = RoleUnavailable("The coordinator replica was lost.")
    outputs, _ = run_virtually(outlive(lambda n, _: gone if n == 0 else 10**6, request(mode="target")))
    assert text(outputs) == truth()


def test_the_tries_are_bounded_and_pauses_grow() -> None:
    async def in_vain() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        start, mortals = loop.time(), Mortals(await Bench().coordinator(), lambda n, _: RoleUnavailable("gone"))
        with pytest.raises(RoleUnavailable):
            await read(Unbroken(mortals.generate, Perseverance(max_attempts=5)), request())
        return loop.time() - start, len(mortals.asked)

    elapsed, num_asked = run_virtually(in_vain())
    assert num_asked == 5
    assert elapsed == pytest.approx(0.05 + 0.1 + 0.2 + 0.4)


@pytest.mark.parametrize(("num_opened", "num_asked", "elapsed_s"), [(0, 1, 100.0), (1, 2, 200.05), (2, 3, 300.15)])
def test_one_that_dies_after_a_long_silence_is_replaced(num_opened: int, num_asked: int, elapsed_s: float) -> None:
    """It may have read a long prompt. Only the time counts in which no coordinator answers at all."""
    asked: list[GenerationRequest] = []

    async def generate(request: GenerationRequest) -> AsyncGenerator[Output, None]:
        asked.append(request)
        if len(asked) <= num_opened:
            yield Opened(request.request_id, 7)
        await asyncio.sleep(100.0)
        raise RoleUnavailable("gone")

    async def in_vain() -> float:
        start = asyncio.get_running_loop().time()
        with pytest.raises(RoleUnavailable):
            await read(Unbroken(generate, Perseverance(patience_s=60.0)), request())
        return asyncio.get_running_loop().time() - start

    assert run_virtually(in_vain()) == pytest.approx(elapsed_s)
    assert len(asked) == num_asked


@pytest.mark.parametrize(
    "error",
    [
        AttemptsExhausted("no target"),
        RequestError("bad"),
        CapacityError("full"),
        DeadlineExceeded("late"),
        StrategyError("bad"),
    ],
)
def test_what_another_coordinator_would_say_as_well_is_not_asked_again(error: Exception) -> None:
    async def once() -> int:
        mortals = Mortals(await Bench().coordinator(), lambda n, _: error)
        with pytest.raises(type(error)):
            await read(Unbroken(mortals.generate), request())
        return len(mortals.asked)

    assert run_virtually(once()) == 1


def test_in_mid_stream_full_coordinators_are_asked_again() -> None:
    def behave(number: int, _: GenerationRequest) -> Exception | int:
        return CapacityError("full") if number in (1, 2) else 4 if number == 0 else 10**6

    outputs, mortals = run_virtually(outlive(behave, request(mode="target")))
    assert (text(outputs), len(mortals.asked)) == (truth(), 4)


def test_the_time_limit_counts_from_the_beginning() -> None:
    """Each coordinator lives for one token of 0.1 s; the limit is 2 s."""
    outputs: list[Output] = []

    async def late() -> None:
        mortals = Mortals(await Bench().coordinator(), lambda n, _: 2)
        with pytest.raises(DeadlineExceeded):
            await read(Unbroken(mortals.generate), request(mode="target", timeout_s=2.0), outputs)
        assert mortals.asked[-1].timeout_s is not None
        assert mortals.asked[-1].timeout_s < 0.5

    run_virtually(late())
    assert truth().startswith(text(outputs))


def test_who_leaves_ends_the_work() -> None:
    bench = Bench()

    async def leave() -> None:
        mortals = Mortals(await bench.coordinator(), lambda n, _: 4 if n == 0 else 10**6)
        async with aclosing(Unbroken(mortals.generate).generate(request(mode="target"))) as outputs:
            async for output in outputs:
                if len(mortals.asked) == 2 and isinstance(output, Committed):
                    break
        await asyncio.sleep(0)
        assert bench.target_engine.num_running() == 0

    run_virtually(leave())


def test_outputs_that_say_not_how_to_go_on_are_not_gone_on_with() -> None:
    async def nameless(request: GenerationRequest) -> AsyncGenerator[Output, None]:
        async with aclosing((await Bench().coordinator()).generate(request)) as outputs:
            async for output in outputs:
                yield replace(output, seam=None) if isinstance(output, Committed) else output
                if isinstance(output, Committed):
                    raise RoleUnavailable("gone")

    outputs: list[Output] = []
    with pytest.raises(RoleUnavailable):
        run_virtually(read(Unbroken(nameless), request(), outputs))
    assert [type(output) for output in outputs] == [Opened, Committed]
