"""What the rows of a report show, in sentences.

Promises: a claim follows from the rows alone; a difference whose interval holds 1 is not called a gain, and a loss is
called a loss; a difference in accuracy is one that chance alone hardly makes; the headline says how many modes its mode
was chosen from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.bench.plan import Load

Row = Mapping[str, Any]
_FEW = 8
"""A bootstrap of fewer values holds the true median less often than it says."""
_CHANCE = 0.05
"""A difference in accuracy that chance alone makes as often as this, or more often, is not called one."""


def load_of(row: Row) -> Load:
    """Under which load a row was measured."""
    return Load(row["concurrency"], row.get("rate"))


def describe_load(load: Load) -> str:
    """A load within a sentence."""
    if load.rate is not None:
        return f"{load.rate:g} requests a second"
    return "one request at a time" if load.concurrency == 1 else f"{load.concurrency} requests at once"


def headline(rows: Sequence[Row], against: str) -> str:
    """The one sentence that a report begins with: the mode that is best under the first load, and its worst load."""
    others = [row for row in rows if row["mode"] != against]
    if not others:
        return "Only one mode was measured: there is nothing to compare."
    first = [row for row in others if load_of(row) == load_of(others[0])]
    compared = [row for row in first if row["speedup_vs_target"] is not None]
    if not compared:
        return _why_nothing(first, against)
    best = max(compared, key=_rank)
    text = _verdict(best, against)
    if len(first) > 1:
        has_interval = best["speedup_ci95"] is not None
        how = "the one whose interval begins highest" if has_interval else "the highest, and none has an interval"
        text += f", of {len(first)} modes {how}"
    text += _accuracy_clause(best, short=True)
    elsewhere = [row for row in others if row["mode"] == best["mode"] and row["speedup_vs_target"] and row is not best]
    if elsewhere:
        worst = min(elsewhere, key=lambda row: row["speedup_vs_target"])
        text += f"; with {describe_load(load_of(worst))} {_short_verdict(worst)}"
    return text + "."


def _rank(row: Row) -> tuple[bool, float]:
    """Where the interval begins; rows without one come behind, by what was measured."""
    interval = row["speedup_ci95"]
    return interval is not None, interval[0] if interval else row["speedup_vs_target"]


def _why_nothing(rows: Sequence[Row], against: str) -> str:
    if all(row["latency_ratio_vs_target"] is None for row in rows):
        return f"Nothing can be compared: no prompt was answered whole both by {against} and by another mode."
    return (
        f"No speed by token can be compared: no prompt has a token count both from {against} and from another mode. "
        "Latencies can."
    )


def claim(row: Row, against: str) -> str:
    """One sentence on what a row shows against the variant `against` under the same load."""
    if row["speedup_vs_target"] is not None:
        return f"{_verdict(row, against)}{_accuracy_clause(row)}."
    where, ratio, interval = describe_load(load_of(row)), row["latency_ratio_vs_target"], row["latency_ratio_ci95"]
    if ratio is None:
        return f"With {where}: no prompt was answered whole both by {row['mode']} and by {against}."
    spread = f"95 % interval {interval[0]:.2f} to {interval[1]:.2f}, " if interval else ""
    return (
        f"With {where}: no prompt has a token count both from {row['mode']} and from {against}, so there is no speed "
        f"by token; a whole answer of {against} took {ratio:.2f} times as long "
        f"({spread}{_num(row['num_latency_pairs'], 'prompt')}){_accuracy_clause(row)}."
    )


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader has to know about the figures: failures, answers that were cut or not counted, lateness."""
    late = max((row["sent_late_max_s"] for row in rows), default=0.0)
    found = [*_failures(rows), *_asked_again(rows), *_cut_answers(rows), *_untraced(rows)]
    if uncounted := dict.fromkeys(row["mode"] for row in rows if row["num_without_token_count"]):
        found.append(
            f"Answers came without a token count (no `usage` in the stream) from {', '.join(uncounted)}: they have no "
            "speed by token and add nothing to tokens a second."
        )
    if any(row["speedup_ci95"] and row["num_blocks"] < _FEW for row in rows):
        found.append(
            f"Intervals of fewer than {_FEW} prompts, or blocks of prompts, are narrower than they should be: "
            "take more prompts."
        )
    found += _unturned(rows)
    if late > 0.1:
        found.append(f"The client sent requests up to {late:.2f} s after their time: it was short of CPU itself.")
    return found


def _failures(rows: Sequence[Row]) -> list[str]:
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons.update(row["failures"])
    if not reasons:
        return []
    ((most, number),) = reasons.most_common(1)
    return [
        f"{reasons.total()} requests failed; they count as failed, as wrong answers and as outside the objective. "
        f"The most frequent reason, {number} times: {most}"
    ]


