"""The bound on characters refuses nothing that would fit, whatever the tokenizer does with them."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from actors.engines.token_chars import COMPOSED_CHARS, TokenChars
from tests.unit.test_tokenizer import ByteTokenizer


def of_bytes(
    normalizer: normalizers.Normalizer | None = None, before: pre_tokenizers.PreTokenizer | None = None, **added: bool
) -> Tokenizer:
    """A token a byte, and ``<end>``; `before` is a pre-tokenizer that comes first."""
    tokenizer = ByteTokenizer().backend_tokenizer
    tokenizer.add_special_tokens([AddedToken("<end>", special=True, **added)])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if before is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([before, tokenizer.pre_tokenizer])
    return tokenizer


def with_fallback() -> Tokenizer:
    """As sentencepiece writes: words begin with a mark, a character without a token is its bytes."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab"]
    vocabulary = {word: at for at, word in enumerate(words)}
    merges = [("▁", "a"), ("a", "b")]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def unigram(byte_fallback: bool) -> Tokenizer:
    words = ["<unk>", "a", "ab", "▁", *(f"<0x{byte:02X}>" for byte in range(256) if byte_fallback)]
    tokenizer = Tokenizer(models.Unigram([(word, -1.0) for word in words], 0, byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def cut(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.enable_truncation(5)
    return tokenizer


KNOWN = {
    "bytes": (of_bytes(), TokenChars(5, 5)),
    "bytes, composed": (of_bytes(normalizers.NFC()), TokenChars(5, 20)),
    "bytes, composed and lower": (
        of_bytes(normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])),
        TokenChars(20, 20),
    ),
    "bytes, cut before": (of_bytes(before=pre_tokenizers.Split(Regex(r"\d"), "isolated")), TokenChars(5, 5)),
    "fallback": (with_fallback(), TokenChars(6, 6)),
    "unigram": (unigram(byte_fallback=True), TokenChars(6, 6)),
}
SPACES = 100 * " "
HUNGRY = {
    "spaces before a token": (of_bytes(lstrip=True), SPACES + "<end>"),
    "spaces behind a token": (of_bytes(rstrip=True), "<end>" + SPACES),
    "stripped": (of_bytes(normalizers.Strip()), SPACES + "a"),
    "spaces made one": (of_bytes(normalizers.Replace(Regex(" +"), " ")), SPACES),
    "shorter words": (of_bytes(normalizers.Replace(100 * "a", "b")), 100 * "a"),
    "without accents": (
        of_bytes(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
        "a" + 100 * "\u0301",
    ),
    "no spaces": (of_bytes(before=pre_tokenizers.WhitespaceSplit()), SPACES + "a"),
    "cut out": (of_bytes(before=pre_tokenizers.Split(" ", "removed")), SPACES + "a"),
    "cut off": (cut(of_bytes()), SPACES),
    "unknown ones joined": (
        Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", fuse_unk=True)),
        100 * "b",
    ),
    "unknown ones dropped": (Tokenizer(models.BPE({"a": 0}, [])), 100 * "b" + "a"),
    "whole words": (Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>")), 100 * "b"),
    "pieces of words": (Tokenizer(models.WordPiece({"[UNK]": 0, "b": 1, "##b": 2})), 101 * "b"),
    "unigram": (unigram(byte_fallback=False), 100 * "b"),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_where_every_character_counts_the_longest_token_is_the_bound(kind: str) -> None:
    tokenizer, expected = KNOWN[kind]
    assert TokenChars.of(tokenizer) == expected


@pytest.mark.parametrize("kind", KNOWN)
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab e\u0301\u1100\u1161\u11a8<n\u0345\u0300d>"))
def test_no_text_has_fewer_tokens(kind: str, text: str) -> None:
    tokenizer, bound = KNOWN[kind]
    assert len(tokenizer.encode(text, add_special_tokens=False)) >= bound.fewest_tokens(text)


@pytest.mark.parametrize("kind", HUNGRY)
def test_where_a_token_may_stand_for_any_number_of_characters_there_is_no_bound(kind: str) -> None:
    tokenizer, text = HUNGRY[kind]
    assert len(tokenizer.encode(text, add_special_tokens=False)) <= 5, "the text shows what its kind says"
    assert TokenChars.of(tokenizer).fewest_tokens(text) == 0


def test_no_character_is_composed_of_more() -> None:
    every = (chr(code) for code in range(sys.maxunicode + 1))
    assert max(len(unicodedata.normalize("NFD", character)) for character in every) == COMPOSED_CHARS
