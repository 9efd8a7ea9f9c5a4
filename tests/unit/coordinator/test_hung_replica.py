"""Two replicas of a role over links, on a virtual clock. The engine of one hangs, and its process lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.messages import Delta, Piece, Step, StepRequest
from actors.target import TargetModel
from actors.verifier import create_verifier
from deployments.bench.scaling import linked
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.coordinator.pools import DraftPool, TargetPool
from deployments.generation import Committed, Finished
from deployments.replicas import DRAFT_METHODS, TARGET_METHODS
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import config, request, truth

SCRIPT = ScriptOptions(num_steps=16, words=8, token_s=0.1)
DRAFT_SCRIPT = replace(SCRIPT, role="draft", token_s=0.02)
QUICK = replace(SCRIPT, num_steps=60, token_s=0.03)
"""A target that leaves each look-ahead soon."""
QUICK_DRAFT = replace(QUICK, role="draft", token_s=0.005)
A_WINDOW, GUIDED = 1.0, 3.0
"""Of a target: what hints gain with it. Without a gain it takes none, and the draft writes whole steps."""
CAPACITY = 64


class Replica(TargetModel):
    """A target that says nothing while it does not work."""

    def __init__(self, name: str, script: ScriptOptions) -> None:
        super().__init__(ScriptedEngine(script, name))
        self.works = asyncio.Event()
        self.works.set()
        self.began_at: list[float] = []

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        self.began_at.append(asyncio.get_running_loop().time())
        async with aclosing(super().progress(request, every_s)) as items:
            async for item in items:
                await self.works.wait()
                yield item

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        self.began_at.append(asyncio.get_running_loop().time())
        async with aclosing(super().stream(request)) as deltas:
            async for delta in deltas:
                await self.works.wait()
                yield delta


class DraftReplica(Draft):
    """A draft that says nothing while it does not work."""

    def __init__(self, name: str, script: ScriptOptions) -> None:
        super().__init__(ScriptedEngine(script, name))
        self.works = asyncio.Event()
        self.works.set()
        self.began_at: list[float] = []

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        self.began_at.append(asyncio.get_running_loop().time())
        async with aclosing(super().look_ahead(request, depth)) as steps:
            async for step in steps:
                await self.works.wait()
                yield step

    async def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[Piece | Step, None]:
        self.began_at.append(asyncio.get_running_loop().time())
        async with aclosing(super().look_ahead_in_parts(request, depth, part_tokens)) as items:
            async for item in items:
                await self.works.wait()
                yield item


class Scene:
    """A coordinator and two replicas of target and draft."""

    def __init__(self, coordinator: Coordinator, replicas: list[Replica], drafts: list[DraftReplica]) -> None:
        self.coordinator = coordinator
        self.replicas = replicas
        self.drafts = drafts

    @property
    def latest(self) -> Replica:
        """The replica of the call that began last."""
        return max(self.replicas, key=lambda replica: replica.began_at[-1:])

    async def ask_together(self, number: int) -> list[Finished]:
        """The ends of so many requests that look ahead, under way at once."""

        async def end() -> Finished:
            outputs = [o async for o in self.coordinator.generate(request(mode="lookahead", verifier="exact"))]
            assert isinstance(outputs[-1], Finished)
            return outputs[-1]

        return await asyncio.gather(*(end() for _ in range(number)))

    async def first_word_s(self) -> float:
        """How long a request to the target alone waits for its first word."""
        loop = asyncio.get_running_loop()
        begun, first_s = loop.time(), 0.0
        async for output in self.coordinator.generate(request(mode="target")):
            if isinstance(output, Committed):
                first_s = first_s or loop.time() - begun
        return first_s


@asynccontextmanager
async def scene(
    script: ScriptOptions = SCRIPT, draft_script: ScriptOptions = DRAFT_SCRIPT, **silence: float
) -> AsyncIterator[Scene]:
    settings = config(silence=silence, max_lookahead=4)
    checks = {name: [check.model_dump() for check in each] for name, each in settings.verifier.verifiers.items()}
    replicas = [Replica(name, script) for name in ("t0", "t1")]
    drafts = [DraftReplica(name, draft_script) for name in ("d0", "d1")]
    async with (
        linked("target", replicas, TARGET_METHODS, CAPACITY) as targets,
        linked("draft", drafts, DRAFT_METHODS, CAPACITY) as drafters,
    ):
        roles = Roles(TargetPool(targets, 30.0), DraftPool(drafters, 30.0), await create_verifier(checks, {}))
        await asyncio.gather(targets.link("", 30.0), drafters.link("", 30.0))
        await asyncio.sleep(1.0)  # until both are found
        yield Scene(Coordinator(settings, roles), replicas, drafts)


def test_a_window_of_silent_calls_leaves_their_replica_once_and_for_good() -> None:
    """Each of them is given up on its own, the later ones when the session has long been elsewhere."""

    async def play() -> tuple[str, float, list[float]]:
        async with scene(target_min_s=3.0, target_max_s=20.0) as there:
            asking = request(mode="lookahead", verifier="exact", max_lookahead=4)
            async for _ in there.coordinator.generate(asking):
                pass  # from now on the limits are known
            clock = asyncio.get_running_loop().time
            begun, text, hung = clock(), "", None
            async for output in there.coordinator.generate(asking):
                text += output.text if isinstance(output, Committed) else ""
                if hung is None and len(text) > 150:
                    hung, hung_at = there.latest, clock()
                    hung.works.clear()
            took_s = clock() - begun
            assert hung is not None
            later = [at - hung_at for at in hung.began_at if at > hung_at + 1.5]
            return text, took_s, later

    text, took_s, later = run_virtually(play())
    assert text == truth(SCRIPT)
    assert not later, "calls to the replica that hangs"
    assert took_s < 20.0


def test_a_silent_replica_gets_one_request_now_and_then_until_it_answers_again() -> None:
    limit_s, usual_s = 10.0, 0.5

    async def play() -> None:
        async with scene(target_min_s=limit_s / 3, target_max_s=120.0) as there:
            await asyncio.gather(*(there.first_word_s() for _ in range(16)))  # from now on the limits are known
            hung = there.replicas[0]
            hung.works.clear()
            firsts = await asyncio.gather(*(there.first_word_s() for _ in range(12)))
            assert max(firsts) > limit_s, "until it is known"
            num_slow = 0
            for _ in range(3):
                firsts = sorted(await asyncio.gather(*(there.first_word_s() for _ in range(12))))
                assert firsts[-2] < usual_s
                num_slow += firsts[-1] > limit_s
                await asyncio.sleep(30.0)
            assert num_slow, "it was tried"
            hung.works.set()
            await asyncio.sleep(300.0)
            while there.latest is not hung:
                await there.first_word_s()
            before = [len(each.began_at) for each in there.replicas]
            await asyncio.gather(*(there.first_word_s() for _ in range(12)))
            shares = [len(each.began_at) - number for each, number in zip(there.replicas, before, strict=True)]
            assert min(shares) > 3, "both are used"

    run_virtually(play())


def test_requests_keep_their_draft_while_one_replica_of_it_hangs() -> None:
    async def play() -> list[int]:
        async with scene(draft_min_s=1.0, draft_max_s=2.0) as there:

            async def num_without() -> int:
                return sum("draft_unavailable" in end.summary.degraded for end in await there.ask_together(8))

            there.drafts[0].works.clear()
            return [await num_without() for _ in range(3)]

    first, *later = run_virtually(play())
    assert first, "until it is known"
    assert max(later) <= 1, "one tries it now and then"


@pytest.mark.parametrize("hint_gain", [A_WINDOW, GUIDED])
def test_a_draft_replica_that_hangs_is_left_though_no_look_ahead_lasts(hint_gain: float) -> None:
    """The target is ahead of each of them long before its limit, and the next one begins."""
    limit_s = 3.0

    async def play() -> None:
        async with scene(replace(QUICK, hint_gain=hint_gain), QUICK_DRAFT) as there:
            hung, clock = there.drafts[0], asyncio.get_running_loop().time
            await there.ask_together(16)  # from now on the limits are known
            hung.works.clear()
            hung_at = clock()
            ends = await there.ask_together(8)
            later = [at - hung_at for at in hung.began_at if at >= hung_at]
            assert len(later) > 8, "each of some requests began several there"
            assert max(later) < 2 * limit_s
            assert min(end.summary.draft_token_share for end in ends) > 0.5, "all have the other one's words"
            await asyncio.sleep(0.5)
            assert not hung.num_running(), "nothing is listened to behind the end of its request"

    run_virtually(play())


@pytest.mark.parametrize("hint_gain", [A_WINDOW, GUIDED])
def test_a_draft_that_is_slower_than_the_target_is_not_taken_for_one_that_hangs(
    hint_gain: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The target is ahead of each look-ahead before it says anything, for much longer than one may be silent."""
    slow = replace(QUICK_DRAFT, first_token_s=1.5)

    async def play() -> None:
        async with scene(replace(QUICK, hint_gain=hint_gain), slow, draft_min_s=1.0, draft_max_s=3.0) as there:
            begun = asyncio.get_running_loop().time()
            ends = await there.ask_together(4)
            assert asyncio.get_running_loop().time() - begun > 15.0
            assert [end.summary.degraded for end in ends] == [()] * 4

    run_virtually(play())
    assert not caplog.records, "nobody is left for another"
