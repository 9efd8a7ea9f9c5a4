"""Recording on scripted roles: prefixes are the target's, versions differ, labels follow the final answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.draft import Draft
from actors.engines.scripted import TURN, ScriptedEngine, ScriptOptions, detokenize, tokenize
from actors.errors import RoleUnavailable
from actors.messages import Delta, Ending, RoleInfo, Sampling, Step, StepRule
from actors.target import TargetModel
from deployments.bench.problems import Problem
from deployments.calibration.record import ANSWER, Recorder, record_all

QUESTION = Problem("How many?", None)


def recorder(target, draft, max_tokens: int = 2000, rule: StepRule | None = None, temperature: float = 0.0) -> Recorder:
    return Recorder(target, draft, rule or StepRule(max_tokens=200), temperature, max_tokens, "Think.")


def scripted(**draft_options) -> tuple[ScriptedEngine, ScriptedEngine, Recorder]:
    target, draft = ScriptedEngine(ScriptOptions()), ScriptedEngine(ScriptOptions(role="draft", **draft_options))
    return target, draft, recorder(TargetModel(target), Draft(draft))


async def test_every_place_is_compared_on_the_targets_own_prefix():
    target, draft, made = scripted(agree=0.4, paraphrase=0.3)
    solution = await made.record(QUESTION, "s", by_answer=False)
    steps = [f"{text}\n\n" for text in solution.text.split("\n\n")[:-1]]
    assert len(steps) == 7
    assert len(solution.pairs) + solution.num_equal == 8  # the last one names the answer
    assert 0 < solution.num_equal < 8
    for pair in solution.pairs:
        at = steps.index(pair.target)
        assert pair.context == "".join(steps[:at])
        assert pair.question == "How many?"
        assert pair.draft != pair.target
        assert detokenize(pair.draft_ids) == pair.draft
        asked = tokenize("user: How many?\n\nThink.")
        assert pair.prefix_ids == (*asked, TURN, *tokenize("".join(steps[:at])))
        assert pair.same is None
    assert (target.num_running(), draft.num_running()) == (0, 0)


async def test_other_endings_are_a_pair():
    target = ScriptedEngine(ScriptOptions(num_steps=2))
    draft = ScriptedEngine(ScriptOptions(role="draft", num_steps=1, agree=1.0))
    solution = await recorder(TargetModel(target), Draft(draft)).record(QUESTION, "s", by_answer=False)
    endings = {(pair.draft_ending, pair.target_ending) for pair in solution.pairs}
    assert (Ending.END, Ending.BOUNDARY) in endings


async def test_the_token_limit_is_the_solutions():
    _, _, made = scripted(agree=0.0)
    limited = recorder(made.target, made.draft, max_tokens=30)
    solution = await limited.record(QUESTION, "s", by_answer=True)
    assert len(tokenize(solution.text)) == 30
    assert all(len(pair.draft_ids) <= 30 for pair in solution.pairs)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_both_draw_as_in_a_request_with_that_temperature(temperature: float):
    asked: list[Sampling] = []

    class Told(ScriptedEngine):
        def describe(self) -> RoleInfo:
            return replace(super().describe(), sampling=Sampling(0.6, 0.9, 20, 0.05, 1.1))

        def generate(self, *args, sampling: Sampling, **options):
            asked.append(sampling)
            return super().generate(*args, sampling=sampling, **options)

    class Draw(Told):
        def describe(self) -> RoleInfo:
            return replace(super().describe(), sampling=Sampling(1.5))

    target, draft = TargetModel(Told(ScriptOptions())), Draft(Draw(ScriptOptions(role="draft")))
    await recorder(target, draft, temperature=temperature).record(QUESTION, "s", by_answer=False)
    assert len(asked) == 16
    assert set(asked) == {Sampling(temperature, 0.9, 20, 0.05, 1.1)}


class Summing:
    """A target that writes "a", "b" and then how many letters x it has read: the draft's x changes the answer."""

    def __init__(self) -> None:
        self.num_streams = 0

    async def describe(self):
        return RoleInfo("summing", "v", 1000)

    async def encode(self, prompt):
        return (1,)

    def _next(self, request) -> str:
        read = "".join(piece.text for piece in request.prefix.pieces)
        num = read.count("\n\n")
        return ["a\n\n", "b\n\n"][num] if num < 2 else f"The answer is {read.count('x')}."

    async def step(self, request):
        text = self._next(request)
        return Step(text, (7,), "v", Ending.BOUNDARY if text.endswith("\n\n") else Ending.END)

    async def stream(self, request):
        self.num_streams += 1
        text = self._next(request)
        while text.endswith("\n\n"):
            yield Delta(text, (7,), Ending.BOUNDARY)
            piece = Step(text, (7,), "v", Ending.BOUNDARY).piece
            request = type(request)(
                request.call_id, request.session_id, request.prefix.extended(piece), request.rule, request.max_tokens
            )
            text = self._next(request)
        yield Delta(text, (7,), Ending.END)

    async def label_probabilities(self, prompt, labels, session_id):
        raise NotImplementedError


