"""``calibration.html``: the conclusion first, then precision and recall, where the pairs lie, and the probabilities.

Promises: one file that needs no network and no script; text from elsewhere stands in it as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from deployments.pages import fill

NUM_ROWS = 12
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 260, 46, 34
_NUM_BINS = 24


def page(report: Mapping[str, Any], conclusion: str, top: float) -> str:
    """The whole page for the content of ``calibration.json``; `top` is the check's highest score."""
    labelled_by = ", ".join(report["labelled_by"]) or "nobody"
    values = {
        "conclusion": escape(conclusion),
        "pairs": escape(
            f"{num_of(report['num_pairs'], 'pair')}, labelled by {labelled_by}; {report['num_scored']} got a score, "
            f"{report['num_same']} of them the same; {report['num_unscored']} reached the check and got none; "
            f"{report['num_unlabelled']} more have no label."
        ),
        "curves": _curves(report, top),
        "scores": _histogram(report, top),
        "map": _map(report, top),
        "table": _table(shown(report["thresholds"])),
        "before": _before(report["decided_before"]),
    }
    return fill("deployments.calibration", "calibration.html", values)


def _curves(report: Mapping[str, Any], top: float) -> str:
    """Precision with its interval, and recall, over the threshold."""
    found = report["thresholds"]
    if not found:
        return ""
    axes = _Axes(report["scores"], top)
    upper = [(t["threshold"], t["high"]) for t in found]
    lower = [(t["threshold"], t["low"]) for t in reversed(found)]
    parts = [
        *axes.grid(),
        f'<polygon class="band" points="{axes.points(upper + lower)}"/>',
        f'<polyline class="precision" points="{axes.points((t["threshold"], t["precision"]) for t in found)}"/>',
        f'<polyline class="recall" points="{axes.points((t["threshold"], t["recall"]) for t in found)}"/>',
        axes.level(report["wished_precision"]),
    ]
    if report["threshold"] is not None:
        parts.append(axes.upright(report["threshold"]["threshold"]))
    return _svg(parts, "Precision with its interval, and recall, over the threshold")


def _histogram(report: Mapping[str, Any], top: float) -> str:
    """How many same and different pairs lie at each score."""
    axes = _Axes(report["scores"], top)
    bins = {True: [0] * _NUM_BINS, False: [0] * _NUM_BINS}
    for score, same in report["scores"]:
        place = (score - axes.low) / (axes.high - axes.low)
        bins[same][min(_NUM_BINS - 1, max(0, int(place * _NUM_BINS)))] += 1
    most = max([1, *bins[True], *bins[False]])
    step = (axes.high - axes.low) / _NUM_BINS
    wide = (axes.x(step) - axes.x(0.0)) / 2 - 1
    parts = axes.grid(most)
    for same, kind, shift in ((True, "same", 0.0), (False, "other", wide + 0.5)):
        for number, count in enumerate(bins[same]):
            height = (_HEIGHT - _BOTTOM - 10) * count / most
            left, top = axes.x(axes.low + number * step) + shift, _HEIGHT - _BOTTOM - height
            parts.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{height:.1f}"/>'
            )
    return _svg(parts, "Number of same and of different pairs at each score")


def _map(report: Mapping[str, Any], top: float) -> str:
    """The probability of agreement over the score."""
    points = report["calibration"]
    if not points:
        return ""
    axes = _Axes(report["scores"], top)
    line = [(axes.low, points[0][1]), *points, (axes.high, points[-1][1])]
    dots = [f'<circle class="dot" cx="{axes.x(s):.1f}" cy="{axes.y(p):.1f}" r="4"/>' for s, p in points]
    return _svg(
        [*axes.grid(), f'<polyline class="precision" points="{axes.points(line)}"/>', *dots],
        "Probability that two steps mean the same, over the score",
    )


class _Axes:
    """From score and share to places in the picture. The scale begins at the lowest score that occurs."""

    def __init__(self, scores: Iterable[tuple[float, bool]], top: float) -> None:
        self.high = top
        self.low = min([*(score for score, _ in scores), top - 0.05])

    def x(self, score: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 10) * (score - self.low) / (self.high - self.low)

    def y(self, share: float) -> float:
        return 10 + (_HEIGHT - _BOTTOM - 10) * (1 - share)

    def points(self, line: Iterable[Sequence[float]]) -> str:
        return " ".join(f"{self.x(score):.1f},{self.y(share):.1f}" for score, share in line)

    def grid(self, top: float = 1.0) -> list[str]:
        parts = []
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            at = self.y(share)
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{_WIDTH}" y2="{at:.1f}"/>')
            parts.append(
                f'<text class="soft" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{share * top:g}</text>'
            )
        for number in range(6):
            score = self.low + (self.high - self.low) * number / 5
            parts.append(
                f'<text class="soft" x="{self.x(score):.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{score:.3g}</text>'
            )
        return parts

    def level(self, share: float) -> str:
        at = self.y(share)
        return f'<line class="wish" x1="{_LEFT}" y1="{at:.1f}" x2="{_WIDTH}" y2="{at:.1f}"/>'

    def upright(self, score: float) -> str:
        at = self.x(score)
        return f'<line class="wish" x1="{at:.1f}" y1="10" x2="{at:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'


def shown(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most `NUM_ROWS` thresholds, evenly over the scores, the first and the last among them."""
    if len(found) <= NUM_ROWS:
        return list(found)
    return [found[round(row * (len(found) - 1) / (NUM_ROWS - 1))] for row in range(NUM_ROWS)]


def num_of(num: int, what: str) -> str:
    """In words: ``1 pair``, ``2 pairs``."""
    return f"{num} {what}{'' if num == 1 else 's'}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(
        f"<tr><td>{t['threshold']:.4g}</td><td>{t['num_accepted']}</td><td>{t['precision']:.3f}</td>"
        f"<td>{t['low']:.3f} to {t['high']:.3f}</td><td>{t['recall']:.3f}</td><td>{t['accepted']:.0%}</td></tr>"
        for t in rows
    )


def _before(decided: Mapping[str, Mapping[str, int]]) -> str:
    if not decided:
        return "<p>No earlier check decided a pair.</p>"
    items = (f"<li>{escape(ended)}: {c['num']}, {c['num_right']} of them rightly</li>" for ended, c in decided.items())
    return f"<ul>{''.join(items)}</ul>"


def _svg(parts: Iterable[str], label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
