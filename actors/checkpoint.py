"""A model's folder as a conversion sees it: what is read of it, and the folder that is written in its place.

Enters: a folder of ``config.json``, tokenizer files and weights in any number of ``.safetensors`` files. Leaves: a
folder with all files of the other one but its weights, which are in one ``model.safetensors``, and with the
configuration that it is given. Never: a change to the folder that is read, or an error of safetensors' own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.errors import WeightsError
from actors.weights_cache import Progress, require_space

HEAD = "lm_head.weight"
"""The output matrix; a model whose two are tied has the embedding only."""
EMBEDDING = "model.embed_tokens.weight"


def read_config(folder: Path) -> dict[str, Any]:
    """Its ``config.json``."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def num_bytes(folder: Path) -> int:
    """The size of its weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def read_tensors(folder: Path, progress: Progress) -> Iterator[tuple[str, Any]]:
    """Its tensors by name, one at a time, so that only what is made of them has to fit into memory; `progress` hears
    of each file. Raises WeightsError where there are none, or where a file is broken."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder} has no .safetensors files.")
    for index, file in enumerate(files):
        progress("convert", index, len(files))
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - no mapping
                    yield name, opened.get_tensor(name)
        except SafetensorError as error:
            raise WeightsError(
                f"{file.name} in {folder} cannot be read ({error}); it may not be whole: copy or fetch it again."
            ) from error


def write(source: Path, out: Path, config: dict[str, Any], tensors: dict[str, Any], progress: Progress) -> Path:
    """The folder `out`, which is replaced: `config`, `tensors`, and the other files of the folder `source`. Raises
    WeightsError where the disk has no room for it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and not path.name.startswith((".", "model.safetensors")):
            shutil.copy(path, out)
    require_space(out, sum(tensor.nbytes for tensor in tensors.values()))
    try:
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise WeightsError(
            f"The weights cannot be written to {out} ({error}); free some space there, or set LOOKAHEAD_CACHE to "
            "another folder."
        ) from error
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    progress("convert", 1, 1)
    return out
