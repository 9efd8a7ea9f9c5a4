"""Letters: the names of quantities, points and choices in a text.

Promises: time that grows with the text; case is kept. Letters that stand alone and pairs of capitals ("AB") are read,
Greek ones by their commands too. Not read: "a", "A" and "I" where they are words, and letters of short forms ("p.m.",
"it's") and of numbers ("3 x 4", "1e5").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from actors.verifiers.normal_form import normal_form
from actors.verifiers.signs import GREEK, UNWRAPPED

_COMMAND = re.compile(rf"\\(?:var)?({GREEK}|{GREEK.title()})(?![a-zA-Z])|\b([Pp]i)\b")
_UNWRAPPED = re.compile(UNWRAPPED)
_BESIDE_GREEK = re.compile("(?<=[a-zA-Z])(?=[α-ω])|(?<=[α-ω])(?=[a-zA-Z])")  # "πr" is two letters  # noqa: RUF001
_MARKUP = re.compile(r"\\[,;:! ()\[\]]|\\[a-zA-Z]+")
_SHORT = re.compile(
    r"\b(?:[A-Za-z]\.){2,}|(?<=[^\W\d_])['’][A-Za-z]\b"  # noqa: RUF001
    r"|(?<=\d)\s{0,4}x\s{0,4}(?=[$€£]?\d)|(?<=\d)[eE](?=[+-]?\d)|(?<![\w.])0[xX][0-9a-fA-F]+"
)

# "a" is a word where a word, a number, a formula or a quotation follows it behind a blank, but no word that follows a
# name. A capital one is a word only where a sentence begins: elsewhere it is a name ("option A is").
_BEHIND_NAME = (
    "is|has|was|and|or|in|if|else|not|to|by|from|for|of|gives|gets|will|can|does|equals|times|plus|minus|divided"
)
_A_WORD = rf"(?=[ \t]+[*_\"'“‘]{{0,3}}[\w$\\(])(?![ \t]+(?:\\(?!text|[(\[])|(?:{_BEHIND_NAME})\b))"  # noqa: RUF001
_WORD = re.compile(
    rf"(?<![\w\\.])a{_A_WORD}|(?:\A|(?<=\n)|(?<=[.!?:*]\s)|(?<=\*\*))A{_A_WORD}|(?<!\w)I(?=[ \t]+[^\W\d_]{{2}}|['’])"  # noqa: RUF001
)
# Behind a number and a blank a letter may be a unit, and in a rate ("5m/s"); an x before a number may be a sign ("3
# bags x 4"); before a hyphen and a word a letter is a part of one ("T-shirt").
_LETTER = re.compile(
    r"(?P<unit>(?<=\d\s)(?=(?:[hsmgltLNVWJKCF]|[AP]M)(?!\w))|(?<=\d)(?=(?:[mgl]/[hsml]|[AP]M)(?!\w))"
    r"|(?<=[\dmglit]/)(?=[hsml](?!\w))|(?<=\s)(?=x\s+[$€£]?\.?\d))?"
    r"(?<![^\W\d_])(?P<name>[A-Z]{2}|[^\W\d_])(?![^\W\d_])(?P<part>-(?=[^\W\d_]{2}))?"
)


class Letters(NamedTuple):
    """The letters of a text in its order, those that are certainly names, and the last one of these."""

    found: Sequence[str]
    sure: frozenset[str]
    last: str | None


def letters(text: str) -> Letters:
    """The letters of `text`."""
    text = _COMMAND.sub(lambda name: f" {_greek(name[1] or name[2].lower())} ", normal_form("NFKC", text).strip())
    text = _BESIDE_GREEK.sub(" ", _UNWRAPPED.sub(r" \1 ", text))
    for pattern in (_WORD, _MARKUP, _SHORT):
        text = pattern.sub(" ", text)
    found = list(_LETTER.finditer(text))
    names = [match["name"] for match in found if match["unit"] is None and match["part"] is None]
    return Letters([match["name"] for match in found], frozenset(names), names[-1] if names else None)


def _greek(name: str) -> str:
    case = "SMALL" if name.islower() else "CAPITAL"
    return unicodedata.lookup(f"GREEK {case} LETTER {name.upper().replace('LAMBDA', 'LAMDA')}")
