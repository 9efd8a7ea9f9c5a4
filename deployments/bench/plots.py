"""The pictures of a benchmark report, each a pure function of its rows.

Promises: a picture that the rows hold nothing for is empty text; a mode has the same colour in all of them, the
baseline is grey; intervals are drawn where they are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.bench.claims import Row, load_of
from deployments.bench.svg import EDGE, WIDTH, Drawing, linear, logarithmic, ticks
from deployments.bench.time_use import PARTS

NUM_COLOURS = 6
_LABEL = 17.0
_BAR = 15.0
_GAP = 9.0


def colours(rows: Sequence[Row], against: str) -> dict[str, str]:
    """The class of each mode."""
    others = [mode for mode in dict.fromkeys(row["mode"] for row in rows) if mode != against]
    return {against: "base"} | {mode: f"m{number % NUM_COLOURS}" for number, mode in enumerate(others)}


def speed_ups(rows: Sequence[Row], pairs: Sequence[Mapping[str, Any]], against: str) -> str:
    """For each mode and load a dot a prompt, the median, its interval; the axis is logarithmic."""
    shown = [row for row in rows if row["mode"] != against and row["speedup_vs_target"]]
    if not shown:
        return ""
    pairs = [pair for pair in pairs if pair["speedup"] is not None]
    ratios = [pair["speedup"] for pair in pairs]
    low, high = min([0.7, *ratios]) / 1.06, max([1.5, *ratios]) * 1.06
    x, tall = logarithmic(low, high, EDGE + 6, WIDTH - EDGE - 6), 46.0
    drawing = Drawing("Speed-up of each mode over the baseline, a dot for each prompt", 24 + tall * len(shown))
    marks = [t for t in (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 16, 32) if low <= t <= high]
    while len(marks) > 7:  # of a wide axis every other one is enough, and always 1
        marks = [t for number, t in enumerate(marks) if number % 2 == marks.index(1) % 2]
    for tick in marks:
        drawing.text(x(tick), 12, f"{tick:g}×", "soft", "middle")  # noqa: RUF001 - a times sign
        drawing.line(x(tick), 18, x(tick), drawing.height, "one" if tick == 1 else "grid")
    kinds = colours(rows, against)
    for number, row in enumerate(shown):
        top = 24 + tall * number
        middle, kind = top + 30, kinds[row["mode"]]
        drawing.text(EDGE, top + 12, _name(row), "halo")
        drawing.text(WIDTH - EDGE, top + 12, f"{row['speedup_vs_target']:.2f}×", "strong halo", "end")  # noqa: RUF001
        for pair in (p for p in pairs if (p["mode"], load_of(p)) == (row["mode"], load_of(row))):
            title = f"prompt {pair['index']}: {pair['speedup']:.2f}"
            drawing.dot(x(pair["speedup"]), middle + (pair["index"] * 7 % 5 - 2) * 3, 3, f"{kind} faint", title)
        if row["speedup_ci95"]:
            left, right = map(x, row["speedup_ci95"])
            drawing.bar(left, middle - 2.5, right - left, 5, kind)
        drawing.diamond(x(row["speedup_vs_target"]), middle, f"{kind} mark")
    return drawing.render()


def bars(rows: Sequence[Row], field: str, form: str, label: str, against: str) -> str:
    """A bar for each row that has `field`."""
    shown = [row for row in rows if row.get(field) is not None]
    most = max((row[field] for row in shown), default=0.0)
    if not most:
        return ""
    x, tall = linear(0, most, 0, WIDTH - 2 * EDGE - 64), _LABEL + _BAR + _GAP
    drawing, kinds = Drawing(label, tall * len(shown)), colours(rows, against)
    for number, row in enumerate(shown):
        top, wide = tall * number, x(row[field])
        drawing.text(EDGE, top + 12, _name(row))
        drawing.bar(EDGE, top + _LABEL, wide, _BAR, kinds[row["mode"]])
        drawing.text(EDGE + wide + 6, top + _LABEL + 12, form.format(row[field]), "strong")
    return drawing.render()


def latency_against_load(rows: Sequence[Row], against: str, open_loop: bool) -> str:
    """Median latency of each mode under each load, with a thin line up to the 95th percentile."""
    shown = [row for row in rows if (row.get("rate") is not None) is open_loop and row["latency_p50_s"] is not None]
    if not shown:
        return ""
    loads = sorted({load_of(row) for row in shown}, key=lambda load: load.order)
    scale = ticks(max(row["latency_p95_s"] for row in shown))
    left, right, bottom = 52.0, WIDTH - EDGE - 20, 190.0
    y = linear(0, scale[-1], bottom, 14)
    x = linear(-0.5, len(loads) - 0.5, left, right)
    drawing, kinds = Drawing("Latency of each mode against the load", bottom + 40), colours(rows, against)
    for tick in scale:
        drawing.line(left, y(tick), WIDTH - EDGE, y(tick), "grid")
        drawing.text(left - 6, y(tick) + 4, f"{tick:g} s", "soft", "end")
    for place, load in enumerate(loads):
        drawing.text(x(place), bottom + 16, f"{load.order[1]:g}", "soft", "middle")
    axis = "requests a second (open loop)" if open_loop else "requests at once (closed loop)"
    drawing.text((left + right) / 2, bottom + 34, axis, "soft", "middle")
    modes = list(dict.fromkeys(row["mode"] for row in shown))
    for number, mode in enumerate(modes):
        shift = (number - (len(modes) - 1) / 2) * min(12.0, 60 / len(modes))
        own = [row for row in shown if row["mode"] == mode]
        points = [(x(loads.index(load_of(row))) + shift, y(row["latency_p50_s"])) for row in own]
        drawing.lines(points, f"path {kinds[mode]}")
        for (at, middle), row in zip(points, own, strict=True):
            drawing.line(at, middle, at, y(row["latency_p95_s"]), f"path {kinds[mode]}")
            title = f"{_name(row)}: {row['latency_p50_s']:.2f} s, 95 %: {row['latency_p95_s']:.2f} s"
            drawing.dot(at, middle, 4.5, kinds[mode], title)
    return drawing.render()


def accuracy_against_speed(rows: Sequence[Row], against: str) -> str:
    """Share of right answers against tokens a second, with the interval of the share."""
    shown = [row for row in rows if row["accuracy"] is not None and row["tokens_per_s"]]
    if not shown:
        return ""
    scale = ticks(max(row["tokens_per_s"] for row in shown) * 1.05)
    left, bottom = 46.0, 190.0
    x, y = linear(0, scale[-1], left, WIDTH - EDGE - 12), linear(0, 1, bottom, 14)
    drawing, kinds = Drawing("Accuracy against speed", bottom + 40), colours(rows, against)
    for share in (0, 0.25, 0.5, 0.75, 1):
        drawing.line(left, y(share), WIDTH - EDGE, y(share), "grid")
        drawing.text(left - 6, y(share) + 4, f"{share:.0%}", "soft", "end")
    for tick in scale:
        drawing.text(x(tick), bottom + 16, f"{tick:g}", "soft", "middle")
    drawing.text((left + WIDTH) / 2, bottom + 34, "tokens a second", "soft", "middle")
    for row in shown:
        at, kind = x(row["tokens_per_s"]), kinds[row["mode"]]
        low, high = row["accuracy_ci95"]
        drawing.line(at, y(low), at, y(high), f"path {kind}")
        drawing.dot(at, y(row["accuracy"]), 5, kind, f"{_name(row)}: {row['accuracy']:.0%} ({low:.0%} to {high:.0%})")
    return drawing.render()


def acceptance_by_position(rows: Sequence[Row], against: str) -> str:
    """Share of accepted draft steps by how far ahead they were drafted, over all loads of a mode."""
    counts: dict[str, list[list[int]]] = {}
    for row in rows:
        total = counts.setdefault(row["mode"], [])
        for place, (accepted, rejected) in enumerate(row.get("num_steps_by_position") or ()):
            total += [[0, 0]] if place == len(total) else []
            total[place] = [total[place][0] + accepted, total[place][1] + rejected]
    counts = {mode: total for mode, total in counts.items() if any(map(any, total))}
    if not counts:
        return ""
    num_places = max(map(len, counts.values()))
    left, bottom = 46.0, 170.0
    x, y = linear(-0.5, num_places - 0.5, left, WIDTH - EDGE), linear(0, 1, bottom, 14)
    drawing, kinds = Drawing("Accepted draft steps by position", bottom + 40), colours(rows, against)
    for share in (0, 0.25, 0.5, 0.75, 1):
        drawing.line(left, y(share), WIDTH - EDGE, y(share), "grid")
        drawing.text(left - 6, y(share) + 4, f"{share:.0%}", "soft", "end")
    for place in range(num_places):
        drawing.text(x(place), bottom + 16, str(place + 1), "soft", "middle")
    drawing.text((left + WIDTH) / 2, bottom + 34, "step ahead of what was committed", "soft", "middle")
    for mode, total in counts.items():
        known = [(place, hits, hits + misses) for place, (hits, misses) in enumerate(total) if hits + misses]
        drawing.lines([(x(place), y(hits / num)) for place, hits, num in known], f"path {kinds[mode]}")
        for place, hits, num in known:
            drawing.dot(x(place), y(hits / num), 4.5, kinds[mode], f"{mode}, {place + 1} ahead: {hits} of {num}")
            drawing.text(x(place), y(hits / num) - 9, f"{hits}/{num}", "small halo", "middle")
    return drawing.render()


def time_use(rows: Sequence[Row]) -> str:
    """Mean seconds of an answer by what they went to, a bar a row."""
    shown = [row for row in rows if row.get("time_use")]
    most = max((sum(row["time_use"].values()) for row in shown), default=0.0)
    if not most:
        return ""
    x, tall = linear(0, most, 0, WIDTH - 2 * EDGE), _LABEL + _BAR + _GAP
    drawing = Drawing("Where the time of an answer went", tall * len(shown))
    for number, row in enumerate(shown):
        top, at, whole = tall * number, EDGE, sum(row["time_use"].values())
        drawing.text(EDGE, top + 12, _name(row))
        drawing.text(WIDTH - EDGE, top + 12, f"{whole:.2f} s", "strong", "end")
        for part, seconds in row["time_use"].items():
            title = f"{PARTS[part]}: {seconds:.2f} s, {seconds / whole:.0%}"
            drawing.bar(at, top + _LABEL, x(seconds), _BAR, f"t-{part}", title)
            at += x(seconds)
    return drawing.render()


_WAITS = (("ttft", "first text"), ("first_step", "first step"), ("longest_silence", "silence"))


def waits(shown: Sequence[Row], rows: Sequence[Row], against: str) -> str:
    """First text, first whole step and longest silence of the rows of one load: the median, and a line up to the 95th
    percentile. The axis is that of all `rows`."""
    found = [row[f"{name}_p95_s"] for row in rows for name, _ in _WAITS if row.get(f"{name}_p95_s") is not None]
    shown = [row for row in shown if row["ttft_p50_s"] is not None]
    if not found or not shown:
        return ""
    left, tall = 74.0, _LABEL + 15 * len(_WAITS) + _GAP
    scale = ticks(max(found))
    x = linear(0, scale[-1], left, WIDTH - EDGE - 52)
    drawing, kinds = Drawing("How long a reader waits", 22 + tall * len(shown)), colours(rows, against)
    for tick in scale:
        drawing.text(x(tick), 12, f"{tick:g} s", "soft", "middle")
        drawing.line(x(tick), 18, x(tick), drawing.height, "grid")
    for number, row in enumerate(shown):
        top = 22 + tall * number
        drawing.text(EDGE, top + 12, row["mode"], "halo")
        for line, (name, words) in enumerate(_WAITS):
            at, middle, high = top + _LABEL + 15 * line + 7, row.get(f"{name}_p50_s"), row.get(f"{name}_p95_s")
            drawing.text(EDGE, at + 4, words, "small soft")
            if middle is not None and high is not None:
                drawing.line(x(middle), at, x(high), at, f"path {kinds[row['mode']]}")
                drawing.dot(x(middle), at, 4, kinds[row["mode"]])
                drawing.text(x(high) + 8, at + 4, f"{middle:.2f} s", "small")
    return drawing.render()


def _name(row: Row) -> str:
    return f"{row['mode']}, {load_of(row)}"
