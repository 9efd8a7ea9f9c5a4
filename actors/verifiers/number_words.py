"""Number words: the English words for numbers, one table for all that read them.

Promises: whole numbers below a hundred have a value; words that scale or divide ("million", "half", "fifth") have a
name only. ``one`` has a value, but `CARDINAL` does not read it alone: it is a pronoun more often than a number.
"""

from __future__ import annotations

import re

_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
VALUES = {"zero": 0} | {word: value for value, word in enumerate(_UNITS + _TEENS, start=1)}
VALUES |= {word: value for value, word in zip(range(20, 100, 10), _TENS, strict=True)}
"""The values of the words that are one word."""
SCALES = ["hundred", "thousand", "million", "billion", "trillion"]
_ORDINALS = ["fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]
_ORDINALS += [f"{word}th" for word in _TEENS[3:] + SCALES] + [f"{word[:-1]}ieth" for word in _TENS]
SCALES += ["dozen", "half", "third", "quarter", "twice", "thrice", "double", "triple", *_ORDINALS]
"""Words that are quantities of their own."""
TWO_DIGITS = rf"(?P<tens>{'|'.join(_TENS)})[-\s](?P<ones>{'|'.join(_UNITS)})"
"""The pattern of a word such as "twenty-one"."""
CARDINAL = rf"(?:{TWO_DIGITS}|(?P<value>{'|'.join(word for word in VALUES if word != 'one')}))"
"""The pattern of a number's words; its match is read by `cardinal`."""


def cardinal(match: re.Match[str]) -> int:
    """The value of a match that has the groups of `CARDINAL`."""
    if tens := match["tens"]:
        return VALUES[tens.lower()] + VALUES[match["ones"].lower()]
    return VALUES[match["value"].lower()]
