"""A model folder becomes an int8 one: weights of one scale a row, activations of one scale a token, found as it runs.

Promises: round to nearest, nothing is trained or calibrated; embeddings, norms and biases stay as they are; the output
matrix is quantised too (a tied one is written out for that), since on a CPU it is a fifth of the work; the result is a
`compressed-tensors` checkpoint (``int-quantized``) that vLLM loads on CPUs and GPUs.

Why: a CPU without bf16 instructions multiplies bf16 matrices by emulation, so that two sequences cost it three times as
much as one; int8 has instructions on all of them, and a batch costs as much as a single sequence.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.errors import WeightsError
from actors.weights_cache import Progress, silent

VERSION = "1"
"""Part of the identity of what is in the cache; changes with anything that changes the weights."""
LARGEST = 127.0
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def quantise(source: Path, out: Path, progress: Progress = silent) -> Path:
    """The folder `source` (safetensors) in int8 as the folder `out`, which is replaced. Raises WeightsError."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        raise WeightsError(f"{source} is quantised already; int8: is for models in full precision.")
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{source} has no .safetensors files to quantise.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and not path.name.startswith((".", "model.safetensors")):
            shutil.copy(path, out)
    tensors: dict[str, Any] = {}
    for index, file in enumerate(files):
        progress("convert", index, len(files))
        for name, tensor in _tensors(file):
            if name.endswith("_proj.weight") or name == HEAD:
                tensors |= _in_int8(name, tensor)
            else:
                tensors[name] = tensor
    if HEAD not in tensors and config.get("tie_word_embeddings") and EMBEDDING in tensors:
        tensors |= _in_int8(HEAD, tensors[EMBEDDING])
        config["tie_word_embeddings"] = False
    _save(tensors, out)
    config["quantization_config"] = _scheme()
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    progress("convert", len(files), len(files))
    return out


def _tensors(file: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - no mapping
            yield name, opened.get_tensor(name)


def _in_int8(name: str, weight: Any) -> dict[str, Any]:
    """`weight` (rows, columns) as int8 and its scale (rows, 1) in float32."""
    import torch

    values = weight.float()
    scale = values.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / LARGEST
    quantised = (values / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return {name: quantised, f"{name}_scale": scale}


def _save(tensors: dict[str, Any], out: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def _scheme() -> dict[str, Any]:
    """What `compressed-tensors` needs to know to read the weights."""
    common = {"num_bits": 8, "type": "int", "symmetric": True, "group_size": None, "block_structure": None}
    group = {
        "targets": ["Linear", "re:.*lm_head"],
        "weights": {**common, "strategy": "channel", "dynamic": False, "observer": "minmax"},
        "input_activations": {**common, "strategy": "token", "dynamic": True, "observer": None},
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "ignore": [],
        "config_groups": {"group_0": group},
    }
