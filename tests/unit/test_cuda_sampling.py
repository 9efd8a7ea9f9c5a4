"""Which sampler an engine on cards gets, where FlashInfer's kernels are there, can be compiled, or neither."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import engines
from actors.engines import create_engine, cuda_sampling
from actors.engines.cuda_sampling import SETTING, missing_for_flashinfer, settle_sampler

GPU_BUILD = {"flashinfer", "flashinfer_cubin"}
TOOLKIT = {"nvcc", "/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc", "ninja"}


@pytest.mark.parametrize(
    ("environment", "packages", "programs", "missing"),
    [
        pytest.param({}, GPU_BUILD, set(), ("nvcc", "ninja"), id="a driver and nothing else"),
        pytest.param({}, GPU_BUILD, {"ninja"}, ("nvcc",), id="the image without kernels"),
        pytest.param({}, GPU_BUILD, TOOLKIT - {"ninja"}, ("ninja",), id="a toolkit and no ninja"),
        pytest.param({}, GPU_BUILD | {"flashinfer_jit_cache"}, set(), (), id="compiled kernels"),
        pytest.param({}, GPU_BUILD, {"nvcc", "ninja"}, (), id="a toolkit on the path"),
        pytest.param({}, GPU_BUILD, {"/usr/local/cuda/bin/nvcc", "ninja"}, (), id="a toolkit in its usual place"),
        pytest.param({"CUDA_HOME": "/opt/cuda"}, GPU_BUILD, {"/opt/cuda/bin/nvcc", "ninja"}, (), id="CUDA_HOME"),
        pytest.param({"CUDA_PATH": "/opt/cuda"}, GPU_BUILD, {"/opt/cuda/bin/nvcc", "ninja"}, (), id="CUDA_PATH"),
        pytest.param({"CUDA_HOME": "/gone"}, GPU_BUILD, TOOLKIT, ("nvcc",), id="CUDA_HOME goes before the path"),
        pytest.param({}, set(), set(), (), id="the build for CPUs"),
        pytest.param({SETTING: "1"}, GPU_BUILD, set(), (), id="chosen by the user"),
    ],
)
def test_what_is_missing_for_flashinfer_s_sampler(
    environment: dict[str, str], packages: set[str], programs: set[str], missing: tuple[str, ...]
) -> None:
    found = missing_for_flashinfer(environment, packages.__contains__, lambda name: name if name in programs else None)
    assert found == missing


def on_a_machine_with(monkeypatch: pytest.MonkeyPatch, packages: set[str]) -> None:
    """No toolkit and, besides this Python's own, these packages."""
    monkeypatch.setattr(cuda_sampling, "_is_installed", packages.__contains__)
    monkeypatch.setattr(cuda_sampling.shutil, "which", lambda name: None)


def test_the_log_says_why_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_machine_with(monkeypatch, GPU_BUILD)
    environment: dict[str, str] = {}
    settle_sampler(environment)
    assert environment == {SETTING: "0"}
    [line] = caplog.messages
    assert "without nvcc and ninja." in line
    assert "vllm download-kernels" in line
    settle_sampler(environment)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(("packages", "setting"), [(GPU_BUILD, "0"), (set(), None)])
def test_engines_of_vllm_start_with_it(
    monkeypatch: pytest.MonkeyPatch, packages: set[str], setting: str | None
) -> None:
    class Engine:
        @staticmethod
        async def create(*_: Any) -> str | None:
            return os.environ.get(SETTING)

    on_a_machine_with(monkeypatch, packages)
    monkeypatch.setenv(SETTING, "1")  # so that it is as before when the test has ended
    monkeypatch.delenv(SETTING)
    monkeypatch.setattr(engines, "_fetch", lambda models: [Path("folder")])
    monkeypatch.setitem(sys.modules, "actors.engines.vllm", SimpleNamespace(VllmEngine=Engine))
    started: Any = asyncio.run(create_engine("vllm", "hf:org/model", {}))
    assert started == setting
