"""Modifiers: what is said of a number by the words beside it, where another word would make another quantity of it.

Promises: time that grows with the text. "5 each" is not "5 in total", "3 more" not "3 times as many", "by 5" not "to
5". Texts contradict each other where they say different things of the same number; to say nothing of it contradicts
nothing. The text is as `signs.plain` writes it, and a number counts by its value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

_NUMBER = r"(?P<number>\d[\d,]*(?:\.\d+)?)"
_BEHIND: Mapping[str, str] = {
    "each": "each|apiece|per person",
    "total": "in total|in all|altogether|total|combined",
    "times": "times (?:as|more|less|fewer|the|larger|bigger|greater|longer|older|faster)",
    "more": "more|greater|larger|additional|extra",
    "less": "less|fewer|smaller",
    "am": r"a\.m|am",
    "pm": r"p\.m|pm",
    "to": "to",
    "from": "from",
}
_BEFORE: Mapping[str, str] = {"by": "by", "up to": "to"}
_GROUPS = ({"each", "total"}, {"times", "more", "less"}, {"am", "pm"}, {"to", "from"}, {"by", "up to"})
"""Modifiers that exclude each other."""

_SAID_BEHIND = re.compile(
    rf"(?<![\w.,]){_NUMBER}(?![\d.])(?= ?(?:(?!(?:and|or|is|are)\b)[a-z]+ ){{0,2}}?(?:"
    + "|".join(f"(?P<m{index}>{words})" for index, words in enumerate(_BEHIND.values()))
    + r")\b)",
    re.IGNORECASE,
)
_SAID_BEFORE = re.compile(rf"\b(?:(?P<m0>by)|(?P<m1>to)) [$€£]?{_NUMBER}\b", re.IGNORECASE)


def find_other_modifiers(one: str, other: str) -> str | None:
    """How the two texts speak of the same number in different ways, or None if they do not."""
    ours, theirs = _modifiers(one), _modifiers(other)
    for number in ours.keys() & theirs.keys():
        for group in _GROUPS:
            our_words, their_words = ours[number] & group, theirs[number] & group
            if our_words and their_words and our_words.isdisjoint(their_words):
                return f"{number} {'/'.join(sorted(our_words))} against {number} {'/'.join(sorted(their_words))}"
    return None


def _modifiers(text: str) -> dict[Decimal, set[str]]:
    """For each number of `text`, by its value, what its words say of it."""
    found: dict[Decimal, set[str]] = {}
    for pattern, names in ((_SAID_BEHIND, tuple(_BEHIND)), (_SAID_BEFORE, tuple(_BEFORE))):
        for match in pattern.finditer(text):
            index = next(index for index in range(len(names)) if match[f"m{index}"] is not None)
            found.setdefault(Decimal(match["number"].replace(",", "")), set()).add(names[index])
    return found