class Writing:
    """A draft that writes set steps by their place."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    async def encode(self, prompt):
        return (2,)

    async def look_ahead(self, request, depth):
        num = "".join(piece.text for piece in request.prefix.pieces).count("\n\n")
        text = self.texts[num]
        yield Step(text, (8,), "v", Ending.BOUNDARY if text.endswith("\n\n") else Ending.END)


async def test_labels_say_whether_the_target_still_comes_to_the_answer():
    made = recorder(Summing(), Writing("A\n\n", "x\n\n", "So: 0"))
    solution = await made.record(Problem("How many?", "0"), "s", by_answer=True)
    assert solution.text == "a\n\nb\n\nThe answer is 0."
    assert [(pair.draft, pair.same, pair.labelled_by) for pair in solution.pairs] == [
        ("A\n\n", True, ANSWER),
        ("x\n\n", False, ANSWER),
        ("So: 0", True, ANSWER),
    ]
    assert made.target.num_streams == 2  # nothing is written after a draft step that ends the text


async def test_a_target_that_is_wrong_labels_nothing():
    made = recorder(Summing(), Writing("A\n\n", "x\n\n", "So: 0"))
    solution = await made.record(Problem("How many?", "5"), "s", by_answer=True)
    assert [pair.same for pair in solution.pairs] == [None, None, None]
    assert made.target.num_streams == 0


async def test_the_reasoning_is_compared_and_the_answer_is_the_targets():
    options = {"think": True, "num_steps": 3}
    target = ScriptedEngine(ScriptOptions(**options))
    draft = ScriptedEngine(ScriptOptions(role="draft", agree=0.0, **options))
    made = recorder(TargetModel(target), Draft(draft), rule=StepRule(max_tokens=200, close="</think>"))
    solution = await made.record(QUESTION, "s", by_answer=False)
    assert len(solution.pairs) == 3
    assert solution.pairs[-1].target_ending is Ending.CLOSE
    assert "The answer is" in solution.text.partition("</think>")[2]


async def test_all_problems_so_many_at_a_time_and_each_is_reported():
    _, _, made = scripted(agree=0.5)
    heard = []
    problems = [Problem(f"Question {i}?", None) for i in range(5)]
    found = await record_all(made, problems, 2, by_answer=False, on_solution=heard.append)
    assert sorted(map(id, heard)) == sorted(map(id, found))
    assert [solution.pairs[0].question for solution in found] == [problem.question for problem in problems]


async def test_a_role_that_breaks_ends_it_with_its_own_error():
    target, draft, made = scripted(agree=0.5, break_after=4)
    with pytest.raises(RoleUnavailable, match="scripted to break"):
        await record_all(made, [QUESTION] * 3, 2, by_answer=False, on_solution=lambda solution: None)
    assert (target.num_running(), draft.num_running()) == (0, 0)
