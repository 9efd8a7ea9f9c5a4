"""A coordinator over real roles and scripted engines, in this process and on a virtual clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, ScriptOptions, detokenize
from actors.messages import Prompt, StepRule, TokenIds
from actors.target import TargetModel
from actors.verifier import create_verifier
from deployments.config import Config, validate_config
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.generation import (
    Committed,
    Finished,
    GenerationRequest,
    Opened,
    Output,
    SamplingOptions,
    SpeculationOptions,
)
from tests.unit.coordinator.world import target_only

TARGET = ScriptOptions(num_steps=10, words=8, token_s=0.1)
DRAFT = replace(TARGET, role="draft", token_s=0.01)
PROMPT = Prompt(text="How many are there?")
GREEDY = SamplingOptions(temperature=0.0)


def config(*, checks: dict[str, object] | None = None, **speculation: object) -> Config:
    verifiers = {
        "exact": [{"kind": "exact"}],
        "numbers": [{"kind": "exact"}, {"kind": "same_numbers"}, {"kind": "always"}],
        "always": [{"kind": "always"}],
        "never": [{"kind": "never"}],
        **(checks or {}),
    }
    return validate_config(
        {
            "served_model_name": "m",
            "target": {"model": "scripted", "engine": {"kind": "scripted"}},
            "draft": {"model": "scripted", "engine": {"kind": "scripted"}},
            "verifier": {"verifiers": verifiers},
            "speculation": {
                "fidelities": {"exact": "exact", "balanced": "numbers"},
                "controller": {"enabled": False},
                **speculation,
            },
        },
        "test",
    )


class Closing(TargetModel):
    """A target whose chat template closes the reasoning behind the last message."""

    async def encode(self, prompt: Prompt) -> TokenIds:
        if prompt.messages:
            *before, last = prompt.messages
            closed = replace(last, content=f"{last.content}\nassistant\n<think>\n\n</think>\n\n")
            prompt = replace(prompt, messages=(*before, closed))
        return await super().encode(prompt)


@dataclass
class Bench:
    """Roles over scripted engines in this process."""

    target: ScriptOptions = TARGET
    draft: ScriptOptions = DRAFT
    settings: Config = field(default_factory=config)

    def __post_init__(self) -> None:
        self.target_engine = ScriptedEngine(self.target, "t")
        self.draft_engine = ScriptedEngine(self.draft, "d")
        self.roles = Roles(TargetModel(self.target_engine), Draft(self.draft_engine))

    async def coordinator(self) -> Coordinator:
        cascades = self.settings.verifier.verifiers
        checks = {name: [c.model_dump() for c in cascade] for name, cascade in cascades.items()}
        if self.roles.verifier is None:
            self.roles = replace(self.roles, verifier=await create_verifier(checks, {}))
        return Coordinator(self.settings, self.roles)

    async def ask(self, **wishes: object) -> Answer:
        """One request to its end; afterwards nothing may run."""
        coordinator = await self.coordinator()
        loop = asyncio.get_running_loop()
        start = loop.time()
        outputs = [output async for output in coordinator.generate(request(**wishes))]
        elapsed = loop.time() - start
        await asyncio.sleep(0)
        assert self.target_engine.num_running() == self.draft_engine.num_running() == 0
        trace = coordinator.trace("r")
        assert trace is not None
        return Answer(outputs, elapsed, trace, coordinator.metrics())


@dataclass
class Answer:
    outputs: list[Output]
    elapsed_s: float
    trace: dict[str, object]
    metrics: str

    @property
    def text(self) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, Committed))

    @property
    def finished(self) -> Finished:
        assert isinstance(self.outputs[0], Opened)
        assert isinstance(self.outputs[-1], Finished)
        return self.outputs[-1]

    def spans(self, kind: str) -> list[dict[str, object]]:
        spans = self.trace["spans"]
        assert isinstance(spans, list)
        return [span for span in spans if span["kind"] == kind]


def request(**wishes: object) -> GenerationRequest:
    names = "max_tokens", "stop", "timeout_s", "prompt", "sampling"
    top = {name: wishes.pop(name) for name in names if name in wishes}
    options = SpeculationOptions(**wishes)  # type: ignore[arg-type]
    return GenerationRequest("r", **({"prompt": PROMPT, "sampling": GREEDY} | top), speculation=options)  # type: ignore[arg-type]


def truth(options: ScriptOptions = TARGET) -> str:
    return detokenize(target_only(options, 10_000, StepRule()))
