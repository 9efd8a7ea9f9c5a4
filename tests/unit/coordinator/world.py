"""A world for sessions: scripted engines whose results come in whatever order a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random

from actors.engines.scripted import ScriptedEngine, ScriptOptions, detokenize, prompt_ids
from actors.errors import RoleUnavailable
from actors.messages import Delta, Prompt, Sampling, Step, StepRequest, StepRule, TokenIds, Verdict
from deployments.coordinator.events import (
    AddHints,
    Cancel,
    Command,
    Commit,
    Continued,
    Decision,
    DraftAvailable,
    DraftEnded,
    DraftFailed,
    DraftGone,
    DraftStep,
    Event,
    Fail,
    Finish,
    Judge,
    Judged,
    Placed,
    Promoted,
    Retired,
    ReviveDraft,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
    TargetProgress,
    TargetStep,
)
from deployments.coordinator.output import Marks
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.generation import Committed, Finished

TARGET = ScriptOptions(num_steps=6, words=3)
PROMPT = Prompt(text="How many are there?")
PROMPT_IDS = prompt_ids(PROMPT)
THINK = Marks(open="<think>", close="</think>")

Verdicts = Callable[[Step, Step | None], bool]


@lru_cache(maxsize=100_000)
def write(
    options: ScriptOptions,
    token_ids: TokenIds,
    max_tokens: int,
    rule: StepRule,
    steps: int | None,
    sampling: Sampling = Sampling(),
) -> list[Delta]:
    """All deltas of one generation."""

    async def gather() -> list[Delta]:
        engine = ScriptedEngine(replace(options, token_s=0.0, first_token_s=0.0))
        generation = engine.generate(
            "x", token_ids, max_tokens=max_tokens, rule=rule, max_steps=steps, sampling=sampling
        )
        return [delta async for delta in generation]

    return asyncio.run(gather())


def ids_of(request: StepRequest) -> TokenIds:
    return request.prefix.prompt_ids + tuple(i for piece in request.prefix.pieces for i in piece.token_ids)


def steps_of(options: ScriptOptions, request: StepRequest, depth: int) -> list[Step]:
    """The steps that an engine with `options` writes for `request`."""
    steps: list[Step] = []
    ids: list[int] = []
    for delta in write(options, ids_of(request), request.max_tokens, request.rule, depth, request.sampling):
        ids += delta.token_ids
        if delta.ending is not None:
            steps.append(Step(detokenize(tuple(ids)), tuple(ids), options.vocabulary, delta.ending))
            ids = []
            if delta.ending.is_last:
                break
    return steps


def parts_of(options: ScriptOptions, request: StepRequest, salt: int) -> list[Delta]:
    """What the target says while it writes a step: one to four tokens at once, the last ones left out."""
    deltas = write(options, ids_of(request), request.max_tokens, request.rule, 1)[:-1]
    sizes = Random(salt)
    parts: list[Delta] = []
    while deltas:
        size = sizes.randrange(1, 5)
        some, deltas = deltas[:size], deltas[size:]
        parts.append(Delta("".join(d.text for d in some), tuple(i for d in some for i in d.token_ids)))
    return parts[: sizes.randrange(len(parts) + 1)] if sizes.randrange(4) == 0 else parts


def target_only(options: ScriptOptions, max_tokens: int, rule: StepRule) -> TokenIds:
    """The target's own output, token for token."""
    deltas = write(options, PROMPT_IDS, max_tokens, rule, None)
    return tuple(i for delta in deltas for i in delta.token_ids)


def settings(target: ScriptOptions = TARGET, **changes: object) -> SessionSettings:
    base = SessionSettings(
        session_id="r",
        target_prompt=PROMPT_IDS,
        draft_prompt=PROMPT_IDS,
        vocabulary=target.vocabulary,
        max_tokens=10_000,
        verifier="v",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@dataclass
class World:
    """Holds what is under way. `choices()` are the things that may happen next; `do(i)` makes one happen."""

    session: Session
    target: ScriptOptions
    draft: ScriptOptions
    verdicts: Verdicts
    under_way: dict[int, list[Event]] = field(default_factory=dict)
    outputs: list[Committed | Finished] = field(default_factory=list)
    failed: Exception | None = None
    revivals: int = 0
    log: list[Command] = field(default_factory=list)
    fickle: bool = False
    """Whether the target writes otherwise when it is asked again, as a model may in bf16."""
    committed_ids: list[int] = field(default_factory=list)

    def start(self) -> None:
        self._take(self.session.start())

    def choices(self) -> list[int]:
        return sorted(self.under_way)

    def do(self, call: int) -> None:
        """The next event of `call` arrives."""
        events = self.under_way[call]
        event = events.pop(0)
        if not events:
            del self.under_way[call]
        self._take(self.session.handle(event))

    def fail(self, call: int, permanent: bool = False) -> None:
        """`call` breaks instead; `permanent`: it is the draft that refuses the request."""
        last = self.under_way.pop(call)[-1]
        event: Event
        if isinstance(last, DraftEnded):
            event = DraftFailed(call, "draft_refused" if permanent else "draft_unavailable", permanent)
        elif isinstance(last, Judged):
            event = Judged(call, Verdict(False, "v", "failed"), "verifier_failed")
        else:
            event = TargetFailed(call, RoleUnavailable("gone"))
        self._take(self.session.handle(event))

    def revive(self) -> None:
        self.revivals -= 1
        self._take(self.session.handle(DraftAvailable(PROMPT_IDS)))

    def _take(self, commands: list[Command]) -> None:
        self.log += commands
        for command in commands:
            assert not (self.outputs and isinstance(self.outputs[-1], Finished)), "something was said after the end"
            if isinstance(command, StartDraft):
                steps = steps_of(self.draft, command.request, command.depth)
                drafted: list[Event] = [DraftStep(command.call, step) for step in steps]
                self.under_way[command.call] = [*drafted, DraftEnded(command.call)]
            elif isinstance(command, StartTarget):
                target = replace(self.target, seed=self.target.seed + command.attempt * self.fickle)
                (step,) = steps_of(target, command.request, 1)
                parts = parts_of(target, command.request, command.call) if command.progress_s else []
                progress: list[Event] = [TargetProgress(command.call, part) for part in parts]
                self.under_way[command.call] = [*progress, TargetStep(command.call, step)]
            elif isinstance(command, StartStream):
                request = command.request
                deltas = write(self.target, ids_of(request), request.max_tokens, request.rule, None)
                self.under_way[command.call] = [Streamed(command.call, delta) for delta in deltas]
            elif isinstance(command, AddHints):
                assert command.call_id in {f"r-{call}" for call in self.under_way}, "hints for a call that is over"
            elif isinstance(command, Judge):
                accepted = self.verdicts(command.request.draft, command.request.target)
                verdict = Verdict(accepted, command.request.verifier, "scripted")
                self.under_way[command.call] = [Judged(command.call, verdict)]
            elif isinstance(command, Cancel):
                del self.under_way[command.call]
            elif isinstance(command, ReviveDraft):
                self.revivals += 1
            elif isinstance(command, Commit | Finish):
                self.outputs.append(command.output)
            elif isinstance(command, Fail):
                self.failed = command.error
            else:
                assert isinstance(command, DraftGone | Placed | Promoted | Retired | Continued | Decision)

    @property
    def text(self) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, Committed))

    @property
    def finished(self) -> Finished:
        last = self.outputs[-1]
        assert isinstance(last, Finished)
        return last
