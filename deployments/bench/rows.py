"""The rows and pairs of a report: pure functions of what was measured.

Promises: a failed request is counted and never dropped; a ratio is always taken between two answers to the same prompt
under the same load; the same requests give the same rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from statistics import mean, median
from typing import Any

from deployments.bench.equal_hardware import speculation_of
from deployments.bench.figures import bootstrap_ci, busy_s, quantile, share_ci, sign_test
from deployments.bench.plan import Load, Plan, groups
from deployments.bench.record import Measurement, latest
from deployments.bench.time_use import PARTS
from deployments.bench.token_counts import acceptance
from deployments.bench.variants import address, baseline, wishes

_Row = tuple[Load, str]
"""A row of the report: its load and its mode."""
DEFINITIONS: Mapping[str, str] = {
    "time_per_output_token": "latency of a request / its output tokens",
    "speedup_vs_target": "median over prompts of (time per output token in the baseline / in this mode), for the same "
    "prompt under the same load in the same run",
    "speedup_ci95": "95 % interval of that median: percentile bootstrap, paired and seeded, over prompts; with several "
    "requests at once and in an open loop over the blocks in which prompts were asked, since those of one block share "
    "the state of the machine; none for fewer than three",
    "num_blocks": "how many prompts, or blocks of prompts, that interval is drawn from",
    "latency_ratio_vs_target": "median over prompts of (latency in the baseline / in this mode), whatever the "
    "answers' lengths",
    "wall_s": "closed loop: seconds in which at least one request of the mode was in flight; open loop: from the first "
    "arrival of each block to its last answer",
    "tokens_per_s": "output tokens of whole answers / wall_s",
    "num_tried_again": "answers that do not count, since their request was asked again",
    "num_failed_before": "requests that failed and were asked again",
    "goodput_per_s": "requests that were answered whole and within the objective / wall_s; a failed request misses it",
    "latency_and_ttft": "of whole answers; ttft_s is the time to the first text, reasoning included; first_step_s the "
    "time until the first step was there as a whole; longest_silence_s the longest wait between two texts",
    "accuracy": "right final answers / requests whose answer could be judged; a failed request is a wrong answer; none "
    "while an answer of the row is a program that was not run yet",
    "accuracy_difference": "accuracy in this mode less accuracy in the baseline over the prompts judged in both; the "
    "interval is a bootstrap over prompts; none while a program of one of the two was not run yet",
    "accuracy_difference_p": "exact two-sided sign test over the prompts that one of the two has right and the other "
    "wrong: how often chance alone would part them so far; a difference is called one below 0.05",
    "over_vllm": "each of our rows beside a row of vLLM's own server, which `against` names, in the place of the "
    "baseline: speedup_vs_target and all else that compares are over that row",
    "accept_rate": "accepted / (accepted + recovered) steps over all requests",
    "accept_rate_by_tokens": "the draft's tokens that were committed / all tokens that the draft wrote",
    "accept_rate_by_position": "accepted / judged draft steps, by how many steps before them were still undecided when "
    "their drafting began",
    "token_acceptance": "by role: what engines proposed to themselves and their model agreed with; acceptance_rate is "
    "accepted / proposed tokens, tokens_per_draft counts the model's own token, accepted_per_position by place",
    "token_acceptance_rate": "acceptance_rate of the target's engine",
    "time_use": "mean seconds of a whole answer, each instant counted once, for what went on in it",
    "num_untraced": "whole answers of our server without a whole step trace; num_traced: answers with one",
}


@dataclass(frozen=True, slots=True)
class Objective:
    """What a user expects of one answer, in seconds; None expects nothing."""

    latency_s: float | None = None
    ttft_s: float | None = None

    def is_met(self, line: Measurement) -> bool:
        """Whether `line` was answered whole and in time."""
        if not line.is_whole or (self.ttft_s is not None and (line.ttft_s is None or line.ttft_s > self.ttft_s)):
            return False
        return self.latency_s is None or line.latency_s <= self.latency_s

    @property
    def is_given(self) -> bool:
        """Whether anything is expected."""
        return self.latency_s is not None or self.ttft_s is not None


def pairs(lines: Iterable[Measurement], plan: Plan, against: str) -> list[dict[str, Any]]:
    """One entry for each prompt that was answered whole both by the variant `against` and by another one. Speeds by
    token are None where the endpoint did not say how many tokens it wrote. Those of one `block` met the machine in the
    same state: their prompts are asked together, and of one prompt alone where one runs at a time."""
    whole = {key: line for key, line in latest(lines).items() if line.is_whole}
    group_of = {
        (load, index): number
        for load in plan.loads
        for number, indices in enumerate(groups(plan, load))
        for index in indices
    }
    found = []
    for (load, mode, index), line in sorted(whole.items(), key=lambda item: (item[0][0].order, *item[0][1:])):
        base = whole.get((load, against, index))
        if mode == against or base is None:
            continue
        base_s, own_s = _s_per_token(base), _s_per_token(line)
        found.append(
            {
                "concurrency": load.concurrency,
                "rate": load.rate,
                "mode": mode,
                "index": index,
                "block": group_of[load, index],
                "target_s_per_token": base_s,
                "s_per_token": own_s,
                "speedup": None if base_s is None or own_s is None else base_s / own_s,
                "latency_ratio": base.latency_s / line.latency_s,
                "target_output_tokens": base.output_tokens,
                "output_tokens": line.output_tokens,
                "target_correct": base.correct,
                "correct": line.correct,
            }
        )
    return found


def _s_per_token(line: Measurement) -> float | None:
    return line.latency_s / line.output_tokens if line.output_tokens else None


def rows(
    lines: Sequence[Measurement],
    plan: Plan,
    token_speculation: str | None = None,
    objective: Objective | None = None,
    own: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One row for each load and mode that was measured, in the order of loads and of the plan's modes. The deployment's
    target speculates on tokens by `token_speculation`, vLLM's own servers by `own`, which is by mode."""
    asked, against = _by_row(lines, plan), baseline(plan.modes)
    last, num_lines = latest(lines), Counter((line.load, line.mode) for line in lines)
    failed_before = {line.key for line in lines if not line.is_whole and line is not last[line.key]}
    num_failed_before = Counter((load, mode) for load, mode, _ in failed_before)
    compared = _compare(asked, plan, against)
    return [
        {
            "mode": mode,
            "token_speculation": (own or {}).get(mode) or _token_speculation(mode, token_speculation),
            "concurrency": load.concurrency,
            "rate": load.rate,
            **_counts(group, num_lines[load, mode], objective or Objective()),
            "num_failed_before": num_failed_before[load, mode],
            **_steps(group),
            **compared[load, mode],
            **_from_traces(group),
            **_tokens(group),
        }
        for (load, mode), group in asked.items()
    ]


