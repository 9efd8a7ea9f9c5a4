"""Whether the processor here multiplies int8 matrices fast: vLLM's kernels need instructions that not all have.

Promises: nothing is refused, since the texts are the same; where it cannot be known, nothing is said.
"""

from __future__ import annotations

from pathlib import Path

from deployments.config import Config

FAST = frozenset({"avx512bw", "avx512_vnni", "avx_vnni", "amx_int8"})
"""Flags of x86 processors, each of which is enough."""
CPUINFO = Path("/proc/cpuinfo")


def flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """What the first processor of an x86 machine can do, in Linux's names; empty where that is not told."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())


def slow_int8(config: Config, has: frozenset[str]) -> str | None:
    """A warning where models of `config` are in int8 and compute on a processor that `has` no such instructions."""
    writers = [(writer, writer.placement) for writer in (config.target, config.draft) if writer is not None]
    if config.verifier.judge is not None:
        writers.append((config.verifier.judge, config.verifier.placement))  # its replica is where the judge computes
    slow = (writer.model for writer, on in writers if "int8:" in writer.model and not any(on.gpus))
    models = list(dict.fromkeys(slow))
    if not models or not has or has & FAST:
        return None
    return (
        f"This processor has neither AVX-512 nor VNNI, without which vLLM takes some ten times as long for models in "
        f"int8: {', '.join(models)}. Answers are the same, at a token in about two seconds for 1.5 billion parameters. "
        "In float32 it is about twice as fast here and takes four times the memory: the model without 'int8:', and "
        "'dtype: float32' in engine.options."
    )
