"""A model's folder as a conversion sees it: what is read of it, and the folder that is written in its place.

Enters: a folder of ``config.json``, tokenizer files and weights in any number of ``.safetensors`` files. Leaves: a
folder with all files of the other one but its weights, which are in one ``model.safetensors``, and with the
configuration that it is given. Never: a change to the folder that is read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.errors import WeightsError
from actors.weights_cache import Progress

HEAD = "lm_head.weight"
"""The output matrix; a model whose two are tied has the embedding only."""
EMBEDDING = "model.embed_tokens.weight"


def read_config(folder: Path) -> dict[str, Any]:
    """Its ``config.json``."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def read_tensors(folder: Path, progress: Progress) -> Iterator[tuple[str, Any]]:
    """Its tensors by name, one at a time, so that only what is made of them has to fit into memory; `progress` hears
    of each file. Raises WeightsError where there are none."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder} has no .safetensors files.")
    for index, file in enumerate(files):
        progress("convert", index, len(files))
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                yield name, opened.get_tensor(name)


def write(source: Path, out: Path, config: dict[str, Any], tensors: dict[str, Any], progress: Progress) -> Path:
    """The folder `out`, which is replaced: `config`, `tensors`, and the other files of the folder `source`."""
    from safetensors.torch import save_file

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and not path.name.startswith((".", "model.safetensors")):
            shutil.copy(path, out)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    progress("convert", 1, 1)
    return out