def _asked_again(rows: Sequence[Row]) -> list[str]:
    """What no row counts as failed any more, by mode."""
    nums: Counter[str] = Counter()
    for row in rows:
        nums[row["mode"]] += row["num_failed_before"]
    return [
        f"1 request of {mode} failed and was asked again; its last answer counts."
        if num == 1
        else f"{num} requests of {mode} failed and were asked again; their last answers count."
        for mode, num in nums.items()
        if num
    ]


def _cut_answers(rows: Sequence[Row]) -> list[str]:
    cut, graded, wrong = (
        sum(row[name] for row in rows) for name in ("num_cut_at_max_tokens", "num_cut_graded", "num_cut_wrong")
    )
    grades = f", and {wrong} of the {graded} that were graded are wrong" if graded else ""
    return [f"{cut} answers were cut at the token limit; they are whole answers here{grades}."] if cut else []


def _untraced(rows: Sequence[Row]) -> list[str]:
    num = sum(row["num_untraced"] for row in rows)
    if not num:
        return []
    modes = ", ".join(dict.fromkeys(row["mode"] for row in rows if row["num_untraced"]))
    return [
        f"No whole step trace was to be had of {_num(num, 'answer')} ({modes}): where the time went, and acceptance by "
        "position, are of the others. A server keeps so many as telemetry.max_traces; --traces fetches each at once."
    ]


def _unturned(rows: Sequence[Row]) -> list[str]:
    """The loads under which not every mode was the first one once."""
    modes: Counter[Load] = Counter(map(load_of, rows))
    blocks: Counter[Load] = Counter()
    for row in rows:
        blocks[load_of(row)] = max(blocks[load_of(row)], row["num_blocks"])
    return [
        f"With {describe_load(load)} the order of {modes[load]} modes did not turn fully, in {_num(num, 'block')}: "
        "a machine that drifts hits them unequally. Take more prompts."
        for load, num in blocks.items()
        if 0 < num < modes[load]
    ]


def _num(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _drawn(row: Row) -> str:
    """How many prompts a figure is of, and in how many blocks they came."""
    prompts = _num(row["num_pairs"], "prompt")
    return prompts if row["num_blocks"] >= row["num_pairs"] else f"{prompts} in {_num(row['num_blocks'], 'block')}"


def _too_few(row: Row) -> str:
    """Why there is no interval."""
    is_many = row["num_pairs"] > max(2, row["num_blocks"])
    return f"{_drawn(row)}, {'too few blocks for an interval' if is_many else 'an anecdote'}"


def _verdict(row: Row, against: str) -> str:
    where, speedup, interval = describe_load(load_of(row)), row["speedup_vs_target"], row["speedup_ci95"]
    if interval is None:
        return f"With {where} {row['mode']} has {speedup:.2f} times the speed of {against} ({_too_few(row)})"
    low, high = interval
    spread = f"95 % interval {low:.2f} to {high:.2f}, {_drawn(row)}"
    if low > 1:
        return f"With {where} {row['mode']} is {speedup:.2f} times as fast as {against} ({spread})"
    if high < 1:
        return f"With {where} {row['mode']} is slower than {against}, {speedup:.2f} times its speed ({spread})"
    return f"With {where} {row['mode']} shows no difference in speed from {against}, {speedup:.2f} times ({spread})"


def _short_verdict(row: Row) -> str:
    """The ratio, and what its interval allows to say."""
    speedup, interval = row["speedup_vs_target"], row["speedup_ci95"]
    if interval is None:
        return f"it is {speedup:.2f} times ({_too_few(row)})"
    spread = f"({interval[0]:.2f} to {interval[1]:.2f})"
    if interval[0] > 1:
        return f"it is {speedup:.2f} times as fast {spread}"
    return f"it is slower, {speedup:.2f} times {spread}" if interval[1] < 1 else f"no difference is shown {spread}"


def _accuracy_clause(row: Row, short: bool = False) -> str:
    """Whether the accuracies of the prompts that both answered differ."""
    difference, interval = row["accuracy_difference"], row["accuracy_difference_ci95"]
    if difference is None or row["accuracy"] is None:
        return ""
    share, chance = f"{row['accuracy']:.0%}", row["accuracy_difference_p"]
    spread = f"interval {100 * interval[0]:+.0f} to {100 * interval[1]:+.0f}, " if interval else ""
    details = f" ({spread}sign test p = {chance:.2g})"
    if chance >= _CHANCE:
        return "; no difference in accuracy is shown" + ("" if short else f", {share}{details}")
    return f"; accuracy is {_points(difference)}, {share}" + ("" if short else details)


def _points(difference: float) -> str:
    size = abs(100 * difference)
    return f"{size:.{0 if size >= 1 else 1}f} points {'higher' if difference > 0 else 'lower'}"
