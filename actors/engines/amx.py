"""Leave to use a processor's tiles (Intel AMX), which Linux gives a process that asks for it; runs in vLLM's worker.

vLLM's attention for bfloat16 computes with tiles where the processor has them and does not ask. oneDNN does, when a
product is first worth it; where none is before the first attention, as in very small models, the worker died of an
illegal instruction.
"""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)


def ask_for_tiles() -> bool:
    """Whether this process may use tiles from now on; nothing is asked where the processor has none."""
    if not torch.cpu._is_amx_tile_supported():
        return False
    granted = bool(torch.cpu._init_amx())
    if not granted:
        logger.warning(
            "The processor has AMX and the system gives no leave to use it; vLLM's attention would die of it in "
            "bfloat16. Use dtype float32, or a block_size that is no multiple of 32."
        )
    return granted
