"""What a request may wish for, and what is refused before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, tokenize
from actors.errors import RequestError
from actors.messages import JudgeRequest, Message, Prompt, TokenIds, Verdict
from actors.roles import Drafter, Target
from actors.target import TargetModel
from deployments.config import Config, validate_config
from deployments.coordinator.coordinator import Coordinator, settle
from deployments.coordinator.pipeline import Roles
from deployments.generation import Committed, Output
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, PROMPT, TARGET, Answer, Bench, Closing, config, request, truth
from tests.unit.coordinator.test_failures import Fickle


def test_specreason_needs_a_verifier_and_keeps_no_fidelity() -> None:
    with pytest.raises(RequestError, match="'score'"):
        settle(config(), request(mode="specreason"))
    assert settle(config(specreason={"verifier": "numbers"}), request(mode="specreason")).verifier == "numbers"
    assert settle(config(), request(mode="specreason", verifier="never")).verifier == "never"
    assert settle(config(), request(mode="specreason", verifier="exact")).verifier == "exact"
    with pytest.raises(RequestError, match=r"no check of 'same' can do\. Verifiers that can: exact,") as refused:
        settle(config(checks={"same": [{"kind": "same_numbers"}]}), request(mode="specreason", verifier="same"))
    assert refused.value.param == "speculation.verifier"
    with pytest.raises(RequestError, match="fidelity"):
        settle(config(), request(mode="specreason", verifier="always", fidelity="exact"))


@pytest.mark.parametrize(
    ("wishes", "param"),
    [
        ({"verifier": "nobody"}, "speculation.verifier"),
        ({"fidelity": "fast"}, "speculation.fidelity"),
        ({"controller": True}, "speculation.controller"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(wishes: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        settle(config(), request(**wishes))
    assert refused.value.param == param


@pytest.mark.parametrize("wishes", [{"mode": "target"}, {"mode": "lookahead_sync"}, {"branches": 2}])
def test_a_wish_for_the_controller_is_refused_where_it_does_not_work(wishes: dict[str, object]) -> None:
    controlled = config(controller={"enabled": True})
    assert settle(controlled, request(controller=True)).is_controlled
    with pytest.raises(RequestError, match="mode 'lookahead' without branches") as refused:
        settle(controlled, request(controller=True, **wishes))
    assert refused.value.param == "speculation.controller"


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
    too_long: list[tuple[dict[str, object], str]] = [
        ({"max_tokens": 50}, "max_tokens"),
        ({"prompt": Prompt(text="word " * 40)}, "prompt"),
    ]
    for wishes, param in too_long:
        with pytest.raises(RequestError) as refused:
            run_virtually(Bench(small, replace(small, role="draft")).ask(**wishes))
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", param)
        # litellm and others know a context that is too short by vLLM's words.
        assert refused.value.message.startswith("This model's maximum context length is 20 tokens. The prompt has ")


# --- prompts of token ids ---------------------------------------------------------------------------------------------


class Judging:
    """Accepts all."""

    def __init__(self) -> None:
        self.questions: list[str] = []

    async def judge(self, asked: JudgeRequest) -> Verdict:
        self.questions.append(asked.question)
        return Verdict(True, asked.verifier, "accepted")


@pytest.mark.parametrize("mode", ["lookahead", "specreason"])
def test_judges_read_the_words_of_a_prompt_of_token_ids(mode: str) -> None:
    text = "Go on:\n```python\n"

    async def questions(prompt: Prompt) -> list[str]:
        bench, judging = Bench(draft=replace(DRAFT, agree=0.0)), Judging()
        bench.roles = replace(bench.roles, verifier=judging)
        await bench.ask(mode=mode, verifier="numbers", prompt=prompt)
        return judging.questions

    for prompt in (Prompt(text=text), Prompt(token_ids=tokenize(text))):
        assert set(run_virtually(questions(prompt))) == {text}


@pytest.mark.parametrize(
    ("up_at_s", "degraded"), [(0.0, ("draft_refused",)), (5.0, ("draft_unavailable", "draft_refused"))]
)
def test_a_draft_of_another_vocabulary_has_no_part_in_a_prompt_of_token_ids(
    up_at_s: float, degraded: tuple[str, ...]
) -> None:
    async def scene() -> tuple[Answer, int]:
        bench = Bench(draft=replace(DRAFT, vocabulary="other"))
        bench.roles = replace(bench.roles, drafter=Fickle(Draft(bench.draft_engine), up_at_s))  # type: ignore[arg-type]
        prompt = Prompt(token_ids=tokenize(PROMPT.question))
        return await bench.ask(mode="specreason", verifier="always", prompt=prompt), bench.draft_engine.num_tokens

    answer, num_drafted = run_virtually(scene())
    assert answer.text == truth()
    assert answer.finished.summary.degraded == degraded
    assert num_drafted == 0


# --- roles that are replaced while a coordinator lives ---------------------------------------------------------------


class Replaced:
    """What a pool is to a coordinator: whoever is there `now`."""

    def __init__(self, role: Target | Drafter) -> None:
        self.now = role

    def __getattr__(self, name: str) -> object:
        return getattr(self.now, name)


class World:
    """A coordinator whose roles may be replaced."""

    def __init__(self, target: TargetModel, draft: Draft, settings: Config) -> None:
        self.target, self.draft = Replaced(target), Replaced(draft)
        roles = Roles(self.target, self.draft)  # type: ignore[arg-type]
        self.coordinator = Coordinator(settings, roles)

    async def ask(self, **wishes: object) -> list[Output]:
        return [output async for output in self.coordinator.generate(request(**wishes))]

    @property
    def calls(self) -> set[str]:
        """Kinds of the calls of the last request."""
        trace = self.coordinator.trace("r")
        assert trace is not None
        return {span["kind"] for span in trace["spans"]}


def target(**changes: object) -> TargetModel:
    return TargetModel(ScriptedEngine(replace(TARGET, **changes)))  # type: ignore[arg-type]


def draft(**changes: object) -> Draft:
    return Draft(ScriptedEngine(replace(DRAFT, **changes)))  # type: ignore[arg-type]


def test_a_request_goes_by_the_context_of_the_target_that_is_there_now() -> None:
    async def scene() -> None:
        world = World(target(max_model_len=200), draft(), config())
        await world.ask(mode="target", max_tokens=100)
        world.target.now = target(max_model_len=4000)
        await world.ask(mode="target", max_tokens=400)
        world.target.now = target(max_model_len=100)
        with pytest.raises(RequestError) as refused:
            await world.ask(mode="target", max_tokens=400)
        assert refused.value.code == "context_length_exceeded"

    run_virtually(scene())


def test_a_request_goes_by_hints_and_vocabularies_of_the_roles_that_are_there_now() -> None:
    async def scene() -> None:
        world = World(target(), draft(), config())
        hints = {"mode": "lookahead", "verifier": "exact", "token_speculation": "hints"}
        await world.ask(**hints)
        assert "stream" not in world.calls, "the target takes no hints"
        world.target.now = target(hint_gain=3.0)
        await world.ask(**hints)
        assert "target" not in world.calls, "it is one stream with hints"
        world.draft.now = draft(vocabulary="another")
        await world.ask(**hints)
        assert "stream" not in world.calls, "the target cannot read them"
        world.target.now = target(hint_gain=3.0, vocabulary="another")
        await world.ask(**hints)
        assert "target" not in world.calls

    run_virtually(scene())


class OwnTokens(Closing):
    """Of a tokenizer with numbers of its own, with a template around messages only."""

    def __init__(self, first_token: int, vocabulary: str) -> None:
        super().__init__(ScriptedEngine(replace(TARGET, vocabulary=vocabulary)))
        self._first_token = first_token

    async def encode(self, prompt: Prompt) -> TokenIds:
        *words, turn = await super().encode(prompt)
        ids = tuple(word + self._first_token for word in words)
        return ids if prompt.text is not None else (*ids, turn)


def test_marks_are_found_in_the_tokens_of_the_target_that_is_there_now() -> None:
    async def scene() -> None:
        reasoning = {"open": "<think>", "close": "</think>", "starts_open": True}
        world = World(target(), draft(), validate_config(config().model_dump() | {"reasoning": reasoning}, "test"))
        closed = Prompt(messages=(Message("user", "2 and 2?"),))
        # Between old and new: the new one says what it is while the old one still encodes.
        for replica in (OwnTokens(0, "old"), OwnTokens(0, "new"), OwnTokens(1000, "new")):
            world.target.now = replica
            outputs = await world.ask(mode="target", prompt=closed)
            assert {output.channel for output in outputs if isinstance(output, Committed)} == {"content"}

    run_virtually(scene())
