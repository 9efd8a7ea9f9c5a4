"""A backend that fails at its first output, which the fuzz commands must find."""

from __future__ import annotations

from collections.abc import AsyncIterator

from deployments.bench.fuzz import SetText
from deployments.generation import GenerationRequest, Output


class BrokenText(SetText):
    async def generate(self, request: GenerationRequest) -> AsyncIterator[Output]:
        async for output in super().generate(request):
            raise RuntimeError(f"broken at {output}")
            yield output
