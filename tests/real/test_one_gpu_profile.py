"""The profile for one GPU on a CPU: its options and its steps, with the tiny shape in place of the large ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from actors.draft import Draft
from actors.engines import create_engine
from actors.messages import JudgeRequest, Prompt, Sampling, Step, StepRequest, Verdict
from actors.target import TargetModel
from actors.verifier import StepVerifier, create_verifier
from deployments.config import load_profile
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.generation import Committed, Finished, GenerationRequest, SpeculationOptions
from tests.real.small_model import CORE, IGNORED

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    *IGNORED,
]
CPU = {"enforce_eager": True, "block_size": 32, "max_model_len": 1024, "max_num_seqs": 8}
"""What a CPU wants otherwise."""
QUESTIONS = ("How many?", "How much?", "How long?", "How far?", "How old?", "How often?")
"""Weights that are made up may end a text at any token, and differ with the arithmetic of the machine."""


class Differing(Draft):
    """The same model, sampled: it says something else than the greedy target does."""

    def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        """As `Draft.look_ahead`."""
        return super().look_ahead(replace(request, sampling=Sampling(temperature=1.0, seed=7)), depth)


class Replayed:
    """The profile's verifier, without Ray."""

    def __init__(self, verifier: StepVerifier) -> None:
        self._verifier = verifier
        self.verdicts: list[Verdict] = []

    async def judge(self, request: JudgeRequest) -> Verdict:
        self.verdicts.append(await self._verifier.judge(request))
        return self.verdicts[-1]


async def test_the_profile_speculates_with_models_that_have_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One engine plays both roles, which are then equally fast, so the draft goes first: mode ``lookahead_sync``."""
    monkeypatch.setenv("LOOKAHEAD_CACHE", str(tmp_path))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    config = load_profile("gpu-one")
    options = {name: value for name, value in config.target.engine.options.items() if name != "gpu_memory_utilization"}
    engine = await create_engine("vllm", "dummy:tiny", options | CPU, cpu_cores=CORE)
    assert engine.describe().max_num_seqs == CPU["max_num_seqs"]
    checks = {name: [check.model_dump() for check in some] for name, some in config.verifier.verifiers.items()}
    verifier = Replayed(await create_verifier(checks, {}))
    try:
        coordinator = Coordinator(config, Roles(TargetModel(engine), Differing(engine), verifier))
        sync = SpeculationOptions(mode="lookahead_sync", max_lookahead=3)
        longest = 0
        for number, question in enumerate(QUESTIONS):
            request = GenerationRequest(f"r{number}", Prompt(text=question), max_tokens=400, speculation=sync)
            async with aclosing(coordinator.generate(request)) as outputs:
                answers = [output async for output in outputs]
            finished = answers[-1]
            assert isinstance(finished, Finished)
            assert finished.summary.output_tokens == sum(o.num_tokens for o in answers if isinstance(o, Committed))
            judged = finished.summary.num_accepted_steps + finished.summary.num_recovered_steps
            longest = max(longest, judged)
        assert longest >= 2
        assert {verdict.verifier for verdict in verifier.verdicts} == {"replayed/random"}
        assert engine.num_running() == 0
    finally:
        await engine.shutdown()
