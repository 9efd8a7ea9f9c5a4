"""What tests of the engine on SmolLM2 135M share: float32, since greedy text is only reproducible there; in bfloat16
the shape of a batch may change a token."""

from __future__ import annotations

import os

import pytest

MODEL = "package:smollm2-135m-instruct"
OPTIONS = {
    "dtype": "float32",
    "max_model_len": 512,
    "max_num_seqs": 8,
    "enforce_eager": True,
    "block_size": 32,
    "enable_prefix_caching": True,
    "scheduling_policy": "priority",
}
CORE = str(int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % len(os.sched_getaffinity(0)))
"""Which core the engine of a test computes on: tests that run side by side each have one of their own."""
# Deprecations inside these libraries are not ours to mend.
IGNORED = [pytest.mark.filterwarnings(f"ignore:::{library}") for library in ("torch", "vllm", "transformers", "zmq")]
MARKS = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600), *IGNORED]
"""Of a module whose engine lives as long as the module's loop."""
