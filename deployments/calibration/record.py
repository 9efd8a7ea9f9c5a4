"""Records pairs: the target writes the solution of a problem step by step, and on each prefix the draft writes its own
version of the step. Labels by the final answer: the target goes on from the draft's step, and is right or not.

Promises: the prefixes are the target's own, whatever the draft writes; both versions follow the same token ids; steps
that are equal are counted and not recorded; closing or cancelling ends the work in the engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from uuid import uuid4

from actors.messages import (
    Ending,
    Message,
    Prefix,
    Prompt,
    Sampling,
    Step,
    StepRequest,
    StepRule,
)
from actors.roles import Drafter, Target
from deployments.bench.grading import is_correct
from deployments.bench.problems import Problem
from deployments.calibration.pairs import CONTEXT_CHARS, StepPair
from deployments.calibration.side_by_side import for_each

ANSWER = "final answer"
"""What labels by the final answer are labelled by."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """The two roles, and how they are asked: at `temperature`, and else with the sampling that the target tells.
    `instruction` follows each question."""

    target: Target
    draft: Drafter
    rule: StepRule
    temperature: float
    max_tokens: int
    instruction: str = ""

    async def record(self, problem: Problem, session_id: str, by_answer: bool) -> Solution:
        """The pairs of one problem. With `by_answer` each is labelled, if the target itself is right."""
        prompt = Prompt((Message("user", f"{problem.question}\n\n{self.instruction}".strip()),))
        info = await self.target.describe()
        prompt_ids, draft_ids = await for_each(lambda role: role.encode(prompt), [self.target, self.draft])
        left = min(self.max_tokens, info.max_model_len - len(prompt_ids) - 1)
        sampling = replace(info.sampling, temperature=self.temperature)
        run = _Run(self, session_id, problem.question, sampling, Prefix(prompt_ids), Prefix(draft_ids), left)
        await run.write()
        if by_answer and problem.answer is not None:
            await run.label(problem.answer)
        return Solution(run.pairs, run.num_equal, run.text)


async def record_all(
    recorder: Recorder,
    problems: Sequence[Problem],
    concurrency: int,
    *,
    by_answer: bool,
    on_solution: Callable[[Solution], None],
) -> list[Solution]:
    """Every problem, `concurrency` at a time; `on_solution` hears of each as soon as it is done."""

    async def one(problem: Problem) -> Solution:
        solution = await recorder.record(problem, f"record-{uuid4().hex}", by_answer)
        on_solution(solution)
        return solution

    return await for_each(one, problems, concurrency)


@dataclass(frozen=True, slots=True)
class Solution:
    """What one problem gave: its pairs, the number of positions at which both wrote the same, the target's text."""

    pairs: list[StepPair]
    num_equal: int
    text: str


@dataclass(slots=True)
class _Run:
    """One problem. `path` are the target's steps so far, `left` the tokens that may follow; `branches` has for each
    pair the path and the tokens left before it, and the draft's step."""

    recorder: Recorder
    session_id: str
    question: str
    sampling: Sampling
    prompt: Prefix
    draft_prompt: Prefix
    left: int
    path: Prefix = Prefix(())
    text: str = ""
    is_complete: bool = False
    pairs: list[StepPair] = field(default_factory=list)
    branches: list[tuple[Prefix, int, Step]] = field(default_factory=list)
    num_equal: int = 0
    num_calls: int = 0

    async def write(self) -> None:
        """The target's solution, and the draft's version of each step until the text or its reasoning ends."""
        while self.left > 0:
            [target], drafts = await for_each(lambda steps: steps(), [self._target_steps, self._draft_steps])
            for draft in drafts:
                self._compare(draft, target)
            self.path = self.path.extended(target.piece)
            self.left -= len(target.token_ids)
            self.text += target.text
            if target.ending.is_last:
                rest, self.is_complete = await self._rest(self.path, self.left, target.ending)
                self.text += rest
                return

    async def label(self, answer: str) -> None:
        """A pair means the same if the target, going on from the draft's step, still comes to `answer`. Where the
        target alone does not come to it, nothing is said."""
        if not is_correct(self.text, answer, self.is_complete):
            return
        ends = await for_each(lambda branch: self._after(*branch), self.branches)
        self.pairs = [
            replace(pair, same=is_correct(text, answer, is_complete), labelled_by=ANSWER)
            for pair, (text, is_complete) in zip(self.pairs, ends, strict=True)
        ]

    def _compare(self, draft: Step, target: Step) -> None:
        if draft.text == target.text and draft.ends_like(target):
            self.num_equal += 1
            return
        written = (token for piece in self.path.pieces for token in piece.token_ids)
        pair = StepPair(
            question=self.question,
            context=self.text[-CONTEXT_CHARS:],
            draft=draft.text,
            target=target.text,
            draft_ending=draft.ending,
            target_ending=target.ending,
            draft_ids=draft.token_ids,
            prefix_ids=(*self.prompt.prompt_ids, *written),
            vocabulary=draft.vocabulary,
            target_vocabulary=target.vocabulary,
        )
        self.pairs.append(pair)
        self.branches.append((self.path, self.left, draft))

    async def _after(self, path: Prefix, left: int, draft: Step) -> tuple[str, bool]:
        """The whole text with the draft's step in its place, and whether it came to the end."""
        before = "".join(piece.text for piece in path.pieces) + draft.text
        rest, is_complete = await self._rest(path.extended(draft.piece), left - len(draft.token_ids), draft.ending)
        return before + rest, is_complete

    async def _target_steps(self) -> list[Step]:
        """The one step."""
        return [await self.recorder.target.step(self._request(self.prompt, self.path, self.left))]

    async def _draft_steps(self) -> list[Step]:
        """One step, or none."""
        request = self._request(self.draft_prompt, self.path, min(self.left, self.recorder.rule.max_tokens))
        async with aclosing(self.recorder.draft.look_ahead(request, 1)) as steps:
            return [step async for step in steps]

    async def _rest(self, path: Prefix, left: int, ending: Ending) -> tuple[str, bool]:
        """What the target writes after `path`, which ended by `ending`, and whether it came to the end."""
        if ending is Ending.END or left < 1:
            return "", ending is Ending.END
        text, last = "", None
        async with aclosing(self.recorder.target.stream(self._request(self.prompt, path, left))) as deltas:
            async for delta in deltas:
                text, last = text + delta.text, delta.ending
        return text, last is Ending.END

    def _request(self, prompt: Prefix, path: Prefix, max_tokens: int) -> StepRequest:
        self.num_calls += 1
        return StepRequest(
            call_id=f"{self.session_id}-{self.num_calls}",
            session_id=self.session_id,
            prefix=Prefix(prompt.prompt_ids, path.pieces),
            rule=self.recorder.rule,
            max_tokens=max_tokens,
            sampling=self.sampling,
        )
