"""Small drawings for a page that needs nothing else: shapes and axes as inline SVG, coloured by the page's style sheet.

Promises: text is escaped; colours are classes, so that light, dark and paper are the page's choice; a drawing is as
wide as a phone, so that its text stays readable there. (A plotting library would put 4 MB of script into each report,
or fixed colours.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

WIDTH = 420.0
EDGE = 8.0
Scale = Callable[[float], float]


class Drawing:
    """Shapes in the order in which they are added. Lengths are in units of a drawing 420 wide."""

    def __init__(self, label: str, height: float) -> None:
        self.height = height
        self._label = label
        self._parts: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """`anchor` is start, middle or end."""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def lines(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def bar(self, x: float, y: float, width: float, height: float, kind: str, title: str = "") -> None:
        """A filled rectangle."""
        shape = f'class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}"'
        self._parts.append(f"<rect {shape}>{_title(title)}</rect>")

    def dot(self, x: float, y: float, radius: float, kind: str, title: str = "") -> None:
        """A filled circle."""
        self._parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{_title(title)}</circle>'
        )

    def diamond(self, x: float, y: float, kind: str) -> None:
        """A mark that stands out of dots."""
        self._parts.append(f'<path class="{kind}" d="M{x:.1f} {y - 8:.1f}l6 8l-6 8l-6 -8z"/>')

    def render(self) -> str:
        """The SVG element."""
        box = f"0 0 {WIDTH:.0f} {self.height:.0f}"
        return f'<svg viewBox="{box}" role="img" aria-label="{escape(self._label)}">{"".join(self._parts)}</svg>'


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Values from `low` to `high` to places from `start` to `end`."""
    return lambda value: start + (value - low) / ((high - low) or 1.0) * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """As `linear`, for values above zero of which the ratio counts."""
    to_place = linear(math.log(low), math.log(high), start, end)
    return lambda value: to_place(math.log(value))


def ticks(most: float, about: int = 4) -> list[float]:
    """Round numbers from 0 to at least `most`."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / about
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
