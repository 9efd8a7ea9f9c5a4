"""Whether a function that a model wrote passes its tests.

Promises: what is run is the last program of the answer, shown the same head as the model was; an answer that was cut
before its program ended is wrong and is not run. It runs in `sandbox`.
"""

from __future__ import annotations

import ast
import re

from deployments.bench import sandbox
from deployments.bench.problems import CodeTest

# A fence begins its line, whatever the word behind it, or is the first one there and has nothing behind it but Python's
# name: a second one on the line closes what the first began.
_AFTER_TEXT = r"(?:(?!```)[^\n])*(?=```[ \t]*(?:python|py)?[ \t]*\r?$)"
_OPENING = rf"^(?:(?P<indent>[ \t]*)|{_AFTER_TEXT})(?P<fence>`{{3,}}|~{{3,}})[^\n`]*(?:\n|\Z)"
_FLAGS = re.DOTALL | re.IGNORECASE | re.MULTILINE
_FENCED = re.compile(rf"{_OPENING}(?P<block>.*?)(?P=fence)", _FLAGS)
_OPENED = re.compile(_OPENING, _FLAGS)


def judge(text: str, test: CodeTest, bounds: sandbox.Bounds | None = None) -> sandbox.Outcome:
    """Run the answer's function against the tests."""
    code = extract(text, test.entry_point)
    if code is None:
        return sandbox.Outcome(False, "the answer holds no whole program")
    return sandbox.run(program(code, test), bounds)


def holds_program(text: str, test: CodeTest) -> bool:
    """Whether there is something to run."""
    return extract(text, test.entry_point) is not None


def extract(text: str, entry_point: str) -> str | None:
    """The program in an answer: the last block that defines the function, else the last block, else the whole text if
    it is Python. None if there is none, or if a block is left open at the end: the answer was cut inside it."""
    found = list(_FENCED.finditer(text))
    if found and _OPENED.search(text, found[-1].end()):
        return None
    blocks = [_without_indent(block["block"], block["indent"] or "") for block in found]
    named = [block for block in blocks if re.search(rf"^def {re.escape(entry_point)}\b", block, re.MULTILINE)]
    if blocks:
        return (named or blocks)[-1]
    is_fenced = "```" in text or "~~~" in text
    return text if text.strip() and not is_fenced and _is_python(f"def f():\n    pass\n{text}") else None


def program(code: str, test: CodeTest) -> str:
    """The head, the answer, the tests and their call. The head ends in a docstring, so it is whole without a body, and
    an answer that is only the body goes on with it."""
    return f"{test.prompt.rstrip()}\n{code}\n\n{test.test}\n\ncheck({test.entry_point})\n"


def _without_indent(block: str, indent: str) -> str:
    """`block` without what its fence is indented by, as in an item of a list; a body of a function keeps its own."""
    return re.sub(rf"^[ \t]{{1,{len(indent)}}}", "", block, flags=re.MULTILINE) if indent else block


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True