def over_vllm(lines: Iterable[Measurement], plan: Plan) -> list[dict[str, Any]]:
    """Each of our rows beside each row of vLLM's own server that is not the baseline, under the same load."""
    asked = _by_row(lines, plan)
    others = [mode for mode in plan.modes if speculation_of(mode) is not None and mode != baseline(plan.modes)]
    return [
        {"mode": mode, "against": other, "concurrency": load.concurrency, "rate": load.rate, **compared}
        for other in others
        for (load, mode), compared in _compare(asked, plan, other).items()
        if wishes(mode) and (load, other) in asked
    ]


def _by_row(lines: Iterable[Measurement], plan: Plan) -> dict[_Row, list[Measurement]]:
    found: dict[_Row, list[Measurement]] = defaultdict(list)
    for line in latest(lines).values():
        found[line.load, line.mode].append(line)
    return dict(sorted(found.items(), key=lambda item: (item[0][0].order, plan.modes.index(item[0][1]))))


def _compare(asked: Mapping[_Row, Sequence[Measurement]], plan: Plan, against: str) -> dict[_Row, dict[str, Any]]:
    """Each row beside the row `against` under the same load: speed, latency, accuracy."""
    ratios: dict[_Row, list[dict[str, Any]]] = defaultdict(list)
    for pair in pairs(chain.from_iterable(asked.values()), plan, against):
        ratios[Load(pair["concurrency"], pair["rate"]), pair["mode"]].append(pair)
    return {
        (load, mode): {
            **_accuracy(group, [] if mode == against else asked.get((load, against), []), plan.seed),
            **_ratios(mode == against, ratios[load, mode], plan.seed),
        }
        for (load, mode), group in asked.items()
    }


