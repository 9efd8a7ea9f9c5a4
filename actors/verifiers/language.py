"""Other languages: whether two texts differ in words that are not English, which no check of words here reads.

Promises: time that grows with the text; texts of the same words pass in every language; formulas, lines of programs and
a few English words are not taken for another language. A text is in another language by letters that are neither Latin
nor of formulas, by more words of a common other language than of English alone, or by several words with none of
English. It is a filter and no guarantee: a few words of another language without one that it knows pass for English.
"""

from __future__ import annotations

import re
import unicodedata

from actors.verifiers.normal_form import normal_form

_ENGLISH = """
the and to for are were be been has have had with from if then than that this these those there they
them their she his its it our you your who which what when where how why each every both any some many much more
less least other another all not into out after before because since therefore thus hence now only just still
can could would should may let means gives get gets left equal equals total number cost price answer
result step first second next last find need needs know add adds subtract multiply divide calculate compute solve given
sum difference product remaining one two three four five six seven eight nine ten
does dollars hours days week miles today found
import return def class public static void const int print select install
"""
"""Words that stand in most English steps, and those of programs."""

_ALIKE = """
also is was we or of per will her so an in on as at by he do must most give
"""
"""English words that other languages have as well, as German "also" and "was", Dutch "is" and "we", French "or": they
do not outweigh words of another language."""

_OTHER = """
das des dem ein eine einen einer ist sind nicht kein keine und oder auf mit für wir sie wenn dann wird werden daher
somit les une est sont pas nous vous donc dans avec que qui alors nombre elle ils
el los las una es por ahora entonces tiene para pero il gli che sono della quindi perché allora ogni uma dos tem ele
het een niet zijn voor wordt dus geen en op ett och inte og ikke er som til eller jest nie oraz lub liczba bir ve
adalah yang tidak bukan dengan untuk jumlah ei joten luku egy nem hogy este sunt
"""
"""Words that stand in most steps of another language, and seldom in English ones."""

_ENGLISH_WORDS, _SHARED_WORDS, _OTHER_WORDS = (frozenset(words.split()) for words in (_ENGLISH, _ALIKE, _OTHER))
MIN_WORDS = 6
"""So many words without an English one are another language."""

_MARKS = ".,;:!?()*…¿¡«»“”„"
_PLACE = re.compile(r"\b(?:Los|Las|El) +(?=[A-Z])")
"""The beginning of a name, as in "Los Angeles"; a language that has these words for "the" writes its nouns small."""
_SHORTENED = re.compile(r"(?<=[^\W\d_])'(?:ve|re|ll)\b", re.IGNORECASE)
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
    if (_is_foreign(ours) or _is_foreign(theirs)) and list(map(str.lower, ours)) != list(map(str.lower, theirs)):
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
    tokens = (token.strip(_MARKS) for token in _SHORTENED.sub("", text.replace("’", "'")).split())  # noqa: RUF001
    parts = (part for token in tokens if token.replace("'", "").isalpha() for part in token.split("'"))
    return [part for part in parts if len(part) > 1]


def _is_foreign(words: list[str]) -> bool:
    small = list(map(str.lower, words))
    num_english = sum(word in _ENGLISH_WORDS for word in small)
    # In names ("Los Angeles", "José") neither tells the language of what is said.
    num_other = sum(word in _OTHER_WORDS for word in small) - len(_PLACE.findall(" ".join(words)))
    num_other += sum(_ACCENTED.search(word) is not None and not "A" <= word[0] <= "Z" for word in words)
    is_unknown = not num_english and not any(word in _SHARED_WORDS for word in small)
    return num_other > num_english or (is_unknown and len(words) >= MIN_WORDS)
