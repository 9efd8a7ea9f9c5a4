"""How many characters of a text one token can stand for, at most: what has more of them is known to be too long before
it is encoded.

Promises: a text has at least as many tokens as `TokenChars.fewest_tokens` says, whatever it is. Where a tokenizer may
drop characters or make one token of any number of them, or has a part that is not known here, it says none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

COMPOSING = {"NFC", "NFKC"}
COMPOSED_CHARS = 4
"""No character is composed of more (Unicode's longest canonical decomposition)."""
SAME_OR_MORE = {"NFD", "NFKD", "Lowercase", "Prepend", "ByteLevel"}
"""Normalizers that make no text shorter."""
KEEPING = {"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"}
"""Pre-tokenizers that drop nothing."""
CUTTING = {"Split", "Punctuation"}
"""Pre-tokenizers that drop nothing, unless they are to remove what they cut at."""


@dataclass(frozen=True, slots=True)
class TokenChars:
    """Characters that a token can stand for; None: any number of them."""

    ascii: int | None
    """In a text that is all ASCII, of which nothing is composed."""
    other: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenChars:
        """Of any text that `tokenizer` encodes."""
        parts, vocabulary = json.loads(tokenizer.to_str()), tokenizer.get_vocab()
        normalizer, added = parts["normalizer"], parts["added_tokens"]
        num_composed = _num_composed(normalizer)
        if (
            num_composed is None
            or parts["truncation"] is not None
            or any(token["lstrip"] or token["rstrip"] for token in added)  # such a one takes the spaces beside it
            or not _keeps_all(parts["pre_tokenizer"])
            or not _knows_all(parts, vocabulary)
        ):
            return cls(None, None)
        texts = [*vocabulary, *(_normalized(tokenizer, token["content"]) for token in added)]
        # A token of bytes is written with a letter for each, so its length is that of its text or more.
        longest = max(map(len, texts))
        is_composed_only = normalizer is not None and normalizer["type"] in COMPOSING
        return cls(longest if is_composed_only else longest * num_composed, longest * num_composed)

    def fewest_tokens(self, text: str) -> int:
        """`text` has so many tokens or more."""
        most = self.ascii if text.isascii() else self.other
        return 0 if most is None else -(-len(text) // most)


def _num_composed(normalizer: Mapping[str, Any] | None) -> int | None:
    """So many characters may become one; None: any number may be left out."""
    match normalizer:
        case None:
            return 1
        case {"type": "Sequence", "normalizers": [*several]}:
            numbers = [_num_composed(each) for each in several]
            known = [number for number in numbers if number is not None]
            return math.prod(known) if len(known) == len(numbers) else None
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if len(new) >= len(old):
            return 1
        case {"type": kind} if kind in COMPOSING:
            return COMPOSED_CHARS
        case {"type": kind} if kind in SAME_OR_MORE:
            return 1
        case _:
            return None


def _keeps_all(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    match pre_tokenizer:
        case None:
            return True
        case {"type": "Sequence", "pretokenizers": [*several]}:
            return all(map(_keeps_all, several))
        case {"type": kind, "behavior": behavior} if kind in CUTTING:
            return bool(behavior != "Removed")
        case {"type": kind}:
            return kind in KEEPING
        case _:
            return False


def _knows_all(parts: Mapping[str, Any], vocabulary: Mapping[str, int]) -> bool:
    """Whether every character has tokens of its own: one that has none is left out, or is one with its neighbours."""
    model = parts["model"]
    if model.get("byte_fallback") and model["type"] in ("BPE", "Unigram"):
        return all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    is_of_bytes = model["type"] == "BPE" and not affixes and _has_bytes(parts)
    return is_of_bytes and vocabulary.keys() >= set(ByteLevel.alphabet())


def _has_bytes(parts: Mapping[str, Any]) -> bool:
    several = [parts["pre_tokenizer"] or {}, parts["normalizer"] or {}]
    several += [each for part in several for kind in ("pretokenizers", "normalizers") for each in part.get(kind, ())]
    return any(part.get("type") == "ByteLevel" for part in several)


def _normalized(tokenizer: Tokenizer, text: str) -> str:
    normalizer = tokenizer.normalizer
    return text if normalizer is None else max(text, normalizer.normalize_str(text), key=len)
