"""On cards, vLLM samples with its own kernels where FlashInfer's are not to be had. Written against version 0.32.

For top-k and top-p vLLM takes FlashInfer's kernels. They are installed (`vllm download-kernels`), or compiled while the
engine starts, by the `nvcc` of a CUDA toolkit and `ninja`. Version 0.32 looks for neither before it samples, and
without both the engine dies at its start (vLLM's issue 49497).

Promises: without them the engine starts all the same and draws from the same probabilities, and the log says what is
missing; what the environment says already stays; nothing changes where FlashInfer is not installed, as on CPUs.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable, Mapping, MutableMapping

SETTING = "VLLM_USE_FLASHINFER_SAMPLER"
KERNELS = "flashinfer_jit_cache"
"""The package with compiled kernels. `flashinfer_cubin`, installed beside it, has none that sample."""

logger = logging.getLogger(__name__)


def settle_sampler(environment: MutableMapping[str, str]) -> None:
    """Choose vLLM's own kernels in the `environment` of an engine to be, if FlashInfer's cannot work here."""
    missing = missing_for_flashinfer(environment, _is_installed, shutil.which)
    if not missing:
        return
    environment[SETTING] = "0"
    logger.warning(
        "vLLM samples with its own kernels (%s=0): FlashInfer's are not installed and cannot be compiled without %s. "
        "Run `vllm download-kernels` in this Python's environment to have them.",
        SETTING,
        " and ".join(missing),
    )


def missing_for_flashinfer(
    environment: Mapping[str, str], is_installed: Callable[[str], bool], which: Callable[[str], str | None]
) -> tuple[str, ...]:
    """The tools without which FlashInfer's sampler ends the engine; none where it works, is not asked for, or where the
    environment has chosen. `which` gives the path of a program, or None."""
    if SETTING in environment or not is_installed("flashinfer") or is_installed(KERNELS):
        return ()
    # In FlashInfer's own order.
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    nvcc = f"{home}/bin/nvcc" if home else which("nvcc") or "/usr/local/cuda/bin/nvcc"
    return tuple(name for name, path in (("nvcc", nvcc), ("ninja", "ninja")) if which(path) is None)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
