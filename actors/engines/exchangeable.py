"""Which tokens one may stand for another in a text that means the same: words and plain punctuation. Pure.

Promises: never exchangeable are tokens with a digit, with a sign of mathematics or code, a number in words, a negation,
a direction, a unit or an operation in words (`actors.verifiers.polarity`), a letter alone, and what is no text: special
tokens, the end of the text, pieces of characters. Where a token can be read in two ways it is not exchangeable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from actors.verifiers.numbers import names_quantity
from actors.verifiers.polarity import has_polarity

MARKS = frozenset(",.:;!?'\"")


def fixed_tokens(texts: Mapping[int, str], special: Iterable[int]) -> tuple[int, ...]:
    """The ids among `texts` that must be the model's own choice, and all that are `special`."""
    return tuple(sorted({token for token, text in texts.items() if not _is_exchangeable(text)} | set(special)))


def _is_exchangeable(text: str) -> bool:
    word = text.strip()
    if not word or word in MARKS:
        return bool(text)
    return len(word) > 1 and word.isalpha() and not (names_quantity(word) or has_polarity(word))
