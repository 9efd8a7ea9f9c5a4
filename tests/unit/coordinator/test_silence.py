"""Roles that hang or become slow, on a virtual clock: what it costs is bounded, and no word is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine
from actors.messages import Delta, Ending, JudgeRequest, Prompt, Step, StepRequest, Verdict
from actors.target import TargetModel
from deployments.coordinator.breaker import Breaker, Fuse
from deployments.coordinator.pipeline import MAX_WAITING, Pipeline, Roles
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.generation import Committed, Finished
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Answer, Bench, config, request, truth

TRUTH = truth()
FOREVER = 1e7


class Hanging(TargetModel):
    """A target of which the calls number `hangs` say nothing more after so many items, for ever."""

    def __init__(self, engine: ScriptedEngine, hangs: dict[int, int]) -> None:
        super().__init__(engine)
        self._hangs = hangs
        self.num_calls = 0
        self.shunned: list[str] = []

    def shun(self, session_id: str, call_id: str) -> None:
        self.shunned.append(session_id)

    async def step(self, request: StepRequest) -> Step:
        await self._hang(self._number(), 0)
        return await super().step(request)

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        number, num_items = self._number(), 0
        async with aclosing(super().progress(request, every_s)) as items:
            async for item in items:
                await self._hang(number, num_items)
                yield item
                num_items += 1

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        number, num_items = self._number(), 0
        async with aclosing(super().stream(request)) as deltas:
            async for delta in deltas:
                await self._hang(number, num_items)
                yield delta
                num_items += 1

    def _number(self) -> int:
        self.num_calls += 1
        return self.num_calls - 1

    async def _hang(self, call: int, num_items: int) -> None:
        if self._hangs.get(call) == num_items:
            await asyncio.sleep(FOREVER)


@pytest.mark.parametrize("progress_s", [0.0, 0.2])
@pytest.mark.parametrize("mode", ["target", "lookahead"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_target_call_that_falls_silent_is_given_up_and_continued(mode: str, progress_s: float, after: int) -> None:
    async def scene() -> Answer:
        silence = {"target_min_s": 3.0, "target_max_s": 20.0}
        bench = Bench(draft=replace(DRAFT, agree=0.5), settings=config(progress_s=progress_s, silence=silence))
        hangs = {1: after, 3: 0} if mode == "lookahead" else {0: after, 1: 30}
        bench.roles = replace(bench.roles, target=Hanging(bench.target_engine, hangs))
        return await bench.ask(mode=mode, verifier="exact")

    answer = run_virtually(scene())
    assert answer.text == TRUTH
    never_hung = mode == "lookahead" and not progress_s and after
    assert ("target_retried" in answer.finished.summary.degraded) or never_hung
    alone = answer.finished.num_output_tokens * TARGET.token_s
    assert answer.elapsed_s < alone + 2 * 20.0 + 1.0


def test_once_its_times_are_known_a_silent_call_costs_its_limit() -> None:
    """One token takes 0.1 s; after some of them the limit is the floor."""

    async def scene() -> Answer:
        bench = Bench(settings=config(silence={"target_min_s": 2.0, "target_max_s": 1000.0}))
        target = Hanging(bench.target_engine, {0: 40})
        bench.roles = replace(bench.roles, target=target)
        answer = await bench.ask(mode="target")
        assert len(target.shunned) == 1, "the next call goes to another replica"
        return answer

    answer = run_virtually(scene())
    assert answer.text == TRUTH
    alone = answer.finished.num_output_tokens * TARGET.token_s
    assert answer.elapsed_s == pytest.approx(alone + 2.0, abs=0.5)


def test_deep_calls_that_write_are_not_taken_for_silent_ones() -> None:
    """Twelve steps of some ten seconds each at once; items of a call are known to come quickly."""

    async def scene() -> list[tuple[str, ...]]:
        slow = replace(TARGET, num_steps=24, words=70, token_s=0.15)
        bench = Bench(slow, replace(slow, role="draft", token_s=0.005))
        target = Hanging(bench.target_engine, {})
        bench.roles = replace(bench.roles, target=target)
        coordinator, degraded = await bench.coordinator(), []
        for _ in range(2):
            asked = request(mode="lookahead", verifier="numbers", max_lookahead=12, timeout_s=1e5)
            outputs = [output async for output in coordinator.generate(asked)]
            assert isinstance(outputs[-1], Finished)
            degraded.append(outputs[-1].summary.degraded)
        assert target.shunned == []
        return degraded

    assert run_virtually(scene()) == [(), ()]


class Reading(TargetModel):
    """A target that reads a long prompt for 40 s, and has it in its cache after that."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine)
        self._has_read: set[str] = set()

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        await self._read(request)
        async with aclosing(super().progress(request, every_s)) as items:
            async for item in items:
                yield item

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        await self._read(request)
        async with aclosing(super().stream(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def _read(self, request: StepRequest) -> None:
        if len(request.prefix.prompt_ids) > 200 and request.session_id not in self._has_read:
            await asyncio.sleep(40.0)
            self._has_read.add(request.session_id)


@pytest.mark.parametrize("mode", ["target", "lookahead"])
def test_a_target_that_reads_a_long_prompt_is_not_given_up_because_short_ones_were_quick(mode: str) -> None:
    async def scene() -> list[Finished]:
        bench = Bench(settings=config(silence={"target_min_s": 10.0, "target_max_s": 120.0}))
        bench.roles = replace(bench.roles, target=Reading(bench.target_engine))
        coordinator, found = await bench.coordinator(), []
        for prompt in [*["How many?"] * 10, *["word " * 300] * 10]:
            asked = request(mode=mode, verifier="numbers", prompt=Prompt(text=prompt), timeout_s=1000.0)
            outputs = [output async for output in coordinator.generate(asked)]
            assert isinstance(outputs[-1], Finished)
            found.append(outputs[-1])
        return found

    assert [finished.summary.degraded for finished in run_virtually(scene())] == [()] * 20


class Mute(Draft):
    """A draft that takes every call and says nothing."""

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        await asyncio.sleep(FOREVER)
        yield Step("", (), "", Ending.END)


@pytest.mark.parametrize("mode", ["lookahead", "lookahead_sync", "specreason"])
def test_a_hung_draft_costs_its_limit_once_and_a_breaker_the_rest(mode: str) -> None:
    async def scene() -> list[Answer]:
        checks = {"silence": {"draft_min_s": 1.0, "draft_max_s": 2.0}, "specreason": {"verifier": "always"}}
        bench = Bench(settings=config(**checks))
        bench.roles = replace(bench.roles, drafter=Mute(bench.draft_engine))
        coordinator = await bench.coordinator()
        answers = []
        for _ in range(4):
            begun = asyncio.get_running_loop().time()
            outputs = [output async for output in coordinator.generate(request(mode=mode, timeout_s=1000.0))]
            elapsed_s = asyncio.get_running_loop().time() - begun
            answers.append(Answer(outputs, elapsed_s, {}, ""))
        return answers

    answers = run_virtually(scene())
    for answer in answers:
        assert answer.text == TRUTH
        alone = answer.finished.num_output_tokens * TARGET.token_s
        # At first each revival of a request tries once, at growing intervals; the text is some twenty seconds long.
        assert answer.elapsed_s < alone + 4 * 2.0 + 1.0
    assert answers[-1].elapsed_s < alone + 2.0 + 0.5, "by then the breaker lets a probe through now and then"


def test_a_hung_draft_is_found_out_though_the_target_leaves_each_look_ahead_soon() -> None:
    """A step takes less than a second, and the draft may be silent for three."""

    async def scene() -> Answer:
        quick = replace(TARGET, num_steps=60, token_s=0.03)
        bench = Bench(quick, replace(quick, role="draft"), config(silence={"draft_max_s": 3.0}))
        bench.roles = replace(bench.roles, drafter=Mute(bench.draft_engine))
        return await bench.ask(mode="lookahead", verifier="exact")

    assert run_virtually(scene()).finished.summary.degraded == ("draft_unavailable",)


class Reader(Draft):
    """A draft that reads long prompts for 6 s; what it has read of a request's stays in its cache."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine)
        self._unread_s: dict[str, float] = {}

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        clock = asyncio.get_running_loop().time
        begun, is_long = clock(), len(request.prefix.prompt_ids) > 200
        unread_s = self._unread_s.setdefault(request.session_id, 6.0 if is_long else 0.0)
        try:
            await asyncio.sleep(unread_s)
        finally:
            self._unread_s[request.session_id] = max(0.0, unread_s - (clock() - begun))
        async with aclosing(super().look_ahead(request, depth)) as steps:
            async for step in steps:
                yield step


def ask_a_reader(prompts: list[str], opens_until_s: float = 0.0) -> list[tuple[float, Finished]]:
    """One request after the other, the draft left alone at first for so long: when the first draft step came that was
    accepted, and the end."""

    async def scene() -> list[tuple[float, Finished]]:
        bench = Bench(replace(TARGET, num_steps=40), replace(DRAFT, num_steps=40))
        bench.roles = replace(bench.roles, drafter=Reader(bench.draft_engine))
        coordinator = await bench.coordinator()
        if opens_until_s:
            coordinator._vigilance.draft_breaker = breaker = Breaker(Fuse(1, opens_until_s))
            breaker.failed(0.0)
        found = []
        for prompt in prompts:
            asked = request(mode="lookahead", verifier="numbers", prompt=Prompt(text=prompt))
            outputs = [output async for output in coordinator.generate(asked)]
            assert isinstance(outputs[-1], Finished)
            trace = coordinator.trace("r")
            assert trace is not None
            accepted = [s["start_s"] for s in trace["spans"] if s["kind"] == "draft" and s["outcome"] == "accepted"]
            found.append((min(accepted, default=FOREVER), outputs[-1]))
        return found

    return run_virtually(scene())


def test_a_long_prompt_is_read_though_short_ones_were_quick() -> None:
    _, (first_s, last) = ask_a_reader(["How many?", "word " * 300])
    assert last.summary.degraded == ()
    assert first_s < 6.0


def test_a_probe_that_ends_with_the_step_it_was_for_is_followed_by_another() -> None:
    ((first_s, _),) = ask_a_reader(["word " * 300], opens_until_s=20.0)
    assert first_s < 28.0, "what was read is not read again"


def test_a_draft_that_is_left_alone_is_asked_as_soon_as_it_may_be() -> None:
    ((first_s, _),) = ask_a_reader(["How many?"], opens_until_s=20.0)
    assert 20.0 <= first_s < 22.5


class Sleepy:
    """A verifier that answers `num_awake` requests at once and no more after that."""

    def __init__(self, num_awake: int) -> None:
        self._num_awake = num_awake
        self.num_asked = 0

    async def judge(self, request: JudgeRequest) -> Verdict:
        self.num_asked += 1
        await asyncio.sleep(0.01 if self.num_asked <= self._num_awake else FOREVER)
        return Verdict(True, request.verifier, "yes")


def test_a_hung_verifier_costs_a_step_time_and_then_nothing() -> None:
    async def scene() -> tuple[Answer, Sleepy]:
        target = replace(TARGET, num_steps=40)
        bench = Bench(target, replace(DRAFT, num_steps=40, agree=0.0, paraphrase=1.0), config(verdict_timeout_s=5.0))
        judge = Sleepy(10)
        bench.roles = replace(bench.roles, verifier=judge)
        return await bench.ask(mode="lookahead", verifier="always", controller=False), judge

    answer, judge = run_virtually(scene())
    summary = answer.finished.summary
    assert {"verifier_late", "verifier_left_alone"} <= set(summary.degraded)
    late = [float(str(s["end_s"])) - float(str(s["start_s"])) for s in answer.spans("verdict")]
    step_s = max(float(str(s["end_s"])) - float(str(s["start_s"])) for s in answer.spans("target"))
    late = [seconds for seconds in late if seconds > 0.01]
    assert late
    assert max(late) <= step_s, "nor does a probe hold its step up for longer, though it may take 5 s"
    assert judge.num_asked < summary.num_steps


def test_a_verifiers_probe_whose_reader_leaves_is_followed_by_another_at_once() -> None:
    asked: asyncio.Queue[JudgeRequest] = asyncio.Queue()

    class Hung(Sleepy):
        async def judge(self, request: JudgeRequest) -> Verdict:
            asked.put_nowait(request)
            return await super().judge(request)

    async def scene() -> None:
        bench = Bench(draft=replace(DRAFT, agree=0.0, paraphrase=1.0))
        bench.roles = replace(bench.roles, verifier=Hung(0))
        coordinator = await bench.coordinator()
        coordinator._vigilance.verdict_breaker = breaker = Breaker(Fuse(1, 20.0))
        breaker.failed(-20.0)

        async def read() -> None:
            async for _ in coordinator.generate(request(mode="lookahead", verifier="always")):
                pass

        for _ in range(2):
            reader = asyncio.create_task(read())
            await asyncio.wait_for(asked.get(), 3.0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    run_virtually(scene())


def test_a_verifier_that_wakes_up_is_believed_though_its_probes_step_did_not_wait() -> None:
    """It hangs, and then takes three times as long as a step usually does: the first verdict is too late for its own
    step, and the later ones get the time that they take."""

    class Drowsy(Sleepy):
        async def judge(self, request: JudgeRequest) -> Verdict:
            self.num_asked += 1
            await asyncio.sleep(0.01 if self.num_asked <= 10 else FOREVER if self.num_asked <= 14 else 4.0)
            return Verdict(True, request.verifier, "yes")

    async def scene() -> Answer:
        target = replace(TARGET, num_steps=60)
        bench = Bench(target, replace(DRAFT, num_steps=60, agree=0.0, paraphrase=1.0), config(verdict_timeout_s=5.0))
        bench.roles = replace(bench.roles, verifier=Drowsy(0))
        return await bench.ask(mode="lookahead", verifier="always", controller=False)

    answer = run_virtually(scene())
    spans = answer.spans("verdict")
    lasted = [float(str(s["end_s"])) - float(str(s["start_s"])) for s in spans]
    assert {"verifier_late", "verifier_left_alone"} <= set(answer.finished.summary.degraded)
    assert any(seconds == pytest.approx(4.0) for seconds in lasted), "one that came in time"


def test_a_slow_reader_grows_no_queue() -> None:
    """A stream of a thousand tokens that come at once, and a reader that takes one now and then."""

    class Torrent(TargetModel):
        num_told = 0

        async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
            for number in range(1000):
                Torrent.num_told = number + 1
                yield Delta("x", (number,), Ending.END if number == 999 else None)

    async def scene() -> None:
        session = Session(SessionSettings("r", (1,), None, "v", 5000, mode="target"))
        roles = Roles(Torrent(ScriptedEngine(TARGET)))
        num_read = 0
        async with aclosing(Pipeline(session, roles, Prompt(text="x")).run()) as outputs:
            async for output in outputs:
                num_read += isinstance(output, Committed)
                await asyncio.sleep(1.0)
                assert Torrent.num_told <= num_read + MAX_WAITING + 2
        assert num_read == 1000

    run_virtually(scene())
