"""A model's name becomes a folder: the four forms of names, the hub's cache, and the command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from typer.testing import CliRunner

from actors import models
from actors.engines import speculative_model
from actors.errors import WeightsError
from actors.models import catalogue, default_cache, is_cached, package_folder, resolve, source_of
from actors.weights_cache import MARKER
from deployments.cli.models import app
from deployments.config import Config, load_profile, models_of

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKAHEAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot folder of `ORG/NAME` in a hub cache that is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--ORG--NAME"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local model folder."""
    path = tmp_path / "local-model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def pretend_cached(name: str) -> Path:
    """The finished folder of a package model, without its weights."""
    package = next(p for p in catalogue() if p.name == name)
    path = package_folder(package)
    path.mkdir(parents=True)
    marker = {"format_version": 1, "identity": package.sha256, "files": {}}
    (path / MARKER).write_text(json.dumps(marker))
    return path


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("package:all-minilm-l6-v2", ("package", "all-minilm-l6-v2")),
        ("hf:Qwen/Qwen3-8B", ("hub", "Qwen/Qwen3-8B")),
        ("Qwen/Qwen2.5-0.5B_x", ("hub", "Qwen/Qwen2.5-0.5B_x")),
        ("/data/model.gguf", ("gguf", "/data/model.gguf")),
        ("ORG/model.gguf", ("gguf", "ORG/model.gguf")),
        (".", ("folder", ".")),
    ],
)
def test_a_name_says_where_the_model_is(model: str, expected: tuple[str, str]) -> None:
    assert source_of(model) == expected


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("package:gpt-5", "No package model is called 'gpt-5'. Known: package:qwen2.5-coder-1.5b-instruct, "),
        ("hf:only-a-name", "should look like ORG/NAME"),
        ("/no/such/folder", "no model folder /no/such/folder"),
        ("./no/such", "no model folder ./no/such"),
        ("all-minilm-l6-v2", "Did you mean package:all-minilm-l6-v2?"),
        ("", "is no model: give package:NAME"),
        ("/no/such/file.gguf", "There is no file /no/such/file.gguf"),
    ],
)
def test_a_wrong_name_is_explained(model: str, words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve(model)
    assert words in str(caught.value)


def test_the_catalogue_is_well_formed() -> None:
    assert len({package.name for package in catalogue()}) == 4
    for package in catalogue():
        assert len(package.sha256) == 64
        assert all("==" in part.requirement for part in package.parts)
        assert package.is_folder or package.size_bytes > package.download_bytes


def test_the_cache_is_where_the_environment_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_cache() == cache
    monkeypatch.delenv("LOOKAHEAD_CACHE")
    assert default_cache() == Path.home() / ".cache" / "lookahead-serve"


# --- folders and the hub ---------------------------------------------------------------------------------------------


def test_a_local_folder_is_used_as_it_is(folder: Path) -> None:
    assert is_cached(str(folder))
    assert resolve(str(folder)) == folder


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_whole_model_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    assert not is_cached(str(folder))
    with pytest.raises(WeightsError, match="holds no whole model"):
        resolve(str(folder))


def test_pickled_weights_are_no_model(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert not is_cached(str(folder))
    with pytest.raises(WeightsError, match=r"\.safetensors"):
        resolve(str(folder))


def test_a_folder_must_hold_every_file_of_its_index(folder: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_bytes(b"1")
    assert not is_cached(str(folder))
    (folder / "model-2.safetensors").write_bytes(b"2")
    assert is_cached(str(folder))


@pytest.mark.parametrize("model", ["ORG/NAME", "hf:ORG/NAME"])
def test_a_hub_model_in_the_hubs_cache_needs_no_network(hub: Path, model: str) -> None:
    (hub / "config.json").write_text("{}")
    (hub / "model.safetensors").write_bytes(b"weights")
    assert is_cached(model)
    assert resolve(model) == hub


def test_a_hub_model_that_cannot_be_fetched_is_explained(hub: Path) -> None:
    assert not is_cached("ORG/OTHER")
    with pytest.raises(
        WeightsError, match=r"ORG/OTHER is not in the hub's cache.*HF_HUB_OFFLINE.*lookahead models list"
    ):
        resolve("ORG/OTHER")


# --- copies in another form ------------------------------------------------------------------------------------------


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was converted, in order; a conversion copies the weights."""
    sources: list[Path] = []

    def convert(source: Path, out: Path, *_: object, **__: object) -> Path:
        sources.append(source)
        out.mkdir()
        weights = source if source.is_file() else source / "model.safetensors"
        (out / "model.safetensors").write_bytes(weights.read_bytes())
        return out

    conversions = {mark: made._replace(convert=convert) for mark, made in models._CONVERSIONS.items()}
    monkeypatch.setattr(models, "_CONVERSIONS", conversions)
    monkeypatch.setattr(models.gguf_conversion, "convert", convert)
    return sources


@pytest.mark.parametrize("form", ["int8:", "short:", "short:int8:"])
@pytest.mark.parametrize("changed", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_copy_of_a_folder_is_made_anew_when_a_file_has_changed(
    folder: Path, converted: list[Path], form: str, changed: str
) -> None:
    model = f"{form}{folder}"
    first = resolve(model)
    num_before = len(converted)
    assert is_cached(model)
    assert resolve(model) == first
    assert len(converted) == num_before
    (folder / changed).write_text("another one")
    assert not is_cached(model)
    assert resolve(model) != first
    assert len(converted) == 2 * num_before


@pytest.mark.parametrize("form", ["int8:", "short:int8:"])
def test_a_copy_is_made_anew_when_a_conversion_makes_other_weights(
    folder: Path, converted: list[Path], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Also the copy of a copy."""
    first = resolve(f"{form}{folder}")
    other = models._CONVERSIONS["int8:"]._replace(version="another")
    monkeypatch.setitem(models._CONVERSIONS, "int8:", other)
    assert not is_cached(f"{form}{folder}")
    assert resolve(f"{form}{folder}") != first


def test_weights_of_the_same_size_are_told_by_their_time(folder: Path, converted: list[Path]) -> None:
    first = resolve(f"int8:{folder}")
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert (resolve(f"int8:{folder}") / "model.safetensors").read_bytes() == b"WEIGHTS"
    assert (first / "model.safetensors").read_bytes() == b"weights"


def test_a_folder_of_the_same_name_in_another_place_has_its_own_copy(
    tmp_path: Path, folder: Path, converted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for project in ("one", "other"):
        shutil.copytree(folder, tmp_path / project / "models" / "latest")
    made = []
    for project in ("one", "other"):
        monkeypatch.chdir(tmp_path / project)
        made.append(resolve("int8:models/latest"))
    assert made[0] != made[1]
    assert converted == [Path("models/latest"), Path("models/latest")]


def test_a_copy_of_a_file_is_made_anew_when_it_has_changed(tmp_path: Path, converted: list[Path]) -> None:
    file = tmp_path / "model.gguf"
    with pytest.raises(WeightsError, match="There is no file"):
        resolve(f"int8:{file}")
    file.write_bytes(b"weights")
    first = resolve(f"int8:{file}")
    assert resolve(f"int8:{file}") == first
    file.write_bytes(b"other weights")
    assert not is_cached(f"int8:{file}")
    assert (resolve(f"int8:{file}") / "model.safetensors").read_bytes() == b"other weights"


# --- configuration and command line ----------------------------------------------------------------------------------


def test_the_models_of_a_configuration() -> None:
    assert models_of(load_profile("local")) == [
        "int8:package:qwen2.5-coder-1.5b-instruct",
        "short:int8:package:qwen2.5-coder-0.5b-instruct",
        "package:all-minilm-l6-v2",
    ]
    assert models_of(load_profile("local-tokens")) == models_of(load_profile("local"))[:2], "one drafts in the other"
    assert models_of(load_profile("scripted")) == []
    cascade = [{"kind": "judge", "engine": "own"}, {"kind": "embedding", "model": "ORG/E"}]
    drafting = {"options": {"speculative_config": {"method": "draft_model", "model": "int8:ORG/D"}}}
    config = Config.model_validate(
        {
            "served_model_name": "m",
            "target": {"model": "ORG/T", "engine": drafting},
            "draft": {"model": "ORG/T"},
            "verifier": {"verifiers": {"exact": cascade}, "judge": {"model": "ORG/J"}},
            "speculation": {"fidelity": "exact"},
        }
    )
    assert models_of(config) == ["ORG/T", "ORG/J", "int8:ORG/D", "ORG/E"]


@pytest.mark.parametrize(
    ("speculative", "model"),
    [
        ({"method": "draft_model", "model": "int8:package:x"}, "int8:package:x"),
        ({"method": "draft_model", "model": "package:x"}, "package:x"),
        ({"method": "draft_model", "model": "some.gguf"}, "some.gguf"),
        ({"method": "eagle3", "model": "ORG/HEAD"}, None),
        ({"method": "draft_model", "model": "/a/folder"}, None),
        ({"method": "hints"}, None),
        ({"method": "ngram", "model": None}, None),
        (None, None),
        ("not a mapping", None),
    ],
)
def test_a_model_that_drafts_in_the_engine_may_be_named_in_our_words(speculative: object, model: str | None) -> None:
    assert speculative_model({"speculative_config": speculative}) == model
    assert speculative_model({}) is None


def test_list_says_what_is_cached(cache: Path) -> None:
    path = pretend_cached("smollm2-135m-instruct")
    listed = json.loads(run(app, ["list", "--json"]).stdout)
    assert listed["cache"] == str(cache)
    rows = {row["model"]: row for row in listed["models"]}
    assert len(rows) == len(catalogue())
    assert [model for model, row in rows.items() if row["cached"]] == ["package:smollm2-135m-instruct"]
    assert rows["package:smollm2-135m-instruct"]["path"] == str(path)
    assert "smollm2-135m-instruct" in run(app, ["list"]).stdout


def test_fetch_prints_where_models_are(folder: Path) -> None:
    path = pretend_cached("all-minilm-l6-v2")
    result = run(app, ["fetch", "all-minilm-l6-v2", str(folder), "package:all-minilm-l6-v2", "--json"])
    assert result.exit_code == 0
    fetched = json.loads(result.stdout)["models"]
    assert [(m["model"], m["path"], m["was_cached"]) for m in fetched] == [
        ("package:all-minilm-l6-v2", str(path), True),
        (str(folder), str(folder), True),
    ]


def test_fetch_takes_a_profile_and_a_config_file(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"served_model_name: m\ntarget: {{model: {folder}}}\nspeculation: {{mode: target, fidelity: exact}}\n"
    )
    result = run(app, ["fetch", "--profile", "scripted", "--config", str(config), "--json"])
    assert [m["path"] for m in json.loads(result.stdout)["models"]] == [str(folder)]


def test_fetch_fails_with_the_reason_and_without_a_result() -> None:
    result = run(app, ["fetch", "package:none", "--json"])
    assert result.exit_code != 0
    assert isinstance(result.exception, WeightsError)
    assert result.stdout == ""
    assert run(app, ["fetch"]).exit_code == 2


@pytest.mark.parametrize("command", ["list", "fetch"])
def test_every_command_has_an_example(command: str) -> None:
    assert f"lookahead models {command}" in " ".join(run(app, [command, "--help"]).stdout.split())


def test_int8_keeps_the_model_within_rounding(tmp_path: Path) -> None:
    """Weights come back within half a step of their row's scale, a tied output matrix is written out."""
    import torch
    from safetensors.torch import load_file, save_file

    from actors import int8
    from actors.checkpoint import EMBEDDING, HEAD

    source = tmp_path / "source"
    source.mkdir()
    weights = {
        EMBEDDING: torch.randn(12, 8, dtype=torch.bfloat16),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(6, 8, dtype=torch.bfloat16),
        "model.norm.weight": torch.ones(8, dtype=torch.bfloat16),
    }
    save_file(weights, source / "model.safetensors")
    (source / "config.json").write_text('{"tie_word_embeddings": true}')
    made = int8.quantise(source, tmp_path / "out")
    found = load_file(made / "model.safetensors")
    for name, original in ((HEAD, EMBEDDING), ("model.layers.0.self_attn.q_proj.weight",) * 2):
        scale = found[f"{name}_scale"]
        assert found[name].dtype is torch.int8
        off = (found[name].float() * scale - weights[original].float()).abs()
        assert bool((off <= scale * 0.501).all())
    assert torch.equal(found["model.norm.weight"], weights["model.norm.weight"])
    assert torch.equal(found[EMBEDDING], weights[EMBEDDING])
    config = json.loads((made / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    with pytest.raises(WeightsError, match="quantised already"):
        int8.quantise(made, tmp_path / "again")


def test_neighbours_in_int8_never_overflow_sixteen_bits(tmp_path: Path) -> None:
    """Also where the largest two of a row stand side by side, with one sign or two."""
    import torch
    from safetensors.torch import load_file, save_file

    from actors import int8

    source = tmp_path / "source"
    source.mkdir()
    weight = torch.randn(64, 33)
    weight[0, :4], weight[1, :4], weight[2, :4] = 9.0, -9.0, torch.tensor([9.0, -9.0, -0.5, 8.9])
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({name: weight}, source / "model.safetensors")
    (source / "config.json").write_text("{}")
    found = load_file(int8.quantise(source, tmp_path / "out") / "model.safetensors")
    assert not int8.overflows(found[name])
    assert found[name][2, :2].tolist() == [127, -127]  # of two signs they never do
    assert all(63 <= value <= 64 for value in found[name][0, :2].tolist())
    assert int8.overflows(torch.tensor([[64, 65]], dtype=torch.int8))
    assert not int8.overflows(torch.tensor([[64, 64, 127]], dtype=torch.int8))


def test_weights_in_several_files_become_one_and_none_at_all_is_said(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from actors import checkpoint
    from actors.weights_cache import silent

    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(WeightsError, match=r"no \.safetensors files"):
        list(checkpoint.read_tensors(source, silent))
    for number in (1, 2):
        save_file({f"layer{number}": torch.ones(number)}, source / f"model-0000{number}-of-00002.safetensors")
    for name in ("model.safetensors.index.json", "config.json", "tokenizer.json", ".hidden"):
        (source / name).write_text("{}")
    tensors = dict(checkpoint.read_tensors(source, silent))
    made = checkpoint.write(source, tmp_path / "out", {"a": 1}, tensors, silent)
    assert sorted(path.name for path in made.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(load_file(made / "model.safetensors")) == ["layer1", "layer2"]
    assert json.loads((made / "config.json").read_text()) == {"a": 1}
