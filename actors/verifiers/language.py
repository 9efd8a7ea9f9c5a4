"""Other languages: whether two texts differ in words that are not English, which no check of words here reads.

Promises: time that grows with the text; texts of the same words pass in every language; formulas, lines of programs and
a few English words are not taken for another language. A text is in another language by letters that are neither Latin
nor of formulas, by more words of a common other language than of English, or by several words with none of English.
"""

from __future__ import annotations

import re
import unicodedata

from actors.verifiers.normal_form import normal_form

_ENGLISH = """
the and of to for is are was were be been has have had with from by at or if then than that this these those there they
them their she her his its it we our you your who which what when where how why each every both any some many much more
less most least other another all not into out after before because since therefore thus hence now only just still also
can could would should will must may let means give gives get gets left per equal equals total number cost price answer
result step first second next last find need needs know add adds subtract multiply divide calculate compute solve given
sum difference product remaining one two three four five six seven eight nine ten
import return def class public static void const int print select install
"""
"""Words that stand in most English steps, and those of programs."""

_OTHER = """
das des dem ein eine einen einer ist sind nicht kein keine und oder auf mit für wir sie wenn dann wird werden daher
somit les une est sont pas nous vous donc dans avec que qui alors nombre elle ils
el los las una es por entonces tiene para pero il gli che sono della quindi perché allora ogni uma dos tem ele
het een niet zijn voor wordt dus geen ett och inte og ikke er som til eller jest nie oraz lub liczba bir ve
adalah yang tidak bukan dengan untuk jumlah ei joten luku egy nem hogy este sunt
"""
"""Words that stand in most steps of another language, and seldom in English ones."""

_ENGLISH_WORDS, _OTHER_WORDS = frozenset(_ENGLISH.split()), frozenset(_OTHER.split())
MIN_WORDS = 6
"""So many words without an English one are another language."""

_MARKS = ".,;:!?()*…¿¡«»“”„"
_ACCENTED = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")
_GREEK_WORD = re.compile("[\u0370-\u03ff\u1f00-\u1fff]{3,}")
_LAST_LATIN = "\u036f"
"""Letters up to it are Latin, with marks that stand above them."""


def find_unread(one: str, other: str) -> str | None:
    """How two texts differ in another language, in words, or None if they do not. Symmetric."""
    one, other = normal_form("NFKC", one), normal_form("NFKC", other)
    if _other_letters(one) != _other_letters(other):
        return "the steps differ in letters of another language, which this check does not read"
    ours, theirs = _words(one), _words(other)
    if ours != theirs and (_is_foreign(ours) or _is_foreign(theirs)):
        return "the steps differ in words of another language, which this check does not read"
    return None


def _other_letters(text: str) -> list[str]:
    """The letters, and the marks on them, that are not Latin; of Greek ones whole words, since formulas have others."""
    letters = [c for c in text if c > _LAST_LATIN and unicodedata.category(c)[0] in "LM" and not _is_known(c)]
    return _GREEK_WORD.findall(text) + letters


def _is_known(letter: str) -> bool:
    return "\u0370" <= letter <= "\u03ff" or "\u1e00" <= letter <= "\u1fff"


def _words(text: str) -> list[str]:
    """The words of a text's sentences: not those that touch the signs of a program or a formula."""
    tokens = (token.strip(_MARKS) for token in text.lower().replace("’", "'").split())  # noqa: RUF001
    parts = (part for token in tokens if token.replace("'", "").isalpha() for part in token.split("'"))
    return [part for part in parts if len(part) > 1]


def _is_foreign(words: list[str]) -> bool:
    num_english = sum(word in _ENGLISH_WORDS for word in words)
    num_other = sum(word in _OTHER_WORDS or _ACCENTED.search(word) is not None for word in words)
    return num_other > num_english or (not num_english and len(words) >= MIN_WORDS)
