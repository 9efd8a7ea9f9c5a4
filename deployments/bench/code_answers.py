"""Whether a function that a model wrote passes its tests.

Promises: what is run is the last program of the answer, shown the same head as the model was; an answer that was cut
before its program ended is wrong and is not run. It runs in `sandbox`.
"""

from __future__ import annotations

import ast
import re

from deployments.bench import sandbox
from deployments.bench.problems import CodeTest

# A fence begins its line, whatever the word behind it, or has nothing behind it but Python's name.
_FENCED = re.compile(
    r"(?:^[ \t]*|(?=```[ \t]*(?:python|py)?[ \t]*\r?$))(`{3,}|~{3,})[^\n`]*\n(.*?)\1",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)


def judge(text: str, test: CodeTest, bounds: sandbox.Bounds | None = None) -> sandbox.Outcome:
    """Run the answer's function against the tests."""
    code = extract(text, test.entry_point)
    if code is None:
        return sandbox.Outcome(False, "the answer holds no whole program")
    return sandbox.run(program(code, test), bounds)


def extract(text: str, entry_point: str) -> str | None:
    """The program in an answer: the last block that defines the function, else the last block, else the whole text if
    it is Python."""
    blocks: list[str] = [block for _, block in _FENCED.findall(text)]
    named = [block for block in blocks if re.search(rf"^def {re.escape(entry_point)}\b", block, re.MULTILINE)]
    if blocks:
        return (named or blocks)[-1]
    is_fenced = "```" in text or "~~~" in text
    return text if text.strip() and not is_fenced and _is_python(f"def f():\n    pass\n{text}") else None


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
