"""Engines: a model in this process, behind `actors.roles.Engine`. Importing this package imports none of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.engines.cuda_sampling import settle_sampler
from actors.errors import ConfigError
from actors.roles import Engine
from actors.start_phases import StartPhases, read_ahead

OWN_FORMS = ("package:", "hf:", "int8:", "short:", "dummy:")
"""Beginnings of names that `actors.models` understands and vLLM does not."""


def speculative_model(options: Mapping[str, Any]) -> str | None:
    """The model that ``speculative_config`` in `options` names in the words of `actors.models`: it becomes a folder.

    None where there is none, and for a folder or a name on the hub, which vLLM finds itself: heads such as EAGLE's
    come in forms that only vLLM knows.
    """
    speculative = options.get("speculative_config")
    model = speculative.get("model") if isinstance(speculative, Mapping) else None
    return model if isinstance(model, str) and (model.startswith(OWN_FORMS) or model.endswith(".gguf")) else None


def with_weights(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` of an engine of vLLM's that holds `model`: one without weights makes them up."""
    return {**options, "load_format": "dummy"} if model.startswith("dummy:") else dict(options)


async def create_engine(
    kind: str,
    model: str,
    options: Mapping[str, Any],
    cpu_cores: str | None = None,
    replica: str = "",
    phases: StartPhases | None = None,
    *,
    turn: contextlib.AbstractAsyncContextManager[None] | None = None,
) -> Engine:
    """An engine of `kind` (``vllm`` or ``scripted``) that holds `model` (as in `actors.models`), ready to work.

    Fetches the weights where they are missing, those of a model that drafts inside the engine included, and has them
    read into memory while vLLM is imported. Then it enters `turn`, in which the engine starts. `phases` gets what took
    how long. Raises ConfigError and WeightsError.
    """
    phases, turn = phases or StartPhases(), turn or contextlib.nullcontext()
    if kind == "scripted":
        from actors.engines.scripted import ScriptedEngine

        async with turn:
            with phases.measure("engine"):
                return await ScriptedEngine.create(dict(options), replica)
    if kind == "vllm":
        wanted = [model] if (draft := speculative_model(options)) is None else [model, draft]
        with phases.measure("weights"):
            (path, *more) = await asyncio.to_thread(_fetch, wanted)
        settle_sampler(os.environ)
        with phases.measure("import"):
            from actors.engines.vllm import VllmEngine
        options = with_weights(model, options)
        if more:
            options = {**options, "speculative_config": {**options["speculative_config"], "model": str(more[0])}}
        async with turn:
            with phases.measure("engine"):
                return await VllmEngine.create(str(path), model, options, replica, cpu_cores)
    raise ConfigError(f"There is no engine {kind!r}; there are: vllm, scripted.", "engine.kind")


def _fetch(models: list[str]) -> list[Path]:
    """The folders of `models`, and their weights on the way to memory."""
    from actors.models import resolve

    folders = [resolve(model) for model in models]
    for folder in folders:
        read_ahead(folder)
    return folders
