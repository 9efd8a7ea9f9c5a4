"""A GGUF file becomes a folder that vLLM and transformers load: bf16 safetensors, tokenizer, chat template.

Promises: the conversion runs in a process of its own, which gives its memory back, dies with the process that wants
it and needs no network; no code that comes with a model is run; what is saved is plain bf16, finite, with nothing
quantised left in weights or configuration.

Needs the finished size in memory, and for a moment the largest matrix in float32 beside it.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from actors.errors import WeightsError
from actors.weights_cache import Progress, silent

NUM_STEPS = 5
"""Libraries loaded, weights read, weights checked, tokenizer read, all written."""


def convert(source: Path, out: Path, *, tied: bool = False, progress: Progress = silent) -> Path:
    """The GGUF file `source` as the folder `out`, which is replaced if it is there; `tied` shares one matrix between
    input and output where the file holds two. Raises WeightsError."""
    with source.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise WeightsError(f"{source} is not a GGUF file; perhaps it was not downloaded whole.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    root = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-P", "-m", "actors.gguf_conversion", str(source), str(out), "tied" if tied else "as-is"]
    log_path = out.with_name(f"{out.name}.log")
    progress("convert", 0, NUM_STEPS)
    with log_path.open("wb") as log:
        # The child ends when its standard input does, that is, at the latest with this process.
        child = subprocess.Popen(  # nosec B603 # this module, and paths that we made
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
        )
        with child:
            try:
                for line in child.stdout or ():
                    if line.strip().isdigit():
                        progress("convert", int(line), NUM_STEPS)
            except BaseException:
                child.kill()
                raise
    if child.returncode:
        raise _conversion_error(source, child.returncode, log_path)
    return out


def _conversion_error(source: Path, returncode: int, log_path: Path) -> WeightsError:
    lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1] if lines else "it gave no reason"
    if returncode == -9 and not reason.startswith("lookahead:"):
        reason = "it was killed, perhaps because the machine had too little memory"
    return WeightsError(
        f"{source.name} could not be converted: {reason.removeprefix('lookahead: ').rstrip('.')}. "
        "Fetch again to repeat only the conversion."
    )


# --- the child process -----------------------------------------------------------------------------------------------


def _main(source: Path, out: Path, tied: bool) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        _convert_here(source, out, tied)
    except ImportError as error:
        _fail(f"{error}; the converter comes with the extra 'cpu' or 'gpu' of lookahead-serve")
    except OSError as error:
        full = "the disk is full; free some space, or set LOOKAHEAD_CACHE to another disk"
        _fail(full if error.errno == errno.ENOSPC else str(error))


def _convert_here(source: Path, out: Path, tied: bool) -> None:
    # First of all, so that a damaged file is known before the large libraries are loaded.
    _read_quickly_and_once(source)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    _report(1)
    model = AutoModelForCausalLM.from_pretrained(  # nosec B615 # a file on this disk, nothing is downloaded
        **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    _report(2)
    _make_plain(model)
    if tied:
        _tie(model)
    _check(model)
    _report(3)
    tokenizer = AutoTokenizer.from_pretrained(**where)  # nosec B615 # the same file
    _complete_from_publisher(model, tokenizer)
    _report(4)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _report(5)


def _read_quickly_and_once(source: Path) -> None:
    """Reads `source`, and hands what was read to transformers, which would open it anew for configuration, weights and
    tokenizer and each time take 12 s to cut a memory map into 300,000 words; cutting a plain array takes 3.5 s."""
    import gguf
    import numpy

    memory_map = numpy.memmap

    def plain_map(path: str, mode: Any) -> Any:
        return memory_map(path, mode=mode).view(numpy.ndarray)

    numpy.memmap = plain_map  # type: ignore[assignment, misc]
    opened = gguf.GGUFReader(source)
    numpy.memmap = memory_map  # type: ignore[misc]
    reader = gguf.GGUFReader

    def read(path: str) -> Any:
        return opened if Path(path) == source else reader(path)

    gguf.GGUFReader = read


def _make_plain(model: Any) -> None:
    """The weights are plain by now; without this the model still calls itself quantised and refuses to be saved."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _tie(model: Any) -> None:
    """One matrix for input and output: the output's, which is quantised less."""
    weights = model.get_output_embeddings().weight
    model.get_input_embeddings().weight.data.copy_(weights.data)
    model.config.tie_word_embeddings = True
    model.tie_weights()


def _check(model: Any) -> None:
    import torch

    for name, weights in model.named_parameters():
        if weights.dtype != torch.bfloat16:
            _fail(f"{name} is {weights.dtype} and should be bfloat16")
        if not bool(torch.isfinite(weights).all()):
            _fail(f"{name} holds numbers that are not finite")


def _complete_from_publisher(model: Any, tokenizer: Any) -> None:
    """What the publishers' own folders say and GGUF has no place for: ``<|endoftext|>`` ends a chat model's text too,
    and Qwen normalises text to NFC."""
    ends = [model.config.eos_token_id, tokenizer.get_vocab().get("<|endoftext|>")]
    model.generation_config.eos_token_id = list(dict.fromkeys(i for i in ends if i is not None))
    if model.config.model_type == "qwen2":
        from tokenizers.normalizers import NFC

        tokenizer.backend_tokenizer.normalizer = NFC()


def _report(step: int) -> None:
    print(step, flush=True)


def _fail(reason: str) -> None:
    """Ends the child; the last line of its standard error is the reason."""
    print(f"lookahead: {reason}", file=sys.stderr, flush=True)
    sys.exit(1)


def _die_with_parent() -> None:
    # Not sys.stdin: a thread that reads there when Python ends makes it crash.
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "tied")
