"""By what part passes take longer in a server than they were timed: the other engine works on the same machine, and so
do coordinator, gateway and proxies.

Promises: asks a running server made-up problems as the benchmark does (streamed, each mode with a salt of its own and
after a short question), by the target alone, with engines that take turns, in windows and guided, and answers the same
again on a virtual clock with the costs as they were timed alone; what is longer is what the server adds to each pass
of target and draft (`stream_s`), and the disturbance of both, in windows and while words go from one engine to the
other as they are written. Nothing of it depends on the text but through the passes that it took, so all text of the
server that is asked may be speculated; with reasoning marks, speculation would end where no trace says.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import httpx

from actors.errors import RequestError, ServiceError
from actors.messages import Message
from deployments.bench.problems import INSTRUCTION, synthetic
from deployments.bench.runner import WARM_UP, WARM_UP_TOKENS
from deployments.bench.variants import wishes
from deployments.config import Config, ReasoningConfig
from deployments.gateway_config import KeyLimits
from deployments.server.client import Question, Reply, ask, connect, get_json
from deployments.simulation.cost_file import CostFile
from deployments.simulation.cutting import cut_as_served, cut_at_words
from deployments.simulation.replay_text import is_guided, require_texts
from deployments.simulation.strangers import gave_hints
from deployments.simulation.validation import Replayed, Replayer
from deployments.telemetry.timeline import Span, Trace, read_trace

NUM_PROBLEMS, MAX_TOKENS = 4, 250
SEED = 7_001
"""Of the problems: others than those of a benchmark that is foretold with what is found."""
NUM_ROUNDS = 12
"""What the draft takes decides how much the target has to do at a time: so often both are matched, half of the way."""
ALONE = "target:none"
TURNS = "lookahead_sync"
"""The mode in which the draft writes while the target rests."""
EXACT = "exact"
TIMEOUT_S = 600.0


def num_asked(config: Config) -> int:
    """How often `measure_served` tells that an answer is there."""
    return len(_modes(config)) * NUM_PROBLEMS


def as_measured(config: Config) -> Config:
    """`config` for a server that is measured: what its traces hold is written again, all of its text is speculated, and
    whoever is on this machine may ask it, since keys may be known by their hashes only; nobody else can."""
    open_to_us: dict[str, Any] = {
        "host": "127.0.0.1",
        "api_keys": [],
        "api_keys_file": None,
        "api_keys_env": None,
        "key_limits": KeyLimits(),
    }
    return config.model_copy(
        update={
            "telemetry": config.telemetry.model_copy(update={"trace_texts": True}),
            "reasoning": ReasoningConfig(),
            "speculation": config.speculation.model_copy(update={"scope": "all"}),
            "gateway": config.gateway.model_copy(update=open_to_us),
        }
    )


def measure_served(url: str, config: Config, costs: CostFile, tell: Callable[[], None] = lambda: None) -> CostFile:
    """`costs` with what the server at `url`, which serves `config` `as_measured`, adds to passes, and its disturbance.
    ServiceError if it does not answer, RequestError if its traces have no texts."""
    return match(config, costs, asyncio.run(_ask_all(url, config, tell)))


def match(config: Config, costs: CostFile, asked: Sequence[Sequence[Mapping[str, Any]]]) -> CostFile:
    """`costs` that make answers take as long as they did: the first one to each problem, which the target writes with
    the machine to itself, by what the server adds to a pass of the target's; those in which engines take turns, by what
    it adds to one of the draft's (none: nothing); the others, in windows and guided, by the disturbance of both roles.
    Where only one of these ways was seen, its disturbance is that of the other as well, and is found as such. Answers
    are lines as in ``requests.jsonl``, with their trace, of a server that served `config` `as_measured`."""
    config = as_measured(config)
    plan = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "instruction": INSTRUCTION}
    cut = cut_as_served(config) or cut_at_words
    hinted = gave_hints(config, plan, [line for lines in asked for line in lines])

    def replayed(line: Mapping[str, Any], scale: float = 1.0) -> Replayed:
        return Replayer(config, costs, plan, cut, takes_hints=hinted).answer(line, read_trace(line["trace"]), scale)

    costs = _changed(_changed(costs, False, (0.0, 0.0)), True, None)
    costs = _serving(_serving(costs, "target", 0.0), "draft", 0.0)
    more_s = sum(float(alone["latency_s"]) - replayed(alone).took_s for alone, *_ in asked)
    num_passes = _num_passes(read_trace(alone["trace"]) for alone, *_ in asked)
    costs = _serving(costs, "target", more_s / max(num_passes, 1))
    scales = [float(alone["latency_s"]) / replayed(alone).took_s for alone, *_ in asked]
    others = [
        (line, read_trace(line["trace"]), scale)
        for (_, *more), scale in zip(asked, scales, strict=True)
        for line in more
    ]
    in_turns = [one for one in others if _takes_turns(one[0])]
    both = [one for one in others if not _takes_turns(one[0])]
    if in_turns:
        # The engines guess nothing there: each token of the draft's is a pass.
        token_s = _token_s(read_trace(replayed(line, scale).trace) for line, _, scale in in_turns)
        slower = _over(_token_s(trace for _, trace, _ in in_turns), token_s) - 1.0
        costs = _serving(costs, "draft", slower * token_s / mean(scale for *_, scale in in_turns))
    for guided in (False, True):
        lines = [one for one in both if is_guided(one[1]) == guided]
        if not lines:
            continue
        # Where only guided answers were seen, one figure is for all their passes, also those before which no hint came.
        ways = (guided, False) if len(lines) == len(both) else (guided,)
        real = [trace for _, trace, _ in lines]
        factors = (1.0, 1.0)
        for _ in range(NUM_ROUNDS):
            costs = _disturbed(costs, ways, factors)
            again = [read_trace(replayed(line, scale).trace) for line, _, scale in lines]
            factors = (
                max(factors[0] * _over(_pass_s(real), _pass_s(again)) ** 0.5, 1.0),
                max(factors[1] * _over(_token_s(real), _token_s(again)) ** 0.5, 1.0),
            )
        costs = _disturbed(costs, ways, factors)
    return costs


def _modes(config: Config) -> list[str]:
    """The target alone, engines that take turns, windows where a fidelity has them, and what the default is; the last
    two draft as often as they can."""
    fidelities = config.speculation.fidelities
    windows = next((name for name in reversed(fidelities) if name != EXACT), None)
    modes = [ALONE, f"{TURNS}:{windows}:none" if windows is not None else f"{TURNS}:none"]
    if windows is not None:
        modes.append(f"lookahead:{windows}:none:controller=off")
    return [*modes, f"lookahead:{EXACT}:controller=off" if EXACT in fidelities else "lookahead:controller=off"]


def _takes_turns(line: Mapping[str, Any]) -> bool:
    return bool(wishes(str(line["mode"]))["mode"] == TURNS)


async def _ask_all(url: str, config: Config, tell: Callable[[], None]) -> list[list[dict[str, Any]]]:
    """For each problem its answers, by mode."""
    modes, salt = _modes(config), secrets.token_hex(8)
    async with connect(url, None) as http:
        for mode in modes:
            await _reply(http, _question(config, mode, salt, WARM_UP, WARM_UP_TOKENS))
        answers = []
        for problem in synthetic(NUM_PROBLEMS, SEED):
            answers.append([await _answer(http, config, mode, salt, problem.question, tell) for mode in modes])
        return answers


async def _answer(
    http: httpx.AsyncClient, config: Config, mode: str, salt: str, question: str, tell: Callable[[], None]
) -> dict[str, Any]:
    reply = await _reply(http, _question(config, mode, salt, question, MAX_TOKENS))
    trace = await get_json(http, f"/v1/traces/{reply.request_id}")
    found = read_trace(trace)
    require_texts(found, str(http.base_url))
    tell()
    return {
        "mode": mode,
        "question": question,
        "usage": reply.usage,
        "finish_reason": reply.finish_reason,
        "latency_s": found.duration_s,
        "trace": trace,
    }


def _question(config: Config, mode: str, salt: str, text: str, max_tokens: int) -> Question:
    message, model = Message("user", f"{text}\n\n{INSTRUCTION}"), config.served_model_name
    return Question((message,), model, max_tokens, 0.0, speculation=wishes(mode), cache_salt=f"{salt} {mode}")


async def _reply(http: httpx.AsyncClient, question: Question) -> Reply:
    reply = await ask(http, question, timeout_s=TIMEOUT_S)
    if reply.error is not None:
        raise ServiceError(f"The server did not answer as it was timed: {reply.error}")
    return reply


def _disturbed(costs: CostFile, ways: Iterable[bool], factors: tuple[float, float]) -> CostFile:
    """With passes that take so many times as long, of target and draft: guided ones, others, or both."""
    for guided in ways:
        costs = _changed(costs, guided, (factors[0] - 1.0, factors[1] - 1.0))
    return costs


def _changed(costs: CostFile, guided: bool, disturbance: tuple[float, float] | None) -> CostFile:
    """With this disturbance of target and draft."""
    name = "disturbance_guided" if guided else "disturbance"
    target, draft = disturbance or (None, None)
    return costs.model_copy(
        update={
            "target": costs.target.model_copy(update={name: target}),
            "draft": costs.draft.model_copy(update={name: draft}),
        }
    )


def _serving(costs: CostFile, role: str, stream_s: float) -> CostFile:
    """With so much more for a pass of `role`, in a server; not less than nothing."""
    changed = (costs.target if role == "target" else costs.draft).model_copy(update={"stream_s": max(stream_s, 0.0)})
    return costs.model_copy(update={role: changed})


def _num_passes(traces: Iterable[Trace]) -> int:
    """Of the target: each gives a sequence one token, and the guesses that were right."""
    spans = _written(traces, ("target", "answer"))
    return sum(span.num_tokens - int(span.detail.get("num_accepted") or 0) for span in spans)


def _pass_s(traces: Sequence[Trace]) -> float:
    """Seconds of a pass of the target."""
    return sum(span.elapsed_s for span in _written(traces, ("target", "answer"))) / max(_num_passes(traces), 1)


def _token_s(traces: Iterable[Trace]) -> float:
    """Seconds of a token of the draft. What it guesses right itself is told of whole look-aheads only."""
    spans = list(_written(traces, ("draft",)))
    return sum(span.elapsed_s for span in spans) / max(sum(span.num_tokens for span in spans), 1)


def _written(traces: Iterable[Trace], kinds: tuple[str, ...]) -> Iterable[Span]:
    return (span for trace in traces for span in trace.spans if span.kind in kinds and span.num_tokens)


def _over(real_s: float, replayed_s: float) -> float:
    if not real_s or not replayed_s:
        raise RequestError("An answer has no step of target or draft: nothing can be compared.", "engine")
    return real_s / replayed_s
