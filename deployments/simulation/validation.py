"""A recorded benchmark, answered again by the production coordinator on a virtual clock: what was measured, what is
predicted.

Promises: plan, session, controller, roles and proposer are the server's own code; words, verdicts and the time of
verdicts are replayed (`replay_text`), all other times are predicted. Engines cost what `lookahead calibrate --engine`
measured. With `anchored`, all passes of a prompt are as much slower or faster as that prompt's target-alone answer was
against its own prediction: a machine that drifts between prompts is taken out, as it is from the benchmark's paired
speed-ups, and what is left is how well modes are told apart. Rows that were not ours (``plain``, ``vllm``) have no
trace and no prediction. Where the target took no hints in the run, it takes none here (`strangers.gave_hints`).
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from actors.draft import Draft
from actors.errors import RequestError
from actors.messages import JudgeRequest, Prompt, TokenIds, Verdict
from actors.target import TargetModel
from deployments.bench.figures import bootstrap_ci
from deployments.bench.folder import read_plan
from deployments.bench.record import read_requests
from deployments.bench.variants import asked, baseline
from deployments.config import Config, TelemetryConfig
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.generation import Finished, GenerationRequest, SamplingOptions, SpeculationOptions
from deployments.simulation.cost_file import CostFile
from deployments.simulation.cutting import Cut, cut_at_words
from deployments.simulation.replay_engine import PassCost, ReplayEngine
from deployments.simulation.replay_text import ReplayText, Vocabulary, replay_text, require_texts
from deployments.simulation.strangers import gave_hints, match_rules, settled
from deployments.simulation.virtual_loop import run_virtually
from deployments.telemetry.timeline import Trace, read_trace

HOP_S = 0.0006
"""One way between coordinator and engine where the cost file has none: half of what the coordinator adds to a target's
step (docs/benchmarks-serving.md)."""
GOAL = 0.10
"""A prediction is good if it is off by no more."""
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """One recorded request, and its prediction. `num_tokens` were written, in `measured_s` and `predicted_s`."""

    mode: str
    index: int
    num_tokens: int
    measured_s: float
    predicted_s: float
    predicted_tokens: int


@dataclass(frozen=True, slots=True)
class ValidationRow:
    """One mode. Speed-ups are medians over prompts of paired ratios of time per token; `off_*` are predicted over
    measured, less one. Ratios are medians over prompts of predicted over measured, each of the same prompt, with their
    95 % intervals; None for fewer than three prompts."""

    mode: str
    num_prompts: int
    tokens_per_s: float
    predicted_tokens_per_s: float
    latency_p50_s: float
    predicted_latency_p50_s: float
    speed_up: float | None
    predicted_speed_up: float | None
    latency_ratio: float
    latency_ratio_ci95: Interval | None
    speed_up_ratio: float | None
    speed_up_ratio_ci95: Interval | None

    @property
    def off_latency(self) -> float:
        """Of the median latency."""
        return self.predicted_latency_p50_s / self.latency_p50_s - 1.0

    @property
    def off_speed_up(self) -> float | None:
        """Of the speed-up."""
        if self.speed_up is None or self.predicted_speed_up is None:
            return None
        return self.predicted_speed_up / self.speed_up - 1.0

    @property
    def holds(self) -> bool:
        """Whether both are within the goal."""
        return abs(self.off_latency) <= GOAL and abs(self.off_speed_up or 0.0) <= GOAL

    @property
    def stands_out(self) -> bool | None:
        """Whether one of both misses the goal by more than chance: its whole interval does. None: there is none."""
        found = [one for one in (self.latency_ratio_ci95, self.speed_up_ratio_ci95) if one is not None]
        return any(low > 1.0 + GOAL or high < 1.0 - GOAL for low, high in found) if found else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        off = {"off_latency": self.off_latency, "off_speed_up": self.off_speed_up}
        return asdict(self) | off | {"holds": self.holds, "stands_out": self.stands_out}


@dataclass(frozen=True, slots=True)
class Replayed:
    """One request, answered on the virtual clock."""

    took_s: float
    num_tokens: int
    trace: dict[str, Any]
    """As ``GET /v1/traces/{id}`` would give it."""


class ReplayedVerifier:
    """`actors.roles.Verifier`: the recorded verdicts, each after the time that it took. A judge that is the target
    itself takes that time of the target's passes."""

    def __init__(self, text: ReplayText, judge: ReplayEngine | None) -> None:
        self._text = text
        self._judge = judge
        self._numbers = count()

    async def judge(self, request: JudgeRequest) -> Verdict:
        """As `Verifier.judge`."""
        pieces = request.prefix.pieces if request.prefix is not None else ()
        before = tuple(token for piece in pieces for token in piece.token_ids)
        judged = self._text.judged(before, request.draft.token_ids)
        if self._judge is not None and judged.seconds:
            await self._judge.read(f"judge-{next(self._numbers)}", judged.seconds)
        else:
            await asyncio.sleep(judged.seconds)
        return Verdict(judged.accepted, request.verifier, "as recorded", latency_s=judged.seconds)


