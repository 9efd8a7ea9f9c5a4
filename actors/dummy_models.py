"""Models without weights: the published shape of a model, for machines that reach no weights and measure only speed.

Promises: a folder with a ``config.json`` of that shape and a tokenizer of made-up words with as many entries as the
model's; no weights, so an engine has to make them up (vLLM's ``load_format: dummy``, which `create_engine` sets). What
such a model writes means nothing, and how long it takes is right. A prompt has a token for each of its bytes, about
four times as many as with the real tokenizer. Shapes are those of the models' own ``config.json`` on the hub, but for
the 1.5B's 128 more entries (`SHAPES`); ``tiny`` is ours, for tests.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from actors.errors import WeightsError

VERSION = 2
"""Raised when folders are made differently."""
END = "<|endoftext|>"
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen2 model, in the words of its ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    rope_theta: float = 1000000.0
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072
    tie_word_embeddings: bool = False


SHAPES: dict[str, Shape] = {
    # Published with 151,936: the models share a tokenizer, and pad their matrices differently. Here a tokenizer has as
    # many entries as its model, so with fewer this one's ids could not be passed on to the others.
    "r1-distill-qwen-1.5b": Shape(1536, 8960, 28, 12, 2, 152064, rope_theta=10000.0, rms_norm_eps=1e-6),
    "r1-distill-qwen-7b": Shape(3584, 18944, 28, 28, 4, 152064, rope_theta=10000.0, rms_norm_eps=1e-6),
    "r1-distill-qwen-14b": Shape(5120, 13824, 48, 40, 8, 152064),
    "r1-distill-qwen-32b": Shape(5120, 27648, 64, 40, 8, 152064),
    "tiny": Shape(128, 256, 2, 2, 1, 1024, max_position_embeddings=2048),
}


def find(name: str) -> Shape:
    """The shape called `name`; WeightsError names those that there are."""
    if name not in SHAPES:
        raise WeightsError(f"There is no dummy model {name!r}; there are: {', '.join(SHAPES)}.")
    return SHAPES[name]


def write(shape: Shape, folder: Path) -> Path:
    """Writes configuration and tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    end = shape.vocab_size - 1
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "bos_token_id": end,
        "eos_token_id": end,
        **asdict(shape),
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "model_max_length": shape.max_position_embeddings,
        "chat_template": TEMPLATE,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    _tokenizer(shape.vocab_size).save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer(size: int) -> Tokenizer:
    """Bytes, then made-up words, then the end of the text: `size` entries in all."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"\u0120w{number}" for number in range(size - len(letters) - 1)]  # byte-level for a space before it
    vocabulary = {text: number for number, text in enumerate([*letters, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return tokenizer
