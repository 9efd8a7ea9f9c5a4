"""Products of int8 matrices on processors that vLLM's own kernel is slow on."""

from __future__ import annotations

from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from actors.engines import int8_kernel, short_head
from actors.int8 import overflows

pytestmark = [pytest.mark.filterwarnings(f"ignore:::{library}") for library in ("torch", "vllm")]

OLD = {"avx2": True, "avx512_bw": False, "avx512_vnni": False, "avx_vnni": False, "amx_int8": False}


@pytest.mark.parametrize("instruction", ["avx512_bw", "avx512_vnni", "avx_vnni", "amx_int8"])
def test_processors_with_the_instructions_keep_vllms_kernel(instruction: str) -> None:
    assert int8_kernel.is_needed(OLD)
    assert not int8_kernel.is_needed(OLD | {instruction: True})
    assert not int8_kernel.is_needed({"architecture": "aarch64"})


def test_the_names_are_pytorchs() -> None:
    if torch.cpu.get_capabilities()["architecture"] == "x86_64":
        assert {"avx2", *int8_kernel.FAST} <= set(torch.cpu.get_capabilities())


def test_vllm_finds_our_plugins() -> None:
    """An installation that is older than the code has others: make setup."""
    found = entry_points(group="vllm.general_plugins")
    assert found["lookahead-int8-kernel"].load() is int8_kernel.register
    assert found["lookahead-short-head"].load() is short_head.register


def test_without_fbgemm_it_is_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_kernel, "PRODUCT", "a product that left PyTorch")
    assert not int8_kernel.is_needed(OLD)


def rows(num_columns: int, *, largest_pair: int) -> torch.Tensor:
    """Random weights and the extremes that `largest_pair` admits, (12, `num_columns`) in int8."""
    weight = torch.randint(-127, 128, (12, num_columns), dtype=torch.int16)
    last = num_columns // 2 * 2
    first, second = weight[:, 0:last:2], weight[:, 1:last:2]
    weight[:, 1:last:2] = torch.where(
        (first + second).abs() > largest_pair, second.sign() * (largest_pair - first.abs()), second
    )
    half = largest_pair // 2
    weight[:4] = torch.tensor([half, -half, 127, -127], dtype=torch.int16)[:, None]
    weight[2:4, 1::2] = torch.tensor([largest_pair - 127, 127 - largest_pair], dtype=torch.int16)[:, None]
    return weight.to(torch.int8)


def expected(activations: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """By the definition, in float64."""
    values = activations.double()
    token_scale = values.abs().amax(dim=1, keepdim=True) / 127
    return (values / token_scale).round() @ weight.double().T * token_scale * scale.double().T


@pytest.mark.parametrize("num_columns", [2, 33, 1536])
@pytest.mark.parametrize("largest_pair", [128, 254])
def test_products_are_exact(num_columns: int, largest_pair: int) -> None:
    """Also where every activation and every pair of weights is as large as can be."""
    torch.manual_seed(num_columns)
    weight = rows(num_columns, largest_pair=largest_pair)
    in_parts = overflows(weight)
    assert in_parts is (largest_pair > 128)
    scale = torch.rand(12, 1) + 0.5
    activations = torch.randint(-127, 128, (5, num_columns)).float()
    activations[0], activations[1] = 127, -127
    activations[:, 0] = 127
    found = int8_kernel.multiply(activations, int8_kernel.pack(weight, scale), 12, in_parts)
    torch.testing.assert_close(found.double(), expected(activations, weight, scale), rtol=3e-6, atol=1e-2)


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_token_is_the_same_beside_any_others_and_nothing_is_nothing(in_parts: bool) -> None:
    torch.manual_seed(1)
    number = int8_kernel.pack(rows(64, largest_pair=128), torch.ones(12, 1))
    activations = torch.randn(40, 64, dtype=torch.bfloat16)
    activations[7] = 0
    beside = int8_kernel.multiply(activations, number, 12, in_parts)
    alone = [int8_kernel.multiply(token[None], number, 12, in_parts) for token in activations]
    assert torch.equal(beside, torch.cat(alone))
    assert not beside[7].any()
    assert int8_kernel.multiply(activations[:0], number, 12, in_parts).shape == (0, 12)


def test_the_engine_of_others_is_kept() -> None:
    before = torch.backends.quantized.engine
    int8_kernel.pack(rows(8, largest_pair=128), torch.ones(12, 1))
    assert torch.backends.quantized.engine == before


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's module of kernels, with ours before its own."""
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    own = [k for k in linear._POSSIBLE_INT8_KERNELS[PlatformEnum.CPU] if k.__name__ != "FbgemmInt8Kernel"]
    monkeypatch.setitem(linear._POSSIBLE_INT8_KERNELS, PlatformEnum.CPU, own.copy())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: OLD)
    int8_kernel.register()
    int8_kernel.register()
    assert len(linear._POSSIBLE_INT8_KERNELS[PlatformEnum.CPU]) == len(own) + 1
    return linear


