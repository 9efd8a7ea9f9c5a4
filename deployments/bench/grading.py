"""Whether an answer is right.

Promises: only the final statement of an answer counts, not a number on the way; ``1,234``, ``$1234.00`` and
``\\boxed{1234}`` are the same; what a plain comparison cannot decide is decided by math-verify, within seconds.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LEADING_NUMBER = re.compile(rf"[\s$:\\(\[]*({_NUMBER.pattern})(?![\d.,]*\s*[-+*/^=%\u00d7\u00f7\u00b7])")
_ANSWER_IS = re.compile(r"answer\s*(?:is|:|=)", re.IGNORECASE)
_LONGEST_STATEMENT = 300
_TIMEOUT_S = 3


def reference_answer(answer: str) -> str:
    """The final answer in a data set's `answer`: what follows the last ``####``, or all of it."""
    return answer.rsplit("####", 1)[-1].strip()


def final_statement(text: str, complete: bool = True) -> str | None:
    """Where an answer states its result: its last ``\\boxed{}``, else what follows its last "answer is", else its last
    line with a number. None if there is none; an answer that was cut off has no last line."""
    if (box := text.rfind("\\boxed")) >= 0:
        return _boxed(text[box:])
    if stated := list(_ANSWER_IS.finditer(text)):
        return text[stated[-1].end() :].strip()[:_LONGEST_STATEMENT]
    lines = [line for line in text.splitlines() if _NUMBER.search(line)]
    return lines[-1][-_LONGEST_STATEMENT:] if lines and complete else None


def is_correct(text: str, answer: str, complete: bool = True) -> bool:
    """Whether `text` ends in `answer`. `complete` says that the text was not cut at its token limit."""
    statement = final_statement(text, complete)
    if statement is None:
        return False
    statement = statement.replace("**", "")
    expected, found = _number(answer), _plain_number(statement)
    if expected is not None and found is not None:
        return expected == found
    verified = _verified(statement, answer)
    if verified is not None:
        return verified
    numbers = _NUMBER.findall(statement)
    return bool(numbers) and expected is not None and _number(numbers[-1]) == expected


def _boxed(text: str) -> str:
    """The content of the first braces, with the braces inside it."""
    depth, start = 0, text.find("{")
    for place in range(max(start, 0), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 1 : place]
    return text[start + 1 :][:_LONGEST_STATEMENT]


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip().replace(",", "").lstrip("$"))
    except InvalidOperation:
        return None


def _plain_number(statement: str) -> Decimal | None:
    """The number that opens the statement, else the only one in it; None if a sum, fraction or power is about it."""
    if opening := _LEADING_NUMBER.match(statement):
        return _number(opening.group(1))
    numbers = _NUMBER.findall(statement)
    if len(numbers) != 1 or any(mark in statement for mark in ("/", "^", "\\frac", "\\sqrt", "%")):
        return None
    return _number(numbers[0])


def _verified(statement: str, answer: str) -> bool | None:
    """math-verify's opinion; None if it finds no mathematics in one of the two."""
    from math_verify import parse, verify

    expected = parse(f"${answer}$", parsing_timeout=_TIMEOUT_S)
    found = parse(statement, parsing_timeout=_TIMEOUT_S) or parse(f"${statement}$", parsing_timeout=_TIMEOUT_S)
    if not expected or not found:
        return None
    return bool(verify(expected, found, timeout_seconds=_TIMEOUT_S))
