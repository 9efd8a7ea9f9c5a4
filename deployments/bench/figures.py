"""The numbers of a report: pure functions of what was measured.

Promises: a failed request is counted and never dropped; a ratio is always taken between two answers to the same prompt
at the same concurrency; every interval comes from a seed, so that the same requests give the same report.

Definitions: *time per output token* = latency / output tokens. *speed-up* of a mode = median over prompts of (the
target's time per output token / the mode's). *latency ratio* = median over prompts of (the target's latency / the
mode's), which also counts that answers differ in length. *wall_s* = time in which at least one request of the mode ran.
*tokens_per_s* = output tokens of whole answers / wall_s.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from deployments.bench.record import Measurement, latest
from deployments.bench.token_counts import acceptance
from deployments.bench.variants import baseline, wishes

_NUM_RESAMPLES = 4000
_LEVEL = 0.95
_Z95 = 1.959964

DEFINITIONS: Mapping[str, str] = {
    "time_per_output_token": "latency of a request / its output tokens",
    "speedup_vs_target": "median over prompts of (time per output token in mode target / in this mode), for the same "
    "prompt at the same concurrency in the same run",
    "speedup_ci95": "95 % interval of that median: percentile bootstrap over prompts",
    "latency_ratio_vs_target": "median over prompts of (latency in mode target / in this mode), whatever the "
    "answers' lengths",
    "wall_s": "seconds in which at least one request of the mode was in flight",
    "tokens_per_s": "output tokens of whole answers / wall_s",
    "latency_and_ttft": "of whole answers; ttft_s is the time to the first text, reasoning included",
    "accuracy": "right final answers / requests whose right answer is known; a failed request is a wrong answer",
    "accept_rate": "accepted / (accepted + recovered) steps over all requests",
    "token_acceptance": "by role: what engines proposed to themselves and their model agreed with; acceptance_rate is "
    "accepted / proposed tokens, tokens_per_draft counts the model's own token, accepted_per_position by place",
    "token_acceptance_rate": "acceptance_rate of the target's engine",
}


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of the values lie, between neighbours in proportion; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def bootstrap_ci(values: Sequence[float], seed: int) -> tuple[float, float] | None:
    """95 % percentile interval of the median; None for fewer than three values, which say nothing of their spread."""
    if len(values) < 3:
        return None
    draws = np.random.default_rng(seed).choice(np.asarray(values), size=(_NUM_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(low), float(high)


def share_ci(num_hits: int, num_tries: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a share; None of no tries."""
    if not num_tries:
        return None
    share, z2 = num_hits / num_tries, _Z95**2
    middle = (share + z2 / (2 * num_tries)) / (1 + z2 / num_tries)
    spread = math.sqrt(share * (1 - share) / num_tries + z2 / (4 * num_tries**2)) * _Z95 / (1 + z2 / num_tries)
    return max(0.0, middle - spread), min(1.0, middle + spread)


def busy_s(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of the intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def pairs(lines: Iterable[Measurement], against: str) -> list[dict[str, Any]]:
    """One entry for each prompt that was answered whole both by the variant `against` and by another one."""
    whole = {key: line for key, line in latest(lines).items() if line.error is None and line.output_tokens > 0}
    found = []
    for (concurrency, mode, index), line in sorted(whole.items()):
        base = whole.get((concurrency, against, index))
        if mode == against or base is None:
            continue
        base_s, own_s = base.latency_s / base.output_tokens, line.latency_s / line.output_tokens
        found.append(
            {
                "concurrency": concurrency,
                "mode": mode,
                "index": index,
                "target_s_per_token": base_s,
                "s_per_token": own_s,
                "speedup": base_s / own_s,
                "latency_ratio": base.latency_s / line.latency_s,
                "target_output_tokens": base.output_tokens,
                "output_tokens": line.output_tokens,
                "target_correct": base.correct,
                "correct": line.correct,
            }
        )
    return found


def rows(
    lines: Sequence[Measurement], modes: Sequence[str], seed: int, token_speculation: str | None = None
) -> list[dict[str, Any]]:
    """One row for each concurrency and mode that was measured, in the order of `modes`."""
    groups: dict[tuple[int, str], list[Measurement]] = defaultdict(list)
    for line in latest(lines).values():
        groups[line.concurrency, line.mode].append(line)
    num_lines = Counter((line.concurrency, line.mode) for line in lines)
    ratios: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    against = baseline(modes)
    for pair in pairs(lines, against):
        ratios[pair["concurrency"], pair["mode"]].append(pair)
    return [
        {
            "mode": mode,
            "token_speculation": wishes(mode).get("token_speculation", token_speculation),
            "concurrency": concurrency,
            **_counts(groups[concurrency, mode], num_lines[concurrency, mode]),
            **_quality(groups[concurrency, mode]),
            **_tokens(groups[concurrency, mode]),
            **_ratios(mode == against, ratios[concurrency, mode], seed),
        }
        for concurrency, mode in sorted(groups, key=lambda key: (key[0], modes.index(key[1])))
    ]


def _counts(group: Sequence[Measurement], num_lines: int) -> dict[str, Any]:
    whole = [line for line in group if line.error is None]
    latencies = [line.latency_s for line in whole]
    wall = busy_s((line.started_at, line.ended_at) for line in group)
    tokens = sum(line.output_tokens for line in whole)
    return {
        "num_requests": len(group),
        "num_failed": len(group) - len(whole),
        "num_tried_again": num_lines - len(group),
        "wall_s": wall,
        "output_tokens": tokens,
        "tokens_per_s": tokens / wall if wall else 0.0,
        "latency_p50_s": quantile(latencies, 0.5),
        "latency_p95_s": quantile(latencies, 0.95),
        "ttft_p50_s": quantile([line.ttft_s for line in whole if line.ttft_s is not None], 0.5),
    }


def _quality(group: Sequence[Measurement]) -> dict[str, Any]:
    known = [line for line in group if line.answer is not None]
    num_right = sum(line.correct is True for line in known)
    steps = [line.speculation or {} for line in group]
    accepted, recovered, target, drafted = (
        sum(int(s.get(f"num_{name}_steps") or 0) for s in steps)
        for name in ("accepted", "recovered", "target", "draft")
    )
    judged = accepted + recovered
    return {
        "accuracy": num_right / len(known) if known else None,
        "accuracy_ci95": share_ci(num_right, len(known)),
        "num_cut_at_max_tokens": sum(line.finish_reason == "length" for line in group),
        "accept_rate": accepted / judged if judged else None,
        "num_accepted_steps": accepted,
        "num_recovered_steps": recovered,
        "num_target_steps": target,
        "num_draft_steps": drafted,
    }


def _tokens(group: Sequence[Measurement]) -> dict[str, Any]:
    found = acceptance(line.token_counts for line in group)
    return {
        "token_acceptance_rate": found.get("target", {}).get("acceptance_rate"),
        "token_acceptance": found,
    }


def _ratios(is_baseline: bool, ratios: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    if is_baseline:
        return {
            "speedup_vs_target": 1.0,
            "speedup_ci95": None,
            "latency_ratio_vs_target": 1.0,
            "latency_ratio_ci95": None,
            "num_pairs": 0,
        }
    speedups = [float(p["speedup"]) for p in ratios]
    latencies = [float(p["latency_ratio"]) for p in ratios]
    return {
        "speedup_vs_target": median(speedups) if speedups else None,
        "speedup_ci95": bootstrap_ci(speedups, seed),
        "latency_ratio_vs_target": median(latencies) if latencies else None,
        "latency_ratio_ci95": bootstrap_ci(latencies, seed),
        "num_pairs": len(speedups),
    }
