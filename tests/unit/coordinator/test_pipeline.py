"""The driver over real roles and scripted engines, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, ScriptOptions, detokenize
from actors.errors import DeadlineExceeded, RequestError, RoleUnavailable
from actors.messages import Delta, JudgeRequest, Prompt, Step, StepRequest, StepRule, TokenIds, Verdict
from actors.target import TargetModel
from actors.verifier import create_verifier
from deployments.config import Config, validate_config
from deployments.coordinator.coordinator import Coordinator, settle
from deployments.coordinator.pipeline import Roles
from deployments.generation import Committed, Finished, GenerationRequest, Opened, Output, SpeculationOptions
from tests.unit.clock import run_virtually
from tests.unit.coordinator.world import target_only

TARGET = ScriptOptions(num_steps=10, words=8, token_s=0.1)
DRAFT = replace(TARGET, role="draft", token_s=0.01)
PROMPT = Prompt(text="How many are there?")


def config(**speculation: object) -> Config:
    checks = {
        "exact": [{"kind": "exact"}],
        "numbers": [{"kind": "exact"}, {"kind": "same_numbers"}, {"kind": "always"}],
        "always": [{"kind": "always"}],
        "never": [{"kind": "never"}],
    }
    return validate_config(
        {
            "served_model_name": "m",
            "target": {"model": "scripted", "engine": {"kind": "scripted"}},
            "draft": {"model": "scripted", "engine": {"kind": "scripted"}},
            "verifier": {"verifiers": checks},
            "speculation": {
                "fidelities": {"exact": "exact", "balanced": "numbers"},
                "controller": {"enabled": False},
                **speculation,
            },
        },
        "test",
    )


@dataclass
class Bench:
    """Roles over scripted engines in this process."""

    target: ScriptOptions = TARGET
    draft: ScriptOptions = DRAFT
    settings: Config = field(default_factory=config)

    def __post_init__(self) -> None:
        self.target_engine = ScriptedEngine(self.target, "t")
        self.draft_engine = ScriptedEngine(self.draft, "d")
        self.roles = Roles(TargetModel(self.target_engine), Draft(self.draft_engine))

    async def coordinator(self) -> Coordinator:
        cascades = self.settings.verifier.verifiers
        checks = {name: [c.model_dump() for c in cascade] for name, cascade in cascades.items()}
        if self.roles.verifier is None:
            self.roles = replace(self.roles, verifier=await create_verifier(checks, {}))
        return Coordinator(self.settings, self.roles)

    async def ask(self, **wishes: object) -> Answer:
        """One request to its end; afterwards nothing may run."""
        coordinator = await self.coordinator()
        loop = asyncio.get_running_loop()
        start = loop.time()
        outputs = [output async for output in coordinator.generate(request(**wishes))]
        elapsed = loop.time() - start
        await asyncio.sleep(0)
        assert self.target_engine.num_running() == self.draft_engine.num_running() == 0
        trace = coordinator.trace("r")
        assert trace is not None
        return Answer(outputs, elapsed, trace, coordinator.metrics())


@dataclass
class Answer:
    outputs: list[Output]
    elapsed_s: float
    trace: dict[str, object]
    metrics: str

    @property
    def text(self) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, Committed))

    @property
    def finished(self) -> Finished:
        assert isinstance(self.outputs[0], Opened)
        assert isinstance(self.outputs[-1], Finished)
        return self.outputs[-1]

    def spans(self, kind: str) -> list[dict[str, object]]:
        spans = self.trace["spans"]
        assert isinstance(spans, list)
        return [span for span in spans if span["kind"] == kind]


def request(**wishes: object) -> GenerationRequest:
    top = {name: wishes.pop(name) for name in ("max_tokens", "stop", "timeout_s", "prompt") if name in wishes}
    options = SpeculationOptions(**wishes)  # type: ignore[arg-type]
    return GenerationRequest("r", **({"prompt": PROMPT} | top), speculation=options)  # type: ignore[arg-type]


def truth(options: ScriptOptions = TARGET) -> str:
    return detokenize(target_only(options, 10_000, StepRule()))


def test_target_only_streams_the_targets_text_in_its_own_time() -> None:
    answer = run_virtually(Bench().ask(mode="target"))
    assert answer.text == truth()
    assert answer.elapsed_s == pytest.approx(answer.finished.num_output_tokens * TARGET.token_s, rel=0.001)
    assert answer.finished.summary.num_target_steps == TARGET.num_steps


@pytest.mark.parametrize(("depth", "draft_token_s"), [(1, 0.01), (2, 0.01), (4, 0.01), (4, 0.04), (8, 0.02)])
def test_when_all_is_accepted_the_pipeline_overlaps_as_the_formula_says(depth: int, draft_token_s: float) -> None:
    """algorithm: async, a -> 1: the speed-up is min(k, 1/c). Steps have equal lengths nowhere, so 15 % are allowed;
    the step beyond the window that we start as well may add to it, never more than one."""
    target = replace(TARGET, num_steps=60)
    bench = Bench(target, replace(target, role="draft", token_s=draft_token_s))
    alone = run_virtually(Bench(target).ask(mode="target"))
    ours = run_virtually(bench.ask(mode="lookahead", max_lookahead=depth))
    assert ours.text == truth(target)
    assert ours.finished.summary.accept_rate == 1.0
    c = draft_token_s / target.token_s
    speed_up = alone.elapsed_s / ours.elapsed_s
    assert speed_up >= 0.85 * min(depth, 1 / c)
    assert speed_up <= 1.02 * min(depth + 1, 1 / c)


@pytest.mark.parametrize("verifier", ["never", "exact"])
@pytest.mark.parametrize("mode", ["lookahead", "lookahead_sync", "specreason"])
def test_a_verifier_that_rejects_gives_the_targets_text(mode: str, verifier: str) -> None:
    bench = Bench(draft=replace(DRAFT, agree=0.3, paraphrase=0.3))
    answer = run_virtually(bench.ask(mode=mode, verifier=verifier))
    assert answer.text == truth()


def test_specreason_needs_a_verifier_and_keeps_no_fidelity() -> None:
    with pytest.raises(RequestError, match="'score'"):
        settle(config(), request(mode="specreason"))
    assert settle(config(specreason={"verifier": "numbers"}), request(mode="specreason")).verifier == "numbers"
    assert settle(config(), request(mode="specreason", verifier="never")).verifier == "never"
    with pytest.raises(RequestError, match="fidelity"):
        settle(config(), request(mode="specreason", verifier="always", fidelity="exact"))


def test_paraphrases_with_the_same_numbers_are_accepted_and_wrong_ones_are_not() -> None:
    bench = Bench(replace(TARGET, num_steps=40), replace(DRAFT, num_steps=40, agree=0.3, paraphrase=0.4))
    summary = run_virtually(bench.ask(mode="lookahead", verifier="numbers")).finished.summary
    exact = run_virtually(Bench(bench.target, bench.draft).ask(mode="lookahead", verifier="exact")).finished.summary
    assert summary.num_recovered_steps > 0
    assert summary.num_accepted_steps > exact.num_accepted_steps > 0


def test_closing_the_answer_ends_the_work_in_the_engines() -> None:
    async def scene() -> None:
        bench = Bench()
        coordinator = await bench.coordinator()
        async with aclosing(coordinator.generate(request(mode="lookahead"))) as outputs:
            async for output in outputs:
                if isinstance(output, Committed):
                    assert bench.target_engine.num_running() > 0
                    break
        assert bench.target_engine.num_running() == bench.draft_engine.num_running() == 0
        tokens = bench.target_engine.num_tokens
        await asyncio.sleep(100)
        assert bench.target_engine.num_tokens == tokens
        trace = coordinator.trace("r")
        assert trace is not None
        assert trace["finished"]

    run_virtually(scene())


def test_rejected_branches_stop_generating_at_once() -> None:
    """Whatever is cancelled writes no token more: tokens are counted at the engine and in the trace."""
    bench = Bench(draft=replace(DRAFT, agree=0.0))
    answer = run_virtually(bench.ask(mode="lookahead", verifier="never", max_lookahead=4))
    whole = [s for s in answer.spans("target") if s["outcome"] in ("recovered", "target", "accepted")]
    kept = sum(int(str(s["num_tokens"])) for s in whole)
    cancelled = [s for s in answer.spans("target") if s["outcome"] == "cancelled"]
    time_cancelled = sum(float(str(s["end_s"])) - float(str(s["start_s"])) for s in cancelled)
    assert cancelled
    assert bench.target_engine.num_tokens <= kept + time_cancelled / TARGET.token_s + len(cancelled)


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

    def _check(self) -> None:
        if asyncio.get_running_loop().time() < self._up_at_s:
            raise RoleUnavailable("the draft is down")

    async def describe(self) -> object:
        return await self._draft.describe()

    async def encode(self, prompt: Prompt) -> TokenIds:
        self._check()
        return await self._draft.encode(prompt)

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


def test_the_time_limit_is_kept() -> None:
    async def scene() -> None:
        bench = Bench()
        coordinator = await bench.coordinator()
        seen: list[Output] = []

        async def read() -> None:
            async for output in coordinator.generate(request(mode="target", timeout_s=3.0)):
                seen.append(output)

        with pytest.raises(DeadlineExceeded, match=r"3 s"):
            await read()
        assert len(seen) > 10
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)
        assert bench.target_engine.num_running() == 0

    run_virtually(scene())


def test_models_of_other_vocabularies_exchange_text() -> None:
    bench = Bench(draft=replace(DRAFT, vocabulary="other"))
    answer = run_virtually(bench.ask(mode="lookahead"))
    assert answer.text == truth()
    assert answer.finished.summary.accept_rate == 1.0


@pytest.mark.parametrize(
    ("wishes", "param"),
    [
        ({"verifier": "nobody"}, "speculation.verifier"),
        ({"fidelity": "fast"}, "speculation.fidelity"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(wishes: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        settle(config(), request(**wishes))
    assert refused.value.param == param


def test_without_a_draft_only_target_mode_is_served() -> None:
    bare = validate_config(
        {"served_model_name": "m", "target": {"model": "x"}, "speculation": {"mode": "target", "fidelity": "exact"}},
        "t",
    )
    assert settle(bare, request()).mode == "target"
    with pytest.raises(RequestError, match="no draft"):
        settle(bare, request(mode="lookahead"))


def test_prompts_and_budgets_over_the_context_are_refused() -> None:
    small = replace(TARGET, max_model_len=20)
    for wishes in ({"max_tokens": 50}, {"prompt": Prompt(text="word " * 40)}):
        with pytest.raises(RequestError) as refused:
            run_virtually(Bench(small, replace(small, role="draft")).ask(**wishes))
        assert refused.value.code == "context_length_exceeded"


def test_the_trace_tells_what_became_of_every_step() -> None:
    answer = run_virtually(Bench(draft=replace(DRAFT, agree=0.5)).ask(mode="lookahead", verifier="exact"))
    summary = answer.finished.summary
    drafts = [span["outcome"] for span in answer.spans("draft") if span["num_tokens"]]
    assert drafts.count("accepted") == summary.num_accepted_steps
    assert drafts.count("rejected") == summary.num_recovered_steps
    assert drafts.count("cancelled") == summary.num_cancelled_steps
    targets = [span["outcome"] for span in answer.spans("target")]
    assert targets.count("recovered") == summary.num_recovered_steps
    commits = answer.trace["commits"]
    assert isinstance(commits, list)
    assert "".join(c["text"] for c in commits) == answer.text
    assert [c["step"] for c in commits] == list(range(summary.num_steps))
    assert f"lookahead_num_accepted_steps_total {float(summary.num_accepted_steps)}" in answer.metrics
    assert "lookahead_requests_in_flight 0.0" in answer.metrics
