"""A model folder becomes an int8 one: weights of one scale a row, activations of one scale a token, found as it runs.

Promises: round to nearest, nothing is trained or calibrated; embeddings, norms and biases stay as they are; the output
matrix is quantised too (a tied one is written out for that), since on a CPU it is a fifth of the work; two weights that
processors without VNNI add up in 16 bits never overflow there (`overflows`); the result is a `compressed-tensors`
checkpoint (``int-quantized``) that vLLM loads on CPUs and GPUs.

Why: a CPU without bf16 instructions multiplies bf16 matrices by emulation, so that two sequences cost it three times as
much as one; int8 has instructions on all of them, and a batch costs as much as a single sequence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors import checkpoint
from actors.checkpoint import EMBEDDING, HEAD
from actors.errors import WeightsError
from actors.weights_cache import Progress, silent

VERSION = "2"
"""Part of the identity of what is in the cache; changes with anything that changes the weights."""
LARGEST = 127.0
LARGEST_PAIR = 128
"""255 * 128 is the most that 16 bits hold of activations in 8 bits times two weights that are added up."""
ROWS_AT_ONCE = 4096
"""An output matrix in 16 bits would be half a gigabyte."""


def quantise(source: Path, out: Path, progress: Progress = silent) -> Path:
    """The folder `source` (safetensors) in int8 as the folder `out`, which is replaced. Raises WeightsError."""
    config = checkpoint.read_config(source)
    if "quantization_config" in config:
        raise WeightsError(f"{source} is quantised already; int8: is for models in full precision.")
    tensors: dict[str, Any] = {}
    for name, tensor in checkpoint.read_tensors(source, progress):
        if name.endswith("_proj.weight") or name == HEAD:
            tensors |= _in_int8(name, tensor)
        else:
            tensors[name] = tensor
    if HEAD not in tensors and config.get("tie_word_embeddings") and EMBEDDING in tensors:
        tensors |= _in_int8(HEAD, tensors[EMBEDDING])
        config["tie_word_embeddings"] = False
    config["quantization_config"] = _scheme()
    return checkpoint.write(source, out, config, tensors, progress)


def overflows(weight: Any) -> bool:
    """Whether two neighbours in a row of `weight` (rows, columns; int8) are together more than 16 bits can hold of them
    times an activation. x86 processors multiply and add such pairs in one instruction (``vpmaddubsw``) where they have
    no VNNI, and cut off what is beyond."""
    return any(bool((_pairs(rows.short()).abs() > LARGEST_PAIR).any()) for rows in weight.split(ROWS_AT_ONCE))


def _pairs(weight: Any) -> Any:
    """The sums of the columns 0 and 1, 2 and 3, ... of `weight`; a last one without a neighbour is left out."""
    last = weight.shape[1] // 2 * 2
    return weight[:, 0:last:2] + weight[:, 1:last:2]


def _largest(rows: Any) -> Any:
    """The largest value of each of `rows`, (rows, 1), without its sign."""
    return rows.abs().amax(dim=1, keepdim=True)


def _in_int8(name: str, weight: Any) -> dict[str, Any]:
    """`weight` (rows, columns) as int8 and its scale (rows, 1) in float32."""
    import torch

    values = weight.float()
    largest = torch.maximum(_largest(values), _largest(_pairs(values)))
    scale = largest.clamp(min=1e-8) / LARGEST  # rounding adds at most one to the sum of two
    quantised = (values / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return {name: quantised, f"{name}_scale": scale}


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
