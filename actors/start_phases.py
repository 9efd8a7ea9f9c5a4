"""How long each part of an engine's start took, and weights on their way to memory while other parts run.

Promises: phases do not overlap, so that they add up to the whole; nothing here can make a start fail.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path


class StartPhases:
    """Seconds by phase, in the order in which they were."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """The body is (more of) `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def read_ahead(folder: Path) -> None:
    """Ask the operating system to read the weights in `folder` into its cache; returns at once. The engine's process
    reads them after it was started, which takes longer than a fast disk takes for them."""
    for file in sorted(folder.glob("*.safetensors")):
        with contextlib.suppress(OSError), file.open("rb") as weights:
            os.posix_fadvise(weights.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
