"""What is said at the start on a processor on which models in int8 are slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.config import load_profile, validate_config
from deployments.server.processor import flags, slow_int8

OLD = frozenset({"sse2", "avx2", "fma"})


@pytest.mark.parametrize("instruction", ["avx512bw", "avx512_vnni", "avx_vnni", "amx_int8"])
def test_one_with_the_instructions_is_told_nothing(instruction: str) -> None:
    assert slow_int8(load_profile("local"), OLD | {instruction}) is None


def test_one_without_them_is_told_which_models_are_slow_and_what_is_faster() -> None:
    warning = slow_int8(load_profile("local"), OLD)
    assert warning is not None
    assert "int8:package:qwen2.5-coder-1.5b-instruct" in warning
    assert "'dtype: float32'" in warning


@pytest.mark.parametrize("profile", ["scripted", "gpu-cluster", "gpu-one"])
def test_without_int8_models_on_processors_nothing_is_said(profile: str) -> None:
    assert slow_int8(load_profile(profile), OLD) is None


def test_int8_models_on_a_card_are_no_matter_of_the_processor() -> None:
    data = load_profile("local").model_dump()
    for role in ("target", "draft"):
        data[role]["placement"] |= {"num_gpus": 1, "cpu_cores": None}
    assert slow_int8(validate_config(data, "test"), OLD) is None


def test_a_card_for_each_worker_is_a_card_as_well() -> None:
    data = load_profile("local").model_dump()
    for role in ("target", "draft"):
        data[role]["placement"] |= {"placement_group_bundles": [{"CPU": 2, "GPU": 1}, {"CPU": 1, "GPU": 1}]}
    assert slow_int8(validate_config(data, "test"), OLD) is None


def test_a_judge_computes_where_the_verifier_is() -> None:
    data = load_profile("scripted").model_dump()
    data["verifier"]["judge"] = {"model": "int8:ORG/JUDGE"}
    warning = slow_int8(validate_config(data, "test"), OLD)
    assert warning is not None
    assert "int8:ORG/JUDGE" in warning
    data["verifier"]["placement"] |= {"num_gpus": 1}
    assert slow_int8(validate_config(data, "test"), OLD) is None


def test_flags_are_read_from_the_first_processor(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nflags\t\t: sse2 avx2\nprocessor\t: 1\nflags\t\t: sse2\n")
    assert flags(told) == {"sse2", "avx2"}


def test_where_flags_are_not_told_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: asimd\n")
    assert flags(tmp_path / "arm") == flags(tmp_path / "none") == frozenset()
    assert slow_int8(load_profile("local"), frozenset()) is None
