"""Two replicas of a role over links, on a virtual clock. The engine of one hangs, and its process lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.messages import Delta, Step, StepRequest
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
CAPACITY = 64


class Replica(TargetModel):
    """A target that says nothing while it does not work."""

    def __init__(self, name: str) -> None:
        super().__init__(ScriptedEngine(SCRIPT, name))
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

    def __init__(self, name: str) -> None:
        super().__init__(ScriptedEngine(DRAFT_SCRIPT, name))
        self.works = asyncio.Event()
        self.works.set()

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        async with aclosing(super().look_ahead(request, depth)) as steps:
            async for step in steps:
                await self.works.wait()
                yield step


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

    async def first_word_s(self) -> float:
        """How long a request to the target alone waits for its first word."""
        loop = asyncio.get_running_loop()
        begun, first_s = loop.time(), 0.0
        async for output in self.coordinator.generate(request(mode="target")):
            if isinstance(output, Committed):
                first_s = first_s or loop.time() - begun
        return first_s


@asynccontextmanager
async def scene(**silence: float) -> AsyncIterator[Scene]:
    settings = config(silence=silence, max_lookahead=4)
    checks = {name: [check.model_dump() for check in each] for name, each in settings.verifier.verifiers.items()}
    replicas = [Replica("t0"), Replica("t1")]
    drafts = [DraftReplica("d0"), DraftReplica("d1")]
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
            asking = request(mode="lookahead", verifier="exact")

            async def loses_its_draft() -> bool:
                outputs = [output async for output in there.coordinator.generate(asking)]
                assert isinstance(outputs[-1], Finished)
                return "draft_unavailable" in outputs[-1].summary.degraded

            there.drafts[0].works.clear()
            return [sum(await asyncio.gather(*(loses_its_draft() for _ in range(8)))) for _ in range(3)]

    first, *later = run_virtually(play())
    assert first, "until it is known"
    assert max(later) <= 1, "one tries it now and then"
