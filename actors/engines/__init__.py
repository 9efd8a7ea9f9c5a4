"""Engines: a model in this process, behind `actors.roles.Engine`. Importing this package imports none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from actors.errors import ConfigError
from actors.roles import Engine


async def create_engine(
    kind: str, model: str, options: Mapping[str, Any], cpu_cores: str | None = None, replica: str = ""
) -> Engine:
    """An engine of `kind` (``vllm`` or ``scripted``) that holds `model` (as in `actors.models`), ready to work.

    Fetches the weights where they are missing. Raises ConfigError and WeightsError.
    """
    if kind == "scripted":
        from actors.engines.scripted import ScriptedEngine

        return await ScriptedEngine.create(dict(options), replica)
    if kind == "vllm":
        from actors.engines.vllm import VllmEngine
        from actors.models import resolve

        path = await asyncio.to_thread(resolve, model)
        return await VllmEngine.create(str(path), model, options, replica, cpu_cores)
    raise ConfigError(f"There is no engine {kind!r}; there are: vllm, scripted.", "engine.kind")
