"""A step trace drawn in a terminal: lanes over time, a table of steps, where the time went.

Promises: every outcome is a letter as well as a colour, so that it reads without colours; the lanes are never wider
than asked for; text from a model, a client or a server cannot move the cursor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deployments.telemetry.timeline import (
    LANES,
    UNDECIDED,
    Row,
    Span,
    Trace,
    arrange,
    describe_shares,
    describe_verdict,
)

LETTERS: Mapping[str, str] = {
    "accepted": "A",
    "recovered": "R",
    "target": "T",
    "rejected": "x",
    "cancelled": "c",
    "merged": "m",
    "failed": "!",
    UNDECIDED: "?",
}
STYLES: Mapping[str, str] = {
    "accepted": "black on green",
    "recovered": "black on yellow",
    "target": "white on blue",
    "rejected": "yellow",
    "cancelled": "bright_black",
    "merged": "bright_black",
    "failed": "white on red",
    UNDECIDED: "cyan",
}
_MEANINGS: Mapping[str, str] = {
    "accepted": "accepted",
    "recovered": "recovered by the target",
    "target": "target alone",
    "rejected": "rejected",
    "cancelled": "cancelled",
    "merged": "says what another branch says",
    "failed": "failed",
    UNDECIDED: "not decided yet",
}
_LABEL_WIDTH = 9
_COLUMNS_A_STEP = 6
_MAX_BANDS = 12
_VERDICT_WIDTH = 18


def render(trace: Trace, width: int = 80) -> RenderableType:
    """The whole trace for a terminal of `width` columns."""
    name, mode = _shown(trace.request_id) or "trace", _shown(trace.mode)
    title = Text(f"{name}  mode {mode}", style="bold", overflow="fold")
    parts: list[RenderableType] = [title]
    if trace.spans:
        parts += [_legend(trace), Text(), *_bands(trace, max(40, width)), _step_table(trace, width)]
    else:
        parts.append(Text("No calls to a model were recorded."))
    parts.append(Text(describe_shares(trace)))
    for decision in trace.decisions:
        parts.append(_plain(f"{decision.at_s:.2f} s  depth {decision.depth}: {decision.reason}"))
    if trace.error:
        parts.append(Text(f"The request failed: {_shown(str(trace.error), 2000)}", style="red"))
    return Group(*parts)


def _legend(trace: Trace) -> Text:
    text = Text("A digit opens a step: the last digit of its position.", style="dim", no_wrap=True)
    present = {span.outcome for span in trace.spans}
    for number, outcome in enumerate(outcome for outcome in LETTERS if outcome in present):
        text.append("\n" if number % 3 == 0 else "   ")
        text.append(LETTERS[outcome] * 2, style=STYLES[outcome])
        text.append(f" {_MEANINGS[outcome]}")
    return text


def _bands(trace: Trace, width: int) -> list[Text]:
    """The lanes, cut into bands one under another, so that a usual step is some columns wide."""
    rows = arrange(trace)
    columns = width - _LABEL_WIDTH - 1
    written = sorted(s.elapsed_s for s in trace.spans if LANES[s.kind] == "target" and s.elapsed_s > 0)
    typical = written[len(written) // 2] if written else trace.duration_s
    wanted = max(1.0, trace.duration_s / (typical or 1.0) * _COLUMNS_A_STEP)
    num_bands = min(_MAX_BANDS, -(-int(wanted) // columns))
    seconds = (trace.duration_s or 1.0) / (num_bands * columns)
    cells = [_cells(row, num_bands * columns, seconds) for row in rows]
    lines: list[Text] = []
    for band in range(num_bands):
        start, end = band * columns, (band + 1) * columns
        left, right = f"{start * seconds:.2f} s", f"{end * seconds:.2f} s"
        lines.append(Text(" " * _LABEL_WIDTH + left + right.rjust(columns - len(left)), style="dim", no_wrap=True))
        previous = ""
        for row, line in zip(rows, cells, strict=True):
            label = "" if row.lane == previous else row.lane
            previous = row.lane
            if label or any(letter for letter, _ in line[start:end]):
                lines.append(_line(label, line[start:end]))
        lines.append(Text())
    return lines


def _cells(row: Row, columns: int, seconds: float) -> list[tuple[str, str]]:
    """One (letter, style) for each column; short spans are drawn over long ones, so that none is lost."""
    cells = [("", "")] * columns
    for span in sorted(row.spans, key=lambda span: -span.elapsed_s):
        first = min(columns - 1, int(span.start_s / seconds))
        last = min(columns, max(first + 1, int(span.end_s / seconds)))
        letter, style = LETTERS.get(span.outcome, "?"), STYLES.get(span.outcome, "default")
        for column in range(first, last):
            cells[column] = (letter, style)
        if last - first > 1 and span.position >= 0:
            cells[first] = (str(span.position % 10), style)
    return cells


def _line(label: str, cells: Iterable[tuple[str, str]]) -> Text:
    text = Text(label.ljust(_LABEL_WIDTH), no_wrap=True)
    for letter, style in cells:
        text.append(letter or "·", style=style or "dim")
    return text


def _step_table(trace: Trace, width: int) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("step", "tokens", "draft s", "target s"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("origin", no_wrap=True, min_width=11)
    table.add_column("verdict", no_wrap=True, overflow="ellipsis", width=_VERDICT_WIDTH)
    table.add_column("text", no_wrap=True, overflow="ellipsis", width=max(12, width - _VERDICT_WIDTH - 46))
    for commit in trace.commits:
        spans = [span for span in trace.spans if span.step == commit.step]
        name = f"{LETTERS.get(commit.origin, '?')} {_shown(commit.origin)}"
        origin = Text(name, style=STYLES.get(commit.origin, ""))
        table.add_row(
            str(commit.step),
            str(commit.num_tokens),
            _seconds(spans, "draft"),
            _seconds(spans, "target"),
            origin,
            _plain(describe_verdict(spans)),
            _plain(commit.text or ""),
        )
    return table


def _seconds(spans: Iterable[Span], lane: str) -> str:
    times = [span.elapsed_s for span in spans if LANES[span.kind] == lane and span.outcome != "cancelled"]
    return f"{times[-1]:.2f}" if times else "-"


def _plain(text: str) -> Text:
    return Text(_shown(text))


def _shown(text: str, most: int = 200) -> str:
    """The first words on one line, without anything that a terminal would obey."""
    return "".join(letter for letter in " ".join(text.split())[:most] if letter.isprintable())
