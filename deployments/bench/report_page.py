"""``report.html``: the claim first, then the pictures, the numbers, and how to run it again.

Promises: one file that needs no network and no script; text from elsewhere stands in it as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from deployments.bench import plots
from deployments.bench.claims import Row, load_of
from deployments.bench.equal_hardware import method_of
from deployments.bench.time_use import PARTS
from deployments.pages import fill

_COLUMNS = (
    ("mode", "mode", "{}"),
    ("load", "load", "{}"),
    ("num_requests", "requests", "{}"),
    ("num_failed", "failed", "{}"),
    ("tokens_per_s", "tokens/s", "{:.1f}"),
    ("latency_p50_s", "latency p50, s", "{:.2f}"),
    ("latency_p95_s", "p95, s", "{:.2f}"),
    ("ttft_p50_s", "first text p50, s", "{:.2f}"),
    ("first_step_p50_s", "first step p50, s", "{:.2f}"),
    ("longest_silence_p50_s", "silence p50, s", "{:.2f}"),
    ("share_in_objective", "in objective", "{:.0%}"),
    ("goodput_per_s", "goodput/s", "{:.3f}"),
    ("accuracy", "right", "{:.0%}"),
    ("accept_rate", "accepted steps", "{:.0%}"),
    ("accept_rate_by_tokens", "accepted tokens", "{:.0%}"),
    ("speedup_vs_target", "speed-up", "{:.2f}"),
    ("speedup_ci95", "95 % interval", "{0[0]:.2f} to {0[1]:.2f}"),
    ("latency_ratio_vs_target", "latency ratio", "{:.2f}"),
)
_HARDWARE = ("data_parallel_size", "tensor_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization")
"""Options of vLLM's that say what it has; all of them stand in the environment."""
_ALWAYS = 6
"""So many columns are shown even where no row has a value."""


def page(report: Mapping[str, Any]) -> str:
    """The whole page for the content of ``report.json``."""
    environment = report["environment"]
    values = {
        "headline": escape(report["headline"]),
        "notes": _notes(report),
        "claims": "".join(f"<li>{escape(text)}</li>" for text in report["claims"]),
        "facts": _facts(report),
        "legend": _legend(report["rows"], report["baseline"]),
        "figures": "".join(_figures(report)),
        "table": _table(report["rows"]),
        "definitions": "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in report["definitions"].items()
        ),
        "command": escape(str(environment.get("command", ""))),
        "environment": escape(json.dumps(environment, indent=2, ensure_ascii=False)),
    }
    return fill("deployments.bench", "report.html", values)


def _notes(report: Mapping[str, Any]) -> str:
    notes = list(report["notes"])
    if not report["complete"]:
        num, num_left = report["num_requests_planned"], report["num_requests_left"]
        notes.insert(0, f"This run is not finished: {num - num_left} of {num} requests are kept.")
    return "".join(f'<p class="note">{escape(text)}</p>' for text in notes)


def _facts(report: Mapping[str, Any]) -> str:
    """What a reader asks first: on which machine, which model, over which data, how many requests."""
    environment = report["environment"]
    plan = environment.get("plan") or {}
    machines = map(_machine, (*environment.get("earlier_machines", ()), environment))
    facts = {
        "machine": "; then ".join(dict.fromkeys(machines)),
        "server": plan.get("server"),
        "model": _models(environment.get("models") or {}),
        "vLLM's own server": "; ".join(
            f"{mode}: {_own(server)}" for mode, server in environment.get("own", {}).items()
        ),
        "data": f"{plan['data']}, {plan['num_problems']} problems" if "data" in plan else None,
        "asked": f"{sum(row['num_requests'] for row in report['rows'])} requests",
        "sampling": f"temperature {plan['temperature']:g}, at most {plan['max_tokens']} tokens, seed {plan['seed']}"
        if "temperature" in plan
        else None,
        "code": environment.get("sandbox"),
    }
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items() if v)


def _machine(facts: Mapping[str, Any]) -> str:
    words = [facts.get("cpu"), f"{facts['num_cores']} cores" if "num_cores" in facts else None, *facts.get("gpus", ())]
    words += [f"{facts['memory_gib']} GiB" if "memory_gib" in facts else None]
    return ", ".join(str(word) for word in words if word)


