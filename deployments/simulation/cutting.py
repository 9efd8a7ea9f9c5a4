"""A recorded text in as many pieces as it had tokens: with the model's tokenizer, or roughly where tokenizers cut.

Promises: exactly as many pieces as were counted, which together are the text; some may be empty. Where none were
counted, as many as there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.errors import WeightsError
from actors.models import is_cached, resolve

if TYPE_CHECKING:
    from deployments.config import Config

Cut = Callable[[str, int | None], list[str]]
"""A text and how many tokens it had, if they were counted; its pieces."""
TOKENIZER = "tokenizer.json"
WORDS = re.compile(r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]+\n*|\s+(?=\S)|\s+")
"""Roughly where tokenizers of today cut, digits one by one."""


def cut_at_words(text: str, num_tokens: int | None) -> list[str]:
    """Without a tokenizer: at words and signs, and where that makes too many or too few, at others."""
    pieces = WORDS.findall(text) if text else []
    if num_tokens is None:
        return pieces
    while len(pieces) > max(num_tokens, 1):
        at = min(range(len(pieces) - 1), key=lambda i: len(pieces[i]) + len(pieces[i + 1]))
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    while pieces and len(pieces) < num_tokens:
        at = max(range(len(pieces)), key=lambda i: len(pieces[i]))
        half = len(pieces[at]) // 2
        pieces[at : at + 1] = [pieces[at][:half], pieces[at][half:]]
    return pieces if pieces else [""] * num_tokens


def cut_as_served(config: Config) -> Cut | None:
    """By the tokenizer of the target that `config` serves; None where the model is not on this machine or has none."""
    from tokenizers import Tokenizer

    try:
        file = resolve(config.target.model) / TOKENIZER if is_cached(config.target.model) else None
    except WeightsError:
        return None
    if file is None or not file.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(file))

    def cut(text: str, num_tokens: int | None) -> list[str]:
        ends = [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]
        pieces = [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        if "".join(pieces) == text and num_tokens in (None, len(pieces)):
            return pieces
        return cut_at_words(text, num_tokens)  # it was written in other tokens than it would be read in

    return cut