class Replayer:
    """Answers recorded requests with the engines of `config` at `costs`, one after another: what the controller learns
    from one of them it knows for the next."""

    def __init__(
        self,
        config: Config,
        costs: CostFile,
        plan: Mapping[str, Any],
        cut: Cut = cut_at_words,
        *,
        takes_hints: bool = True,
    ) -> None:
        """`plan` has the run's ``temperature``, ``max_tokens`` and ``instruction``, and what it wished of all its rows;
        `cut` makes tokens of its texts; `takes_hints`: whether the target takes any, where its engine can. RequestError
        where `config` has reasoning marks: they are not in the texts of a trace, so where speculation ends cannot be
        replayed."""
        if config.reasoning.close is not None:
            raise RequestError(
                "Answers of a model that reasons (reasoning.close) cannot be replayed: their traces do not say where "
                "the reasoning ends, and speculation with it.",
                "reasoning",
            )
        self._config = config.model_copy(update={"telemetry": TelemetryConfig()})
        """Without an audit log: what is answered here was asked by nobody."""
        self._cut = cut
        self._costs = costs
        self._plan = plan
        self._takes_hints = takes_hints
        self._controller = Controller(config.speculation.controller.probe_share)
        self._now = 0.0

    def answer(self, line: Mapping[str, Any], trace: Trace, scale: float = 1.0) -> Replayed:
        """The request of `line`, a line of ``requests.jsonl``, once more."""
        return run_virtually(self._answer(line, trace, scale))

    async def _answer(self, line: Mapping[str, Any], trace: Trace, scale: float) -> Replayed:
        is_cut_short = line.get("finish_reason") == "length"
        text = replay_text(trace, vocabulary := Vocabulary(), self._cut, is_cut_short=is_cut_short)
        prompt = self._prompt(line, vocabulary)
        target = self._engine(text, prompt, trace, is_draft=False, scale=scale)
        draft = self._engine(text, prompt, trace, is_draft=True, scale=scale)
        target.share_machine(draft)
        draft.share_machine(target)
        judge = target if self._judges_with_target(line) else None
        roles = Roles(TargetModel(target), Draft(draft), ReplayedVerifier(text, judge))
        coordinator = Coordinator(self._config, roles, controller=self._controller)
        request = GenerationRequest(
            "replayed",
            Prompt(text=str(line["question"])),
            SamplingOptions(temperature=float(self._plan["temperature"])),
            int(self._plan["max_tokens"]),
            speculation=SpeculationOptions(**asked(str(line["mode"]), self._plan)),
        )
        await asyncio.sleep(self._now)  # each answer has a loop of its own, whose time begins at 0
        begun, num_tokens = asyncio.get_running_loop().time(), 0
        try:
            async with aclosing(coordinator.generate(request)) as outputs:
                async for output in outputs:
                    if isinstance(output, Finished):
                        num_tokens = output.summary.output_tokens
            took = asyncio.get_running_loop().time() - begun
        finally:
            coordinator.close()
            await asyncio.gather(target.shutdown(), draft.shutdown())
        self._now = begun + took
        return Replayed(took, num_tokens, coordinator.trace("replayed") or {})

    def _judges_with_target(self, line: Mapping[str, Any]) -> bool:
        plan = settled(self._config, str(line["mode"]), self._plan)
        checks = self._config.verifier.verifiers.get(plan.verifier or "", ())
        return any(getattr(check, "engine", None) == "target" for check in checks)

    def _prompt(self, line: Mapping[str, Any], vocabulary: Vocabulary) -> TokenIds:
        """The question and the instruction, filled up in front to the counted tokens: the chat template's."""
        size = int((line.get("usage") or {}).get("prompt_tokens") or 0)
        words = f"{line['question']}\n\n{self._plan.get('instruction') or ''}"
        pieces = self._cut(words, None)
        if 0 < size < len(pieces):
            pieces = self._cut(words, size)
        ids = tuple(vocabulary.id(piece) for piece in pieces)
        return (*(vocabulary.id(f"<template {i}>") for i in range(size - len(ids))), *ids)

    def _engine(
        self, text: ReplayText, prompt: TokenIds, trace: Trace, *, is_draft: bool, scale: float
    ) -> ReplayEngine:
        writer = (self._config.draft or self._config.target) if is_draft else self._config.target
        costs = self._costs.draft if is_draft else self._costs.target
        kinds = ("draft",) if is_draft else ("target", "answer")
        first = next((span for span in trace.spans if span.kind in kinds and span.num_tokens), None)
        return ReplayEngine(
            text,
            prompt,
            PassCost(costs, scale),
            is_draft=is_draft,
            rules=match_rules(writer),
            takes_hints=is_draft or self._takes_hints,
            block_size=int(writer.engine.options.get("block_size", 16)),
            num_cached=first.num_cached_tokens if first is not None else 0,
            hop_s=costs.call_s or HOP_S,
        )


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The plan of a benchmark, and its whole requests with traces, one at a time; RequestError if there are none, or
    what was written is not in them."""
    try:
        plan, lines = read_plan(folder), read_requests(folder)
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{folder} is no folder of `lookahead bench`: {error}.", "validate") from error
    found = [line for line in lines if line["trace"] and not line.get("error") and line.get("concurrency") == 1]
    if not found:
        raise RequestError(
            f"{folder} holds no answered request with a trace: make it with lookahead bench --concurrency 1 --traces.",
            "validate",
        )
    for line in found:
        require_texts(read_trace(line["trace"]), str(folder))
    return plan, found


def predict(
    config: Config,
    costs: CostFile,
    folder: Path,
    *,
    anchored: bool = True,
    cut: Cut = cut_at_words,
    tell: Callable[[float], None] = lambda part: None,
) -> tuple[list[Answer], str]:
    """Every answer of the run in `folder`, predicted; and the mode that others are measured against. RequestError where
    that mode has no trace, and as `Replayer`."""
    plan, lines = read_run(folder)
    hinted = gave_hints(config, plan, lines)
    alone, replayer = (Replayer(config, costs, plan, cut, takes_hints=hinted) for _ in range(2))
    against = baseline(plan["modes"])
    if all(line["mode"] != against for line in lines):
        raise RequestError(
            f"The run in {folder} measures its modes against {against}, of which it holds no answered request with a "
            "trace. Rows that are not ours have none: add a row of mode target, and --traces.",
            "validate",
        )
    lines.sort(key=lambda line: float(line.get("started_at") or 0.0))
    scales: dict[int, float] = {}
    for line in lines:
        if line["mode"] == against:
            replayed = alone.answer(line, read_trace(line["trace"]))
            scales[line["index"]] = float(line["latency_s"]) / replayed.took_s if anchored else 1.0
    answers = []
    for number, line in enumerate(lines):
        if line["index"] not in scales:
            continue  # its prompt has not been asked of the target alone yet
        replayed = replayer.answer(line, read_trace(line["trace"]), scales[line["index"]])
        measured = float(line["latency_s"])
        answers.append(
            Answer(line["mode"], line["index"], line["output_tokens"], measured, replayed.took_s, replayed.num_tokens)
        )
        tell((number + 1) / len(lines))
    return answers, against


def compare(answers: Sequence[Answer], against: str, seed: int = 0) -> list[ValidationRow]:
    """A row for each mode, in order of appearance; intervals are drawn by `seed`."""
    base = {answer.index: answer for answer in answers if answer.mode == against}
    rows = []
    for mode in dict.fromkeys(answer.mode for answer in answers):
        mine = [answer for answer in answers if answer.mode == mode]
        pairs = [(base[answer.index], answer) for answer in mine if answer.index in base and mode != against]
        tokens = sum(answer.num_tokens for answer in mine)
        measured = [_pace(b.measured_s, b.num_tokens, a.measured_s, a.num_tokens) for b, a in pairs]
        predicted = [_pace(b.predicted_s, b.num_tokens, a.predicted_s, a.predicted_tokens) for b, a in pairs]
        latencies = [answer.predicted_s / answer.measured_s for answer in mine]
        speed_ups = [after / before for before, after in zip(measured, predicted, strict=True)]
        rows.append(
            ValidationRow(
                mode,
                len(mine),
                tokens / sum(answer.measured_s for answer in mine),
                sum(answer.predicted_tokens for answer in mine) / sum(answer.predicted_s for answer in mine),
                statistics.median(answer.measured_s for answer in mine),
                statistics.median(answer.predicted_s for answer in mine),
                _median(measured),
                _median(predicted),
                statistics.median(latencies),
                bootstrap_ci(latencies, seed),
                _median(speed_ups),
                bootstrap_ci(speed_ups, seed),
            )
        )
    return rows


def _pace(base_s: float, base_tokens: int, other_s: float, other_tokens: int) -> float:
    return (base_s / base_tokens) / (other_s / other_tokens)


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
