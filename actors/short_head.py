"""A model folder becomes one that writes the frequent half of its tokens only, in less time for each. For drafts.

Promises: the rows of the output matrix that are kept are the model's own; embeddings, layers and tokenizer stay as they
are, so text in any token is read; a token that is not kept is never written. The vocabulary of a draft stays the
target's: ids are passed on as before.

Why: the output matrix of a small model over a large vocabulary is a third of its work. Byte-pair vocabularies number
their tokens by how frequent they were, so the first ones are what nearly all text is made of. Where the target writes
another token the draft is wrong, as it may be anywhere; the output is the target's all the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors import checkpoint
from actors.checkpoint import EMBEDDING, HEAD
from actors.errors import WeightsError
from actors.weights_cache import Progress, silent

VERSION = "1"
"""Part of the identity of what is in the cache."""
NUM_KEPT = 65_536
"""So many first tokens are kept: of English and Python 98 % (decision 0024)."""
HEAD_SCALE = f"{HEAD}_scale"
PREFIX = "ShortHead"
"""Of the architecture's name; `actors.engines.short_head` knows how to run it."""
FAMILIES = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM")
"""Architectures whose output matrix stands apart and is called `lm_head`."""


def shorten(source: Path, out: Path, progress: Progress = silent) -> Path:
    """The folder `source` (safetensors) with a short output matrix as the folder `out`, which is replaced. Raises
    WeightsError for a model that cannot be shortened."""
    config = checkpoint.read_config(source)
    architecture = next(iter(config.get("architectures") or ["none"]))
    if architecture not in FAMILIES:
        raise WeightsError(f"short: is for {', '.join(FAMILIES)}; {source} is of {architecture}.")
    size = int(config["vocab_size"])
    first, last = kept(size, _added_ids(source))
    if first + last >= size:
        raise WeightsError(f"{source} has {size} tokens only; short: keeps {NUM_KEPT}. Use the model as it is.")
    tensors = dict(checkpoint.read_tensors(source, progress))
    if HEAD not in tensors:  # tied to the embedding
        tensors[HEAD] = tensors[EMBEDDING]
        config["tie_word_embeddings"] = False
    for name in (HEAD, HEAD_SCALE):
        if name in tensors:
            tensors[name] = _rows(tensors[name], first, last)
    config["architectures"] = [PREFIX + architecture]
    config["short_head"] = {"first": first, "last": last}
    return checkpoint.write(source, out, config, tensors, progress)


def kept(size: int, added: list[int]) -> tuple[int, int]:
    """How many first and how many last tokens are kept of `size`, of which `added` were added to the vocabulary: marks
    of turns and of the end, which follow the others in numbering or are among the first."""
    behind = [token for token in added if token >= NUM_KEPT]
    return min(NUM_KEPT, size), size - min(behind) if behind else 0


def _added_ids(source: Path) -> list[int]:
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    return [int(token["id"]) for token in tokenizer.get("added_tokens", [])]


def _rows(matrix: Any, first: int, last: int) -> Any:
    import torch

    return torch.cat([matrix[:first], matrix[matrix.shape[0] - last :]]) if last else matrix[:first].clone()