def _token_speculation(mode: str, configured: str | None) -> str | None:
    """How the target speculates on tokens in the row `mode`; None where another server answers it, which knows that
    alone."""
    asked: str | None = wishes(mode).get("token_speculation")
    return asked or (None if address(mode) or speculation_of(mode) else configured)


def _counts(group: Sequence[Measurement], num_lines: int, objective: Objective) -> dict[str, Any]:
    whole = [line for line in group if line.is_whole]
    wall, tokens, num_met = _wall_s(group), sum(line.output_tokens for line in whole), sum(map(objective.is_met, group))
    return {
        "num_requests": len(group),
        "num_failed": len(group) - len(whole),
        "failures": dict(Counter(line.error for line in group if line.error is not None)),
        "num_tried_again": num_lines - len(group),
        "wall_s": wall,
        "output_tokens": tokens,
        "num_without_token_count": sum(map(_is_uncounted, whole)),
        "tokens_per_s": tokens / wall if wall else 0.0,
        "requests_per_s": len(whole) / wall if wall else 0.0,
        "mean_in_flight": sum(line.latency_s for line in group) / wall if wall else 0.0,
        **_seconds("latency", [line.latency_s for line in whole]),
        **_seconds("ttft", [line.ttft_s for line in whole]),
        **_seconds("first_step", [line.first_step_s for line in whole]),
        **_seconds("longest_silence", [line.longest_silence_s for line in whole]),
        "sent_late_max_s": max((line.late_s for line in group), default=0.0),
        "num_in_objective": num_met if objective.is_given else None,
        "share_in_objective": num_met / len(group) if objective.is_given else None,
        "goodput_per_s": (num_met / wall if wall else 0.0) if objective.is_given else None,
    }


def _is_uncounted(line: Measurement) -> bool:
    return not line.output_tokens and (line.usage or {}).get("completion_tokens") is None


