"""Whether an answer is right.

Promises: only the final statement of an answer counts, not a number on the way; ``1,234``, ``$1234.00`` and
``\\boxed{1234}`` are the same; so are ``-$5``, ``negative 5`` and ``-5``, or ``5 million`` and ``5000000``; ``10%`` is
right where 10 is expected and where 0.1 is, since data sets write both. What a plain comparison cannot decide is
decided by math-verify, within seconds.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = r"-?(?:\d+(?:\.\d+)?|(?<![\w.])\.\d+)"
_NUMBERS = re.compile(_NUMBER)
_COMMAND = r"\\(?:frac|sqrt|pi|times|cdot|div)"
_OPERATION = rf"[-+*/^=%\u00d7\u00f7\u00b7]|{_COMMAND}"
_IN_A_LIST = r",\d|,[ ]*-?\d[^A-Za-z]*$|[ ]+\d{3}(?![\w-])"
_LEADING_NUMBER = re.compile(rf"[\s$\u20ac\u00a3:\\(\[]*((?>{_NUMBER}))(?!\s*(?:{_OPERATION})|{_IN_A_LIST})")
_PART = re.compile(rf"[/^%]|{_COMMAND}")
_FORMULA = re.compile(r"[\^%_=!:+*]|/(?![A-Za-z]{2})|\\[A-Za-z]|\d[A-Za-z(]|[A-Za-z)]\d|[\w)]\s*-")
_ANSWER_IS = re.compile(r"answer\s*(?:is|:|=)", re.IGNORECASE)
_LONGEST_STATEMENT = 300
_TIMEOUT_S = 3

_VALUE_FOLLOWS = r"(?=\\?[$\u20ac\u00a3]?\.?\d)"
_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\}|,?\\[,!;: ])\d{3})+(?!\d)")
_SCALED = re.compile(
    rf"(?<![\d.])((?>{_NUMBER}))((?:\s|\\text\{{|\\,)*)(thousand|million|billion|trillion)\b(?!-)", re.IGNORECASE
)
_MIXED = re.compile(r"(?<![\d.,/])(\d{1,9}) +(\d{1,9})/(\d{1,9})(?![\d/])")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SPELLINGS = (
    (re.compile(r"\*\*"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(rf"\u2212|(?<![\w)\]}}$%.])\u2013{_VALUE_FOLLOWS}"), "-"),  # between numbers it is "to", not a sign
    (re.compile(rf"\b(?:negative|minus) +{_VALUE_FOLLOWS}", re.IGNORECASE), "-"),
    # Not at the beginning of a line, where it marks an item of a list.
    (re.compile(rf"((?:[{{(\[=:]|\bis) *)- *{_VALUE_FOLLOWS}"), r"\1-"),
    (re.compile(r"(?<![\w)\]}$])-\\?[$\u20ac\u00a3] *(?=\.?\d)"), "-"),
)


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
    lines = [line for line in text.splitlines() if _NUMBERS.search(line)]
    return lines[-1][-_LONGEST_STATEMENT:] if lines and complete else None


def is_correct(text: str, answer: str, complete: bool = True) -> bool:
    """Whether `text` ends in `answer`. `complete` says that the text was not cut at its token limit."""
    text, answer = _plainly(text), _plainly(answer)
    statement = final_statement(text, complete)
    if statement is None:
        return False
    is_boxed = "\\boxed" in text
    expected = _number(answer)
    found = _boxed_number(statement) if is_boxed else _plain_number(statement)
    if expected is not None and found is not None:
        return expected == found
    verified = _verified(statement, answer, is_boxed)
    if verified is not None:
        return verified
    numbers = _NUMBERS.findall(statement)
    return bool(numbers) and expected is not None and _number(numbers[-1]) == expected


def _plainly(text: str) -> str:
    """The same with every number spelt in one way: ASCII sign at its digits, no separators, no scale in words."""
    for spelling, plain in _SPELLINGS:
        text = spelling.sub(plain, text)
    text = _GROUPED.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = _SCALED.sub(lambda found: f"{Decimal(found[1]) * _SCALES[found[3].lower()]:f}{found[2]}", text)
    return _MIXED.sub(lambda found: f"{int(found[1]) * int(found[3]) + int(found[2])}/{found[3]}", text)


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
        return Decimal(text.strip().lstrip("\\$"))
    except InvalidOperation:
        return None


def _plain_number(statement: str) -> Decimal | None:
    """The number that opens the statement, else the only one in it; None if a sum, fraction or power is about it."""
    if opening := _LEADING_NUMBER.match(statement):
        return _number(opening.group(1))
    numbers = _NUMBERS.findall(statement)
    return _number(numbers[0]) if len(numbers) == 1 and not _PART.search(statement) else None


def _boxed_number(formula: str) -> Decimal | None:
    """The only number in a box with nothing else but words: whatever stands at a number is mathematics there."""
    words = re.sub(r"\\(?:text|math)(?:bf|rm|it)?\s*\{([^{}]*)\}", r" \1 ", formula)
    numbers = _NUMBERS.findall(words)
    return _number(numbers[0]) if len(numbers) == 1 and not _FORMULA.search(words) else None


def _verified(statement: str, answer: str, is_boxed: bool) -> bool | None:
    """math-verify's opinion; None if it finds no mathematics in one of the two."""
    from math_verify import parse, verify

    expected = parse(f"${answer}$", parsing_timeout=_TIMEOUT_S)
    # Out of its box a formula has no marks of one, and is then read as words with numbers among them.
    readings = (f"${statement}$", statement) if is_boxed else (statement, f"${statement}$")
    found = parse(readings[0], parsing_timeout=_TIMEOUT_S) or parse(readings[1], parsing_timeout=_TIMEOUT_S)
    if not expected or not found:
        return None
    return bool(verify(expected, found, timeout_seconds=_TIMEOUT_S))
