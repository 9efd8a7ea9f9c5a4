"""The questions of a benchmark: from a JSON-lines file, or made up from a seed.

Promises: a file is of one kind, questions with answers or functions to complete with their tests; a broken line is an
error that names the line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.errors import RequestError
from deployments.bench.grading import reference_answer
from deployments.bench.word_problems import DIFFICULTIES, word_problems

_CODE_FIELDS = ("prompt", "test", "entry_point")
DEFAULT_SYNTHETIC = 20
SYNTHETIC = "synthetic"

INSTRUCTION = (
    "Solve the problem step by step. Leave a blank line between steps. End with a line of the form: The answer is N."
)
CODE_INSTRUCTION = (
    "Complete the function. First think step by step, with a blank line between steps. End with the whole function in "
    "one ```python block."
)


@dataclass(frozen=True, slots=True)
class CodeTest:
    """How a function that was asked for is tried: the head that was shown, the tests, and the function's name."""

    prompt: str
    test: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One question. `answer` is the final answer alone, None if it is not known; `code` is set where a function is
    asked for."""

    question: str
    answer: str | None
    code: CodeTest | None = None


def load(source: str, limit: int | None, seed: int) -> list[Problem]:
    """`source` is a file, ``synthetic`` or ``synthetic:DIFFICULTY``."""
    name, _, difficulty = source.partition(":")
    if name != SYNTHETIC:
        return read_problems(source, limit)
    if difficulty and difficulty not in DIFFICULTIES:
        raise RequestError(f"{source!r}: the difficulties are {', '.join(DIFFICULTIES)}.", "data")
    return synthetic(limit or DEFAULT_SYNTHETIC, seed, difficulty or None)


def synthetic(num_problems: int, seed: int = 0, difficulty: str | None = None) -> list[Problem]:
    """`num_problems` word problems of our own."""
    return [
        Problem(question, str(answer)) for question, answer in word_problems(num_problems, seed, difficulty).items()
    ]


def instruction(problems: Sequence[Problem]) -> str:
    """What the model is told besides the question."""
    return CODE_INSTRUCTION if problems and problems[0].code else INSTRUCTION


def read_problems(path: str | Path, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of a JSON-lines file with `question` and `answer` (GSM8K's ``#### 42`` too),
    or with HumanEval's `prompt`, `test` and `entry_point`."""
    problems: list[Problem] = []
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"The data file {path} cannot be read: {error}.", "data") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if limit is not None and len(problems) == limit:
            break
        problems.append(_parse(line, f"{path}, line {number}"))
        if (problems[0].code is None) is not (problems[-1].code is None):
            raise RequestError(f"{path}, line {number}: questions and functions are mixed; use two files.", "data")
    if not problems:
        raise RequestError(f"The data file {path} holds no problem.", "data")
    return problems


def _parse(line: str, where: str) -> Problem:
    try:
        data = json.loads(line)
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{where}: half of a surrogate pair (\\ud800 to \\udfff) is not text.", "data") from error
    except ValueError as error:
        raise RequestError(f"{where}: not JSON ({error}).", "data") from error
    if isinstance(data, dict) and all(isinstance(data.get(name), str) for name in _CODE_FIELDS):
        test = CodeTest(*(data[name] for name in _CODE_FIELDS))
        return Problem(test.prompt, None, test)
    question = data.get("question") if isinstance(data, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise RequestError(f"{where}: there is no 'question'.", "data")
    answer = data.get("answer")
    return Problem(question, None if answer is None else reference_answer(str(answer)))