def layer(kernel: Any, weight: torch.Tensor, scale: torch.Tensor) -> torch.nn.Module:
    made = torch.nn.Module()
    made.weight, made.weight_scale = (torch.nn.Parameter(each, requires_grad=False) for each in (weight, scale))
    made.input_scale = made.input_zero_point = made.azp_adj = None
    made.logical_widths = [len(weight)]
    kernel.process_weights_after_loading(made)
    return made


def test_vllm_takes_it_for_the_scheme_that_it_is_for(kernels: Any) -> None:
    def chosen(*, channelwise: bool = True, static: bool = False, symmetric: bool = True) -> str:
        return type(kernels.init_int8_linear_kernel(channelwise, static, symmetric, "test")).__name__

    assert chosen() == "FbgemmInt8Kernel"
    others = [chosen(channelwise=False), chosen(static=True), chosen(symmetric=False)]
    assert others == ["CPUInt8ScaledMMLinearKernel"] * 3


@pytest.mark.parametrize("largest_pair", [128, 254])
def test_a_layer_has_shape_type_and_bias_and_can_be_compiled(kernels: Any, largest_pair: int) -> None:
    torch.manual_seed(2)
    weight, scale = rows(32, largest_pair=largest_pair), torch.rand(12, 1) / 100
    kernel = kernels.init_int8_linear_kernel(True, False, True, "test")
    made = layer(kernel, weight, scale)
    assert made.weight is None
    activations, bias = torch.randn(2, 3, 32, dtype=torch.bfloat16), torch.randn(12, dtype=torch.bfloat16)
    flat = expected(activations.view(6, 32), weight, scale).view(2, 3, 12)
    for added in (None, bias):
        found = kernel.apply_weights(made, activations, added)
        assert found.dtype is torch.bfloat16
        wanted = flat if added is None else flat + added.double()
        torch.testing.assert_close(found.double(), wanted, rtol=0.01, atol=0.01)
        compiled = torch.compile(
            lambda x, added=added: kernel.apply_weights(made, x, added), fullgraph=True, backend="eager"
        )
        assert torch.equal(compiled(activations), found)


def test_another_vllm_is_left_as_it_is(
    kernels: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(kernels, "_POSSIBLE_INT8_KERNELS")
    int8_kernel.register()
    assert "int8 are slow on this processor" in caplog.text


def test_other_processors_and_devices_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    own = [k for k in linear._POSSIBLE_INT8_KERNELS[PlatformEnum.CPU] if k.__name__ != "FbgemmInt8Kernel"]
    monkeypatch.setitem(linear._POSSIBLE_INT8_KERNELS, PlatformEnum.CPU, own.copy())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: OLD | {"avx512_vnni": True})
    int8_kernel.register()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: OLD)
    monkeypatch.setattr("vllm.platforms._current_platform", SimpleNamespace(is_cpu=lambda: False))
    int8_kernel.register()
    assert own == linear._POSSIBLE_INT8_KERNELS[PlatformEnum.CPU]
