"""What a proxy, a cut file and a full disk do to a model: one sentence each, with what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from actors import models
from actors.errors import WeightsError
from actors.models import is_cached, resolve


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKAHEAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "local-model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.ones(64, 64)}, path / "model.safetensors")
    return path


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ProxyError("407 Proxy Authentication Required"),
        httpx2.RemoteProtocolError("the peer closed the connection"),
        RuntimeError("hf_xet: a chunk is not what its hash says"),
        ValueError("hf_xet: a setting is wrong"),
        ConnectionError("hf_xet: nobody there"),
        httpx2.InvalidURL("HF_ENDPOINT: no such port"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_hub_s_client_raises_is_a_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, *, local_files_only: bool = False, **_: object) -> str:
        raise FileNotFoundError if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(WeightsError, match=rf"ORG/NAME .* cannot be fetched \({type(error).__name__}\)"):
        resolve("ORG/NAME")


@pytest.mark.parametrize("name", ["ORG/NAME.git", "ORG/NA--ME", "ORG/" + 100 * "n"])
def test_a_name_that_the_hub_s_client_refuses_is_a_sentence(name: str) -> None:
    assert not is_cached(name)
    with pytest.raises(WeightsError, match="cannot be fetched"):
        resolve(name)


def test_a_cut_file_is_named_with_its_folder(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=rf"model\.safetensors in {folder} cannot be read"):
        resolve(f"int8:{folder}")


def test_a_disk_that_fills_while_weights_are_written_is_named(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(WeightsError, match=rf"cannot be written to {cache}.*No space left.*LOOKAHEAD_CACHE"):
        resolve(f"int8:{folder}")


def test_a_disk_without_room_is_said_before_anything_is_converted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object) -> Path:
        raise AssertionError("it was converted")

    free = shutil.disk_usage(folder)._replace(free=4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with monkeypatch.context() as patch:
        patch.setitem(models._CONVERSIONS, models.INT8, models._CONVERSIONS[models.INT8]._replace(convert=convert))
        with pytest.raises(WeightsError, match="Too little space"):
            resolve(f"int8:{folder}")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=4200))
    with pytest.raises(WeightsError, match="Too little space"):  # 4 kB of weights and their scales
        resolve(f"int8:{folder}")
