"""Roles that hang, break, die or answer nonsense: what each costs a request, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine
from actors.errors import ContextTooLong, RoleUnavailable
from actors.messages import Delta, JudgeRequest, Prompt, RoleInfo, Step, StepRequest, TokenIds, Verdict
from actors.target import TargetModel
from actors.verifier import StepVerifier
from actors.verifiers.check import Decision, Opinion
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.generation import Committed, Finished, Output
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Answer, Bench, config, request, truth


def test_a_draft_that_hangs_costs_nothing() -> None:
    async def scene() -> Answer:
        bench = Bench(draft=replace(DRAFT, first_token_s=1e6))
        return await bench.ask(mode="lookahead")

    answer = run_virtually(scene())
    assert answer.text == truth()
    alone = run_virtually(Bench().ask(mode="target"))
    assert answer.elapsed_s == pytest.approx(alone.elapsed_s, rel=0.001)


class Fickle:
    """A drafter that is down until a given time."""

    def __init__(self, draft: Draft, up_at_s: float) -> None:
        self._draft = draft
        self._up_at_s = up_at_s

    def home(self, session_id: str) -> str:
        return self._draft.home(session_id)

    def _check(self) -> None:
        if asyncio.get_running_loop().time() < self._up_at_s:
            raise RoleUnavailable("the draft is down")

    async def render(self, *prompts: Prompt) -> tuple[RoleInfo, tuple[TokenIds, ...]]:
        self._check()
        return await self._draft.render(*prompts)

    async def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        self._check()
        async with aclosing(self._draft.look_ahead(request, depth)) as steps:
            async for step in steps:
                yield step


def test_a_draft_that_is_down_is_used_again_when_it_is_back() -> None:
    async def scene() -> Answer:
        bench = Bench()
        bench.roles = replace(bench.roles, drafter=Fickle(Draft(bench.draft_engine), 5.0))  # type: ignore[arg-type]
        return await bench.ask(mode="lookahead")

    answer = run_virtually(scene())
    assert answer.text == truth()
    summary = answer.finished.summary
    assert summary.degraded == ("draft_unavailable",)
    assert summary.num_target_steps > 0
    assert summary.num_accepted_steps > 0
    assert min(float(str(s["start_s"])) for s in answer.spans("draft")) >= 5.0
    assert 'lookahead_degraded_total{reason="draft_unavailable"} 1.0' in answer.metrics


class Absent(Draft):
    """A drafter of which no replica is there."""

    async def encode(self, prompt: Prompt) -> TokenIds:
        await asyncio.sleep(1e6)
        raise RoleUnavailable("nobody is there")


def test_requests_that_wait_for_an_absent_draft_at_the_same_time_count_as_one() -> None:
    async def scene() -> float:
        bench = Bench()
        bench.roles = replace(bench.roles, drafter=Absent(bench.draft_engine))
        coordinator = await bench.coordinator()

        async def ask() -> None:
            async for _ in coordinator.generate(request(mode="lookahead")):
                pass

        await asyncio.gather(*(ask() for _ in range(5)))
        return coordinator._draft_away_s

    assert run_virtually(scene()) == config().speculation.draft_retry_s


class Waking(Draft):
    """A drafter that does not answer the first time, and then does, after a while."""

    num_asked = 0

    async def encode(self, prompt: Prompt) -> TokenIds:
        self.num_asked += 1
        await asyncio.sleep(1e6 if self.num_asked == 1 else 0.2)
        return await super().encode(prompt)


async def degraded_at(coordinator: Coordinator, *times_s: float) -> list[tuple[str, ...]]:
    """In what requests that begin at these times are degraded."""

    async def ask(at_s: float) -> tuple[str, ...]:
        await asyncio.sleep(at_s)
        outputs = [output async for output in coordinator.generate(request(mode="lookahead"))]
        assert isinstance(outputs[-1], Finished)
        return outputs[-1].summary.degraded

    return await asyncio.gather(*map(ask, times_s))


def test_a_draft_that_answers_another_request_is_not_away_any_more() -> None:
    async def scene() -> list[tuple[str, ...]]:
        bench = Bench(settings=config(draft_retry_s=1000.0))
        bench.roles = replace(bench.roles, drafter=Waking(bench.draft_engine))
        coordinator = await bench.coordinator()

        # The second one asks before the first one has given up, and is answered after that.
        return await degraded_at(coordinator, 0.0, 0.9, 1.5)

    assert run_virtually(scene()) == [("draft_unavailable",), (), ()]


def test_a_draft_that_one_request_has_found_again_is_not_away_for_others() -> None:
    async def scene() -> list[tuple[str, ...]]:
        bench = Bench(replace(TARGET, num_steps=30), replace(DRAFT, num_steps=30), config(draft_retry_s=2.0))
        bench.roles = replace(bench.roles, drafter=Fickle(Draft(bench.draft_engine), 3.0))  # type: ignore[arg-type]
        coordinator = await bench.coordinator()

        # The first one finds it after 4 s; the second one's failure would keep others from asking until 6.5 s.
        return await degraded_at(coordinator, 0.0, 2.5, 5.0)

    assert run_virtually(scene()) == [("draft_unavailable",), ("draft_unavailable",), ()]


@pytest.mark.parametrize("hint_gain", [1.0, 3.0])
def test_a_draft_whose_context_the_prompt_exceeds_refuses_it_and_is_not_asked_again(hint_gain: float) -> None:
    class Short(Draft):
        num_asked = 0

        async def encode(self, prompt: Prompt) -> TokenIds:
            self.num_asked += 1
            return await super().encode(prompt)

    async def scene() -> tuple[Answer, int]:
        bench = Bench(replace(TARGET, hint_gain=hint_gain), replace(DRAFT, max_model_len=3))
        bench.roles = replace(bench.roles, drafter=(drafter := Short(bench.draft_engine)))
        return await bench.ask(mode="lookahead", verifier="exact"), drafter.num_asked

    answer, num_asked = run_virtually(scene())
    assert answer.text == truth()
    assert answer.elapsed_s > config().speculation.draft_retry_s
    assert answer.finished.summary.degraded == ("draft_refused",)
    assert num_asked == 1


@pytest.mark.parametrize(
    ("wishes", "hint_gain"),
    [
        ({"mode": "lookahead", "verifier": "exact"}, 1.0),
        ({"mode": "lookahead", "verifier": "exact"}, 3.0),
        ({"mode": "lookahead_sync"}, 1.0),
        ({"mode": "lookahead", "branches": 2}, 1.0),
    ],
)
def test_a_draft_that_refuses_the_prompt_when_it_is_back_is_gone_for_the_request(
    wishes: dict[str, Any], hint_gain: float
) -> None:
    async def scene() -> tuple[Answer, list[dict[str, float]]]:
        bench = Bench(replace(TARGET, hint_gain=hint_gain), replace(DRAFT, max_model_len=3))
        bench.roles = replace(bench.roles, drafter=Fickle(Draft(bench.draft_engine), 1.5))  # type: ignore[arg-type]
        coordinator, text = await bench.coordinator(), ""
        stats: list[dict[str, float]] = []
        async for output in coordinator.generate(request(**wishes)):
            stats.append(coordinator.demand())
            text += output.text if isinstance(output, Committed) else ""
        assert text == truth()
        assert isinstance(output, Finished)
        assert output.summary.degraded == ("draft_unavailable", "draft_refused")
        trace = coordinator.trace("r")
        assert trace is not None
        assert [span["kind"] for span in trace["spans"]].count("answer") == 1, "the rest is one stream"
        return stats

    stats = run_virtually(scene())
    assert stats[0]["speculating"] == 1
    assert stats[-2]["speculating"] == 0, "the autoscaler wants no draft for it"


class Slow:
    """Prompts of which some take long to encode."""

    async def encode(self, prompt: Prompt) -> TokenIds:
        if "long" in (prompt.text or ""):
            await asyncio.sleep(3.0)
        return await super().encode(prompt)  # type: ignore[misc,no-any-return]


class SlowTarget(Slow, TargetModel):
    """A target with such prompts."""


class SlowDraft(Slow, Draft):
    """A draft with such prompts."""


def test_a_prompt_that_takes_both_models_long_takes_nobodys_draft_away() -> None:
    async def scene() -> list[tuple[str, ...]]:
        bench = Bench()
        bench.roles = Roles(SlowTarget(bench.target_engine), SlowDraft(bench.draft_engine))
        coordinator = await bench.coordinator()

        async def ask(at_s: float, text: str) -> tuple[str, ...]:
            await asyncio.sleep(at_s)
            asked = replace(request(mode="lookahead"), request_id=text, prompt=Prompt(text=text))
            outputs = [output async for output in coordinator.generate(asked)]
            assert isinstance(outputs[-1], Finished)
            assert outputs[-1].summary.num_draft_steps > 0
            return outputs[-1].summary.degraded

        return await asyncio.gather(ask(0.0, "a long one"), ask(2.0, "a short one"))

    assert run_virtually(scene()) == [(), ()]


def test_a_draft_that_breaks_in_the_middle_costs_no_word() -> None:
    bench = Bench(draft=replace(DRAFT, break_after=1))
    answer = run_virtually(bench.ask(mode="lookahead", max_lookahead=2))
    assert answer.text == truth()
    assert answer.finished.summary.degraded == ("draft_unavailable",)
    assert answer.finished.summary.num_accepted_steps > 0


class Judge:
    """A verifier that answers after `delay_s`, or raises."""

    def __init__(self, delay_s: float, error: Exception | None = None, says: object = None) -> None:
        self._delay_s = delay_s
        self._error = error
        self._says = says

    async def judge(self, request: JudgeRequest) -> Verdict:
        await asyncio.sleep(self._delay_s)
        if self._error is not None:
            raise self._error
        return Verdict(True, request.verifier, "yes") if self._says is None else self._says  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (Judge(1e6), "verifier_late"),
        (Judge(0.1, RoleUnavailable("gone")), "verifier_failed"),
        (Judge(0.1, ValueError("a defect")), "verifier_failed"),
        (Judge(0.1, says="yes"), "verifier_failed"),
        (Judge(0.1, says=Verdict("no", "always", "words")), "verifier_failed"),  # type: ignore[arg-type]
        (Judge(0.1, says=Verdict(False, "always", "the check judge failed", has_failed=True)), "verifier_failed"),
    ],
)
def test_a_verifier_that_is_late_or_broken_rejects(judge: Judge, reason: str) -> None:
    async def scene() -> Answer:
        bench = Bench(draft=replace(DRAFT, agree=0.0, paraphrase=1.0))
        bench.roles = replace(bench.roles, verifier=judge)
        return await bench.ask(mode="lookahead", verifier="always")

    answer = run_virtually(scene())
    assert answer.text == truth()
    assert answer.finished.summary.degraded == (reason, "verifier_left_alone")
    is_timed = 'lookahead_verdict_seconds_count{verifier="always"}' in answer.metrics
    assert is_timed is (reason == "verifier_late"), "what nobody said has taken no time, and not none at all"
    assert not is_timed or 'lookahead_verdict_seconds_bucket{le="0.25",verifier="always"} 0.0' in answer.metrics


class Cramped:
    """A check whose model has no room for the steps until `has_room`."""

    name = "judge"
    reads_context = True

    def __init__(self) -> None:
        self.has_room = False
        self.num_refused = 0

    async def check(self, request: JudgeRequest) -> Opinion:
        if not self.has_room:
            self.num_refused += 1
            raise ContextTooLong.of_prompt(9000, 8192)
        return Opinion(Decision.ACCEPT, "the same")


def test_steps_that_the_judge_cannot_read_cost_others_no_verdict() -> None:
    async def scene() -> tuple[list[Output], list[Output], int]:
        bench, check = Bench(draft=replace(DRAFT, agree=0.0, paraphrase=1.0)), Cramped()
        bench.roles = replace(bench.roles, verifier=StepVerifier({"always": [check]}, num_remembered=0))
        coordinator = await bench.coordinator()
        wishes = {"mode": "lookahead", "verifier": "always"}
        long = [output async for output in coordinator.generate(request(**wishes))]
        check.has_room = True
        return long, [output async for output in coordinator.generate(request(**wishes))], check.num_refused

    long, short, num_refused = run_virtually(scene())
    assert num_refused > 3
    assert isinstance(long[-1], Finished)
    assert isinstance(short[-1], Finished)
    assert (long[-1].summary.degraded, short[-1].summary.degraded) == ((), ())
    assert "".join(output.text for output in long if isinstance(output, Committed)) == truth()
    assert short[-1].summary.num_accepted_steps > 3


class Dying(TargetModel):
    """A target whose every third call dies half-way."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine)
        self.calls = 0

    async def step(self, request: StepRequest) -> Step:
        self.calls += 1
        if self.calls % 3 == 0:
            await asyncio.sleep(0.3)
            raise RoleUnavailable("the replica died")
        return await super().step(request)

    async def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        self.calls += 1
        num = 0
        async with aclosing(super().progress(request, every_s)) as items:
            async for item in items:
                num += 1
                if self.calls % 3 == 0 and num == 4:
                    raise RoleUnavailable("the replica died")
                yield item

    async def stream(self, request: StepRequest) -> AsyncGenerator[object, None]:  # type: ignore[override]
        num = 0
        async for delta in super().stream(request):
            yield delta
            num += 1
            if num == 7:
                raise RoleUnavailable("the replica died")


