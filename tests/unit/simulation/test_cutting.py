"""Texts in pieces: by the served model's tokenizer where it is here, else at words and signs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from actors import models
from deployments.simulation import cutting
from deployments.simulation.cutting import cut_as_served, cut_at_words
from tests.unit.simulation.test_validation import config

TEXT = "Ada has 12 apples, of which she gives 5 to Ben.\n"


def served(model: str) -> Any:
    one = config()
    return one.model_copy(update={"target": one.target.model_copy(update={"model": model})})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up model that is on this machine."""
    monkeypatch.setenv("LOOKAHEAD_CACHE", str(tmp_path))
    return models.resolve("dummy:tiny")


def test_the_tokenizer_of_the_target_cuts(folder: Path) -> None:
    cut = cut_as_served(served("dummy:tiny"))
    assert cut is not None
    tokenizer = Tokenizer.from_file(str(folder / cutting.TOKENIZER))
    num_tokens = len(tokenizer.encode(TEXT, add_special_tokens=False).ids)
    assert cut(TEXT, num_tokens) == cut(TEXT, None)
    assert "".join(cut(TEXT, None)) == TEXT
    assert len(cut(TEXT, None)) == num_tokens != len(cut_at_words(TEXT, None))


def test_what_was_written_in_other_tokens_is_cut_at_words(folder: Path) -> None:
    cut = cut_as_served(served("dummy:tiny"))
    assert cut is not None
    assert cut(TEXT, 7) == cut_at_words(TEXT, 7)
    assert len(cut(TEXT, 7)) == 7


def test_a_model_that_is_not_here_has_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKAHEAD_CACHE", str(tmp_path))
    assert cut_as_served(served("package:qwen2.5-coder-1.5b-instruct")) is None
    assert cut_as_served(served(str(tmp_path))) is None
    assert cut_as_served(served("package:nobody-knows")) is None
