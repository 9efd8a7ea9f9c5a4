"""Operands: the numbers and names that stand beside the signs of a text.

Promises: time that grows with the text, which is as `signs.plain` writes it. A number's unit belongs to it ("16 eggs -
3"), a factor does not ("2y" is a number, then a name). One name is not told from another.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import Literal

Kind = Literal["number", "letter", "word", ""]

JOINS = "and|so|then|or|but|because|since|which|that|where|is|are|gives?|makes?|equals?|to get"
"""Words that stand between formulas and are no operands."""
_A_NAME = rf"(?!(?i:{JOINS}|sqrt|frac)\b)"
_OPERAND = re.compile(
    rf"(?P<number>\d+(?:[.,]\d+)*(?: [hsmglt]\b)?(?:[ /-]{_A_NAME}[^\W\d_]{{2,}}\b)*)"
    rf"|(?<![^\W\d]){_A_NAME}(?P<name>[^\W\d]+)"
)
_BESIDE = re.compile(r"(?:[^\w=<>≤≥≠≈,;:?\n]|sqrt\b|frac\b)*")
_NEAR = 16
"""So many characters, of brackets and signs, may stand between an operand and its sign."""


class Operands:
    """The operands of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        found = list(_OPERAND.finditer(text))
        self._starts = [match.start() for match in found]
        self._ends = [match.end() for match in found]
        self._kinds = [_kind(match) for match in found]

    def beside(self, start: int, end: int) -> tuple[Kind, Kind]:
        """The operands directly before and behind a sign, by their kinds; nothing where there is none."""
        before, behind = bisect_right(self._ends, start) - 1, bisect_left(self._starts, end)
        left: Kind = self._kinds[before] if before >= 0 and self._touch(self._ends[before], start) else ""
        right: Kind = (
            self._kinds[behind] if behind < len(self._kinds) and self._touch(end, self._starts[behind]) else ""
        )
        return left, right

    def _touch(self, start: int, end: int) -> bool:
        return end - start <= _NEAR and _BESIDE.fullmatch(self._text, start, end) is not None


def _kind(match: re.Match[str]) -> Kind:
    if match["number"]:
        return "number"
    return "letter" if len(match["name"]) == 1 else "word"
