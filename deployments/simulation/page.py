"""Results of simulations and plans as one HTML page, in the style of the benchmark's report.

Promises: one file that needs no network and no script; text from elsewhere stands in it as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

WIDTH, LEFT, RIGHT, HEIGHT = 760, 150, 90, 320
COLOURS = ("#3273dc", "#2f9e60", "#d97706", "#b83280", "#667085", "#0e7490")


@dataclass(frozen=True, slots=True)
class Line:
    """A named row of points, by rising x."""

    name: str
    points: Sequence[tuple[float, float]]


def page(title: str, claims: Sequence[str], sections: Iterable[tuple[str, str]]) -> str:
    """A page: the first of `claims` is the large one; `sections` are headings with HTML."""
    template = (resources.files("deployments.bench") / "report.html").read_text(encoding="utf-8")
    style = template.split("<style>")[1].split("</style>")[0]
    first, *rest = claims
    body = f'<p class="claim">{escape(first)}</p>' + "".join(f"<p>{escape(text)}</p>" for text in rest)
    body += "".join(f"<h2>{escape(heading)}</h2>{html}" for heading, html in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bars(values: Mapping[str, float], form: str = "{:.1f}") -> str:
    """A bar for each name."""
    most, parts = max([*values.values(), 1e-12]), []
    for number, (name, value) in enumerate(values.items()):
        top, wide = 6 + 26 * number, (WIDTH - LEFT - RIGHT) * value / most
        parts.append(_text(LEFT - 12, top + 14, name, "end"))
        parts.append(f'<rect class="other" x="{LEFT}" y="{top}" width="{wide:.1f}" height="19" rx="3"/>')
        parts.append(_text(LEFT + wide + 8, top + 14, form.format(value), "start"))
    return _svg(12 + 26 * len(values), parts, "bars")


def lines(rows: Sequence[Line], x_name: str, y_name: str) -> str:
    """A plot of lines with their points."""
    points = [point for row in rows for point in row.points]
    if not points:
        return "<p>There is nothing to draw.</p>"
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_high = max(y for _, y in points) * 1.08 or 1.0
    left, bottom, right = 64, HEIGHT - 44, WIDTH - 20

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return left + across * (right - left), bottom - y / y_high * (bottom - 24)

    parts = []
    for tick in range(5):
        value = y_high * tick / 4
        _, y = at(x_low, value)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, f"{value:.3g}", "end"))
        x_value = x_low + (x_high - x_low) * tick / 4
        parts.append(_text(at(x_value, 0)[0], bottom + 18, f"{x_value:.3g}", "middle"))
    parts += [_text(right, bottom + 36, x_name, "end"), _text(left, 14, y_name, "start")]
    for number, row in enumerate(rows):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(x, y) for x, y in row.points]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{colour}"><title>{escape(row.name)}: '
            f"{row.points[i][0]:.4g}, {row.points[i][1]:.4g}</title></circle>"
            for i, (x, y) in enumerate(places)
        ]
        parts.append(f'<rect x="{left + 12}" y="{28 + 18 * number}" width="12" height="4" fill="{colour}"/>')
        parts.append(_text(left + 30, 34 + 18 * number, row.name, "start"))
    return _svg(HEIGHT, parts, f"{y_name} against {x_name}")


def _svg(height: float, parts: Iterable[str], label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