@pytest.mark.parametrize("progress_s", [0.0, 0.2])
@pytest.mark.parametrize("mode", ["target", "lookahead"])
def test_a_target_replica_that_dies_costs_a_pause_and_no_word(mode: str, progress_s: float) -> None:
    async def scene() -> Answer:
        bench = Bench(draft=replace(DRAFT, agree=0.5), settings=config(progress_s=progress_s))
        bench.roles = replace(bench.roles, target=Dying(bench.target_engine))
        return await bench.ask(mode=mode, verifier="exact")

    answer = run_virtually(scene())
    assert answer.text == truth()
    assert "target_retried" in answer.finished.summary.degraded


class Defective(TargetModel):
    """A target with a bug."""

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        raise ValueError("secret")
        yield


def test_the_words_of_a_defect_are_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        bench = Bench()
        bench.roles = replace(bench.roles, target=Defective(bench.target_engine))
        await bench.ask(mode="target")

    with pytest.raises(RoleUnavailable, match="failed inside the server") as caught:
        run_virtually(scene())
    assert "secret" not in str(caught.value)
    assert "secret" in caplog.text


class Deaf(TargetModel):
    """A target that hints do not reach, the odd ones at once and the even ones never."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine)
        self.asked: list[tuple[str, tuple[TokenIds, ...]]] = []

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        self.asked.append((call_id, hints))
        if len(self.asked) % 2:
            raise RoleUnavailable("nobody is there")
        await asyncio.sleep(1e6)


def test_hints_that_do_not_arrive_cost_nothing() -> None:
    async def scene() -> tuple[Answer, Deaf]:
        bench = Bench(draft=replace(DRAFT, agree=0.5))
        target = Deaf(bench.target_engine)
        bench.roles = replace(bench.roles, target=target)
        return await bench.ask(mode="lookahead", verifier="exact"), target

    answer, target = run_virtually(scene())
    assert answer.text == truth()
    assert answer.finished.summary.degraded == ()
    assert len(target.asked) > 2
    assert len(set(target.asked)) == len(target.asked), "nothing is sent twice"
