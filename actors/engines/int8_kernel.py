"""A kernel for vLLM's int8 layers on x86 processors that have neither AVX-512 nor VNNI.

Promises: products are exact in 32 bits, of the activations that vLLM's own quantisation makes; a row's result is the
same whatever other rows are beside it; where the processor has the instructions, or a checkpoint's scheme is another
than scales of a row and of a token, vLLM's own kernel is used.

Why: vLLM's (oneDNN's) takes ten to twenty times as long there, and what two neighbouring products are beyond 16 bits it
cuts off. FBGEMM, which PyTorch brings, is made for these processors; it cuts off as well, so a matrix in which that can
happen (`actors.int8.overflows`) is multiplied by the activations' upper seven bits and their last one, each by itself.

How it gets in: vLLM loads the entry points `vllm.general_plugins` in each of its processes, before a model is made.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from actors.int8 import overflows

FAST = ("avx512_bw", "avx512_vnni", "avx_vnni", "amx_int8")
"""PyTorch's names of x86 instructions, each of which makes vLLM's own kernel fast."""
ZERO = 128
"""What stands for zero in FBGEMM's activations, which have no sign."""
PRODUCT = "linear_with_input_q_dq_qweight_dq_output_fp32"
"""PyTorch's name of FBGEMM's product with activations of a given scale, one for all."""
NAME = "FbgemmInt8Kernel"
"""As vLLM's log and ``VLLM_DISABLED_KERNELS`` name it."""
OP = "int8_linear"

logger = logging.getLogger(__name__)

_library = torch.library.Library("lookahead", "FRAGMENT")
_packed: list[Any] = []
"""FBGEMM's matrices of this process. A compiled model can carry the number of one, not the matrix."""


def register() -> None:
    """Put the kernel before vLLM's own, on processors that it is for."""
    from vllm.platforms import PlatformEnum, current_platform

    if not current_platform.is_cpu() or not is_needed(torch.cpu.get_capabilities()):
        return
    from vllm.model_executor.kernels import linear

    try:
        kernels: list[Any] = linear._POSSIBLE_INT8_KERNELS[PlatformEnum.CPU]
        base = linear.Int8ScaledMMLinearKernel
    except (AttributeError, KeyError) as error:
        logger.warning("vLLM's kernels are not where they were (%s): models in int8 are slow on this processor.", error)
        return
    if not any(kernel.__name__ == NAME for kernel in kernels):
        kernels.insert(0, _over(base))


def is_needed(capabilities: dict[str, Any]) -> bool:
    """Whether a processor of such `capabilities` (`torch.cpu.get_capabilities`) is one that the kernel is for."""
    if not capabilities.get("avx2") or any(capabilities.get(name) for name in FAST):
        return False
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(torch.ops.quantized, PRODUCT)


def pack(weight: torch.Tensor, scale: torch.Tensor) -> int:
    """The number under which `multiply` knows `weight` (rows, columns; int8) with a `scale` for each row."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such tensors may leave PyTorch; until then this is how FBGEMM is reached
            zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
            rows = torch._make_per_channel_quantized_tensor(weight.contiguous(), scale.double().flatten(), zeros, 0)
        _packed.append(torch.ops.quantized.linear_prepack(rows, None))
    finally:
        torch.backends.quantized.engine = before
    return len(_packed) - 1


def multiply(activations: torch.Tensor, number: int, num_rows: int, in_parts: bool) -> torch.Tensor:
    """The matrix `number`, which has `num_rows`, times `activations` (tokens, columns; float or bfloat16): (tokens,
    `num_rows`) in float32. `in_parts` is for a matrix that overflows."""
    from vllm import _custom_ops

    quantised, scale, _ = _custom_ops.onednn_scaled_int8_quant(activations, None, None, True)
    values = quantised.float()
    product = getattr(torch.ops.quantized, PRODUCT)
    if not in_parts:
        return product(values, 1.0, ZERO, _packed[number]).mul_(scale)
    upper = values.mul(0.5).floor_()  # -64 to 63
    found = product(torch.cat((upper, values - 2 * upper)), 1.0, ZERO // 2, _packed[number])
    upper, last = found.tensor_split(2)
    return last.add_(upper, alpha=2).mul_(scale)


def _shape_of(activations: torch.Tensor, number: int, num_rows: int, in_parts: bool) -> torch.Tensor:
    return activations.new_empty((activations.shape[0], num_rows), dtype=torch.float32)


_library.define(f"{OP}(Tensor activations, int number, int num_rows, bool in_parts) -> Tensor")
_library.impl(OP, multiply, "CPU")
torch.library.register_fake(f"lookahead::{OP}", _shape_of, lib=_library)


def _over(base: Any) -> type:
    """The kernel, over vLLM's class of such kernels."""

    class FbgemmInt8Kernel(base):  # type: ignore[misc]
        """Scales of a row and of a token, both symmetric."""

        @classmethod
        def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
            """Everywhere that it is registered."""
            return True, None

        @classmethod
        def can_implement(cls, c: Any) -> tuple[bool, str | None]:
            """The scheme of `actors.int8`."""
            fits = c.is_channelwise and c.input_symmetric and not c.is_static_input_scheme
            return fits, None if fits else "is for scales of a row and of a token"

        def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
            """Pack the weights of `layer`, which keeps none."""
            weight, scale = self._get_layer_params(layer)[:2]
            self.num_rows, self.in_parts = weight.shape[0], overflows(weight.data)
            self.number = pack(weight.data, scale.data)
            setattr(layer, self.layer_param_names[0], None)

        def apply_weights(
            self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
        ) -> torch.Tensor:
            """`x` (..., columns) through `layer`: (..., rows), in the type of `x`."""
            flat = x.reshape(-1, x.shape[-1])
            run = torch.ops.lookahead.int8_linear if torch.compiler.is_compiling() else multiply
            found = run(flat, self.number, self.num_rows, self.in_parts)
            if bias is not None:
                found = found + bias
            return found.to(x.dtype).reshape(*x.shape[:-1], self.num_rows)

    return FbgemmInt8Kernel