def _own(server: Mapping[str, Any]) -> str:
    """What a row of vLLM's own server was started with, as far as it is about speed and hardware."""
    options = server["options"]
    words = [
        f"token speculation {method_of(options)}",
        f"cores {server['cores']}" if server["cores"] else None,
        *(f"{name} {options[name]}" for name in _HARDWARE if name in options),
    ]
    return ", ".join(word for word in words if word)


def _models(models: Mapping[str, str]) -> str:
    """Who answered: one name, or each mode with its own."""
    names = list(dict.fromkeys(models.values()))
    return names[0] if len(names) == 1 else "; ".join(f"{mode}: {model}" for mode, model in models.items())


def _legend(rows: Sequence[Row], against: str) -> str:
    named = plots.colours(rows, against)
    modes = [mode for mode in named if any(row["mode"] == mode for row in rows)]
    return "".join(f'<span><i class="{named[mode]}"></i>{escape(mode)}</span>' for mode in modes)


def _figures(report: Mapping[str, Any]) -> list[str]:
    rows, pairs, against = report["rows"], report["pairs"], report["baseline"]
    parts = "".join(f'<span><i class="t-{part}"></i>{escape(words)}</span>' for part, words in PARTS.items())
    objective = report.get("objective") or {}
    wished = ", ".join(
        f"{words} within {objective[name]:g} s"
        for name, words in (("ttft_s", "first text"), ("latency_s", "whole answer"))
        if objective.get(name) is not None
    )
    latency = "The dot is the median; the line above it ends at the 95th percentile."
    found = [
        (
            "Speed-up, prompt by prompt",
            f"Over {against}, by output token. A dot is one prompt, the diamond their median, the bar its 95 % "
            "interval. Right of the dashed line is faster.",
            plots.speed_ups(rows, pairs, against),
        ),
        ("Latency against load", latency, plots.latency_against_load(rows, against, open_loop=False)),
        ("Latency against arrivals", latency, plots.latency_against_load(rows, against, open_loop=True)),
        (
            "Where the time went",
            "Mean seconds of one answer; each instant counts once.",
            (f'<p class="legend">{parts}</p>' if any(row.get("time_use") for row in rows) else "")
            + plots.time_use(rows),
        ),
        (
            "Tokens a second",
            "Output tokens of all whole answers over the time in which the mode was at work.",
            plots.bars(rows, "tokens_per_s", "{:.1f}", "Output tokens a second", against),
        ),
        (
            "Goodput",
            f"Answers a second that kept the objective: {wished}.",
            plots.bars(rows, "goodput_per_s", "{:.3f}", "Answers a second within the objective", against),
        ),
        *(
            (
                f"How long a reader waits, {load}",
                "First text, first whole step and longest silence: the median, and a line up to the 95th percentile.",
                plots.waits([row for row in rows if load_of(row) == load], rows, against),
            )
            for load in dict.fromkeys(map(load_of, rows))
        ),
        (
            "Accuracy against speed",
            f"Share of right answers with its 95 % interval, {load_of(rows[0])}." if rows else "",
            plots.accuracy_against_speed([row for row in rows if load_of(row) == load_of(rows[0])], against),
        ),
        (
            "Acceptance by position",
            "Accepted of judged draft steps, by how far ahead they were drafted.",
            plots.acceptance_by_position(rows, against),
        ),
    ]
    return [
        f"<figure><figcaption><h2>{escape(title)}</h2><p>{escape(words)}</p></figcaption>{drawing}</figure>"
        for title, words, drawing in found
        if drawing
    ]


def _table(rows: Sequence[Row]) -> str:
    filled = [{**row, "load": load_of(row)} for row in rows]
    shown = [c for n, c in enumerate(_COLUMNS) if n < _ALWAYS or any(row.get(c[0]) is not None for row in filled)]
    head = "".join(f"<th>{escape(title)}</th>" for _, title, _ in shown)
    body = "".join(f"<tr>{''.join(_cell(row.get(name), form) for name, _, form in shown)}</tr>" for row in filled)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any, form: str) -> str:
    return "<td>-</td>" if value is None else f"<td>{escape(form.format(value))}</td>"
