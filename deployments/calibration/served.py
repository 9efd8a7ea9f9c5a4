"""By what part passes take longer in a server than they were timed: the other engine works on the same machine, and so
do coordinator, gateway and proxies.

Promises: asks a running server made-up problems, by the target alone, in windows and guided, and answers the same again
on a virtual clock with the costs as they were timed alone; what is longer is what streaming adds to a pass (`stream_s`)
and the disturbance of each role, in windows and while words go from one engine to the other as they are written.
Nothing of it depends on the text but through the passes that it took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx

from actors.errors import RequestError, ServiceError
from deployments.bench.problems import INSTRUCTION, synthetic
from deployments.bench.variants import wishes
from deployments.config import Config
from deployments.simulation.cost_file import CostFile
from deployments.simulation.cutting import cut_as_served, cut_at_words
from deployments.simulation.replay_text import is_guided
from deployments.simulation.validation import Replayed, Replayer
from deployments.telemetry.timeline import Span, Trace, read_trace

NUM_PROBLEMS, MAX_TOKENS = 4, 250
NUM_ROUNDS = 12
"""What the draft takes decides how much the target has to do at a time: so often both are matched, half of the way."""
ALONE = "target:none"
EXACT = "exact"
TIMEOUT_S = 600.0


def num_asked(config: Config) -> int:
    """How often `measure_served` tells that an answer is there."""
    return len(_modes(config)) * NUM_PROBLEMS


def measure_served(
    url: str, config: Config, costs: CostFile, api_key: str | None = None, tell: Callable[[], None] = lambda: None
) -> CostFile:
    """`costs` with the disturbance that the server at `url`, which serves `config`, shows. ServiceError if it does not
    answer."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    modes = _modes(config)
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:
        asked = [
            [_ask(client, config, mode, problem.question, tell) for mode in modes]
            for problem in synthetic(NUM_PROBLEMS)
        ]
    return match(config, costs, asked)


def match(config: Config, costs: CostFile, asked: Sequence[Sequence[Mapping[str, Any]]]) -> CostFile:
    """`costs` that make answers take as long as they did: the first one to each problem, which the target writes with
    the machine to itself, by what streaming adds to a pass; the others, in windows and guided, by the disturbance of
    both roles. Answers are lines as in ``requests.jsonl``, with their trace."""
    plan = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "instruction": INSTRUCTION}
    cut = cut_as_served(config) or cut_at_words

    def replayed(line: Mapping[str, Any], scale: float = 1.0) -> Replayed:
        return Replayer(config, costs, plan, cut).answer(line, read_trace(line["trace"]), scale)

    costs = _streaming(_changed(_changed(costs, False, (0.0, 0.0)), True, None), 0.0)
    more_s = sum(float(alone["latency_s"]) - replayed(alone).took_s for alone, *_ in asked)
    num_passes = _num_passes(read_trace(alone["trace"]) for alone, *_ in asked)
    costs = _streaming(costs, max(more_s / max(num_passes, 1), 0.0))
    scales = [float(alone["latency_s"]) / replayed(alone).took_s for alone, *_ in asked]
    both = [
        (line, read_trace(line["trace"]), scale)
        for (_, *more), scale in zip(asked, scales, strict=True)
        for line in more
    ]
    for guided in (False, True):
        lines = [one for one in both if is_guided(one[1]) == guided]
        if not lines:
            continue
        real = [trace for _, trace, _ in lines]
        factors = (1.0, 1.0)
        for _ in range(NUM_ROUNDS):
            costs = _changed(costs, guided, (factors[0] - 1.0, factors[1] - 1.0))
            again = [read_trace(replayed(line, scale).trace) for line, _, scale in lines]
            factors = (
                max(factors[0] * _over(_pass_s(real), _pass_s(again)) ** 0.5, 1.0),
                max(factors[1] * _over(_token_s(real), _token_s(again)) ** 0.5, 1.0),
            )
        found = (factors[0] - 1.0, factors[1] - 1.0)
        costs = _changed(costs, guided, found)
        if len(lines) == len(both):
            costs = _changed(costs, False, found)  # the other way was not seen
    return costs


def _modes(config: Config) -> list[str]:
    """The target alone, windows where a fidelity has them, and what the default is; the two that draft as often as
    they can."""
    fidelities = config.speculation.fidelities
    windows = next((name for name in reversed(fidelities) if name != EXACT), None)
    modes = [ALONE, f"lookahead:{windows}:none:controller=off"] if windows is not None else [ALONE]
    return [*modes, f"lookahead:{EXACT}:controller=off" if EXACT in fidelities else "lookahead:controller=off"]


def _ask(client: httpx.Client, config: Config, mode: str, question: str, tell: Callable[[], None]) -> dict[str, Any]:
    body = {
        "model": config.served_model_name,
        "messages": [{"role": "user", "content": f"{question}\n\n{INSTRUCTION}"}],
        "temperature": 0.0,
        "max_tokens": MAX_TOKENS,
        "speculation": wishes(mode),
    }
    try:
        answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        trace = client.get(f"/v1/traces/{answer['id']}").raise_for_status().json()
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise ServiceError(f"The server did not answer as it was timed: {error}.") from error
    tell()
    return {
        "mode": mode,
        "question": question,
        "usage": answer["usage"],
        "finish_reason": answer["choices"][0]["finish_reason"],
        "latency_s": trace["duration_s"],
        "trace": trace,
    }


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


def _streaming(costs: CostFile, stream_s: float) -> CostFile:
    return costs.model_copy(update={"target": costs.target.model_copy(update={"stream_s": stream_s})})


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