def _seconds(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {f"{name}_p50_s": quantile(known, 0.5), f"{name}_p95_s": quantile(known, 0.95)}


def _wall_s(group: Sequence[Measurement]) -> float:
    """An open loop is at work also while nobody asks; a closed one is not, since then another mode is measured."""
    if group[0].rate is None:
        return busy_s((line.started_at, line.ended_at) for line in group)
    starts = [line.block_started_at or line.started_at for line in group]
    return busy_s(zip(starts, (line.ended_at for line in group), strict=True))


def _steps(group: Sequence[Measurement]) -> dict[str, Any]:
    told = [line.speculation or {} for line in group]
    accepted, recovered, target, drafted = (
        sum(int(one.get(f"num_{name}_steps") or 0) for one in told)
        for name in ("accepted", "recovered", "target", "draft")
    )
    details = [(line.usage or {}).get("completion_tokens_details") or {} for line in group]
    kept, wasted = (
        sum(int(one.get(f"{name}_prediction_tokens") or 0) for one in details) for name in ("accepted", "rejected")
    )
    tokens = sum(line.output_tokens for line in group if line.speculation)
    judged = accepted + recovered
    return {
        "accept_rate": accepted / judged if judged else None,
        "accept_rate_by_tokens": kept / (kept + wasted) if kept + wasted else None,
        "draft_token_share": kept / tokens if tokens and kept + wasted else None,
        "num_accepted_steps": accepted,
        "num_recovered_steps": recovered,
        "num_target_steps": target,
        "num_draft_steps": drafted,
        **_cut([line.correct for line in group if line.finish_reason == "length"]),
    }


def _cut(grades: Sequence[bool | None]) -> dict[str, int]:
    """About the answers that were cut at the token limit, each right, wrong or not graded."""
    names = ("num_cut_at_max_tokens", "num_cut_graded", "num_cut_wrong")
    return dict(zip(names, (len(grades), len(grades) - grades.count(None), grades.count(False)), strict=True))


def _accuracy(group: Sequence[Measurement], base: Sequence[Measurement], seed: int) -> dict[str, Any]:
    """While a program waits to be run, what is graded is what failed or was cut: no share of the row's answers."""
    graded = {line.index: line.correct for line in group if line.correct is not None}
    judged = {} if any(map(_waits, group)) else graded
    before = {} if any(map(_waits, base)) else {line.index: line.correct for line in base if line.correct is not None}
    changes = [float(judged[index]) - float(before[index]) for index in sorted(judged) if index in before]
    num_right = sum(judged.values())
    return {
        "accuracy": num_right / len(judged) if judged else None,
        "accuracy_ci95": share_ci(num_right, len(judged)),
        "num_graded": len(graded),
        "accuracy_difference": mean(changes) if changes else None,
        "accuracy_difference_ci95": bootstrap_ci(changes, seed, of_mean=True),
        "accuracy_difference_p": sign_test(changes.count(1.0), changes.count(-1.0)) if changes else None,
    }


def _waits(line: Measurement) -> bool:
    return line.review is not None and line.review.waits


def _ratios(is_baseline: bool, ratios: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    if is_baseline:
        return {
            "speedup_vs_target": 1.0,
            "speedup_ci95": None,
            "latency_ratio_vs_target": 1.0,
            "latency_ratio_ci95": None,
            "num_pairs": 0,
            "num_latency_pairs": 0,
            "num_blocks": 0,
        }
    counted = [pair for pair in ratios if pair["speedup"] is not None]
    found: dict[str, Any] = {}
    for name, some in (("speedup", counted), ("latency_ratio", ratios)):
        values = [float(pair[name]) for pair in some]
        found[f"{name}_vs_target"] = median(values) if values else None
        found[f"{name}_ci95"] = bootstrap_ci(values, seed, blocks=[pair["block"] for pair in some])
    num_blocks = len({pair["block"] for pair in counted or ratios})
    return {**found, "num_pairs": len(counted), "num_latency_pairs": len(ratios), "num_blocks": num_blocks}


def _from_traces(group: Sequence[Measurement]) -> dict[str, Any]:
    reviews = [line.review for line in group if line.review is not None]
    used = [review.time_use for review in reviews if review.time_use is not None]
    places = zip_longest(*(review.positions for review in reviews if review.positions), fillvalue=(0, 0))
    positions = [[sum(place[0] for place in found), sum(place[1] for place in found)] for found in places]
    return {
        "num_traced": sum(review.positions is not None for review in reviews),
        "num_untraced": sum(map(_is_untraced, group)),
        "time_use": {part: mean(one.get(part, 0.0) for one in used) for part in PARTS} if used else None,
        "num_steps_by_position": positions or None,
        "accept_rate_by_position": [hits / (hits + misses) if hits + misses else None for hits, misses in positions]
        or None,
    }


def _is_untraced(line: Measurement) -> bool:
    """Whether a whole answer of ours was looked at without its trace."""
    return line.is_whole and line.speculation is not None and line.review is not None and line.review.positions is None


def _tokens(group: Sequence[Measurement]) -> dict[str, Any]:
    found = acceptance(line.review.token_counts for line in group if line.review is not None)
    return {
        "token_acceptance_rate": found.get("target", {}).get("acceptance_rate"),
        "token_acceptance": found,
    }
