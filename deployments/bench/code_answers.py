"""Whether a function that a model wrote passes its tests.

Promises: what is run is the last program of the answer, shown the same head as the model was; an answer that was cut
before its program ended is wrong and is not run. It runs in `sandbox`.
"""

from __future__ import annotations

import ast
import re

from deployments.bench import sandbox
from deployments.bench.problems import CodeTest

_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def judge(text: str, test: CodeTest, bounds: sandbox.Bounds | None = None) -> sandbox.Outcome:
    """Run the answer's function against the tests."""
    code = extract(text, test.entry_point)
    if code is None:
        return sandbox.Outcome(False, "the answer holds no whole program")
    return sandbox.run(program(code, test), bounds)


def extract(text: str, entry_point: str) -> str | None:
    """The program in an answer: the last block that defines the function, else the last block, else the whole text if
    it is Python."""
    blocks: list[str] = _FENCED.findall(text)
    named = [block for block in blocks if re.search(rf"^def {re.escape(entry_point)}\b", block, re.MULTILINE)]
    if blocks:
        return (named or blocks)[-1]
    return text if text.strip() and "```" not in text and _is_python(f"def f():\n    pass\n{text}") else None


def program(code: str, test: CodeTest) -> str:
    """The head, the answer, the tests and their call. The head ends in a docstring, so it is whole without a body, and
    an answer that is only the body goes on with it."""
    return f"{test.prompt.rstrip()}\n{code}\n\n{test.test}\n\ncheck({test.entry_point})\n"


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True
