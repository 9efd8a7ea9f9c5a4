"""A draft's output matrix cut to its frequent tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors import short_head
from actors.checkpoint import EMBEDDING, HEAD
from actors.errors import ConfigError, WeightsError
from actors.models import is_cached, resolve
from deployments.config import load_profile, validate_config


@pytest.fixture(autouse=True)
def _few_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKAHEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(short_head, "NUM_KEPT", 6)


def model(folder: Path, *, tied: bool, added: tuple[int, ...] = (10,), architecture: str = "Qwen2ForCausalLM") -> Path:
    """A model of 12 tokens, of which those from 10 on are marks."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {EMBEDDING: torch.arange(48.0).view(12, 4), "model.norm.weight": torch.ones(4)}
    if not tied:
        tensors[HEAD] = torch.arange(48, dtype=torch.int8).view(12, 4)
        tensors[short_head.HEAD_SCALE] = torch.arange(12.0).view(12, 1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": [architecture], "vocab_size": 12, "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": token} for token in added]}))
    return folder


def made_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors.torch import load_file

    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def test_first_tokens_and_marks_are_kept_with_their_scales(tmp_path: Path) -> None:
    config, tensors = made_of(short_head.shorten(model(tmp_path / "m", tied=False), tmp_path / "out"))
    assert config["short_head"] == {"first": 6, "last": 2}
    assert config["architectures"] == ["ShortHeadQwen2ForCausalLM"]
    assert tensors[HEAD][:, 0].tolist() == [0, 4, 8, 12, 16, 20, 40, 44]
    assert tensors[short_head.HEAD_SCALE][:, 0].tolist() == [0, 1, 2, 3, 4, 5, 10, 11]
    assert tensors[EMBEDDING].shape == (12, 4)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_tied_matrix_is_written_out(tmp_path: Path) -> None:
    config, tensors = made_of(short_head.shorten(model(tmp_path / "m", tied=True), tmp_path / "out"))
    assert config["tie_word_embeddings"] is False
    assert tensors[HEAD].shape == (8, 4)
    assert tensors[EMBEDDING].shape == (12, 4)


def test_marks_among_the_first_tokens_need_no_rows_behind(tmp_path: Path) -> None:
    config, tensors = made_of(short_head.shorten(model(tmp_path / "m", tied=False, added=(0, 2)), tmp_path / "out"))
    assert config["short_head"] == {"first": 6, "last": 0}
    assert tensors[HEAD].shape == (6, 4)


def test_what_cannot_be_shortened_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="of PhiForCausalLM"):
        short_head.shorten(model(tmp_path / "phi", tied=False, architecture="PhiForCausalLM"), tmp_path / "out")
    monkeypatch.setattr(short_head, "NUM_KEPT", 12)
    with pytest.raises(WeightsError, match="12 tokens only"):
        short_head.shorten(model(tmp_path / "small", tied=False), tmp_path / "out")


def test_the_prefix_makes_it_once(tmp_path: Path) -> None:
    name = f"short:{model(tmp_path / 'm', tied=False)}"
    assert not is_cached(name)
    made = resolve(name)
    assert is_cached(name)
    assert resolve(name) == made
    assert "short" in made.name


@pytest.mark.parametrize("role", ["target", "judge"])
def test_who_has_to_write_every_token_takes_none(role: str) -> None:
    data = load_profile("local").model_dump()
    if role == "target":
        data["target"]["model"] = "short:ORG/NAME"
    else:
        data["verifier"]["judge"] = {"model": "short:ORG/NAME"}
    with pytest.raises(ConfigError, match=rf"{role}\.model: short: is for drafts"):
        validate_config(data, "test")
