# SPDX-License-Identifier: Apache-2.0
"""Line charts as inline SVG, coloured by the page's style sheet so that they follow its theme."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from .elements import Element, element

# Units of the drawing; the page scales it to its column.
_WIDTH, _HEIGHT = 400, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 12, 40
_STYLES = 6  # the style sheet has .line1 ... .line6
_FEW_POINTS = 40  # up to so many are shown as dots


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: what it shows.
        points: (x, y), x ascending; a y that is not finite interrupts the line.
        marked: a point to be ringed, or None.
    """

    name: str
    points: Sequence[tuple[float, float]]
    marked: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Frame:
    """Where values lie on the drawing."""

    x_range: tuple[float, float]
    y_ticks: Sequence[float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_title: str,
    x_range: tuple[float, float],
    vertical: float | None = None,
) -> Element | None:
    """Draw lines over one pair of axes.

    Args:
        title: what the vertical axis shows.
        lines: those without a finite point are left out.
        x_title: what the horizontal axis shows.
        x_range: its first and last value.
        vertical: x of a dashed vertical line.

    Returns:
        A ``figure`` whose SVG has a text alternative, or None if nothing is left to draw.
    """
    lines = [line for line in lines if _finite(line)]
    if not lines:
        return None
    if x_range[0] == x_range[1]:
        x_range = (x_range[0] - 1, x_range[1] + 1)
    values = [y for line in lines for _, y in _finite(line)]
    frame = _Frame(x_range, _ticks(min(values), max(values)))
    drawing = element(
        "svg",
        *_axes(frame, x_title),
        None if vertical is None else _vertical(frame, vertical),
        *(part for i, line in enumerate(lines) for part in _draw_line(frame, line, i)),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title} over {x_title}. " + " ".join(_in_words(line) for line in lines),
    )
    legend = _legend(lines) if len(lines) > 1 else None
    return element("figure", element("figcaption", title), drawing, legend, class_="chart")


def _finite(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in line.points if math.isfinite(y)]


def _ticks(low: float, high: float) -> list[float]:
    """Round values, the first not above ``low``, the last not below ``high``."""
    return MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()


def _axes(frame: _Frame, x_title: str) -> list[Element]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in frame.y_ticks:
        y = f"{frame.y(value):.1f}"
        parts.append(element("line", class_="grid", x1=_LEFT, x2=right, y1=y, y2=y))
        label = element("text", f"{value:g}", class_="y", x=_LEFT - 6, y=y)
        parts.append(label)
    low, high = frame.x_range
    for value in _ticks(low, high):
        if low <= value <= high:
            x = f"{frame.x(value):.1f}"
            parts.append(element("line", class_="tick", x1=x, x2=x, y1=bottom, y2=bottom + 4))
            parts.append(element("text", f"{value:g}", class_="x", x=x, y=bottom + 17))
    middle = (_LEFT + right) / 2
    return [*parts, element("text", x_title, class_="x", x=middle, y=_HEIGHT - 6)]


def _vertical(frame: _Frame, value: float) -> Element:
    x = f"{frame.x(value):.1f}"
    return element("line", class_="used", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM)


def _draw_line(frame: _Frame, line: Line, index: int) -> list[Element]:
    style = f"line{index % _STYLES + 1}"
    steps, pen_down = [], False
    for x, y in line.points:
        if math.isfinite(y):
            steps.append(f"{'L' if pen_down else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen_down = math.isfinite(y)
    parts = [element("path", class_=style, d="".join(steps))]
    finite = _finite(line)
    if len(finite) <= _FEW_POINTS:
        parts += [_circle(frame, point, f"dot {style}", 2.5) for point in finite]
    if line.marked is not None:
        parts.append(_circle(frame, line.marked, f"ring {style}", 5))
    return parts


def _circle(frame: _Frame, point: tuple[float, float], style: str, radius: float) -> Element:
    x, y = f"{frame.x(point[0]):.1f}", f"{frame.y(point[1]):.1f}"
    return element("circle", class_=style, cx=x, cy=y, r=radius)


def _legend(lines: Sequence[Line]) -> Element:
    entries = []
    for index, line in enumerate(lines):
        stroke = element("path", class_=f"line{index % _STYLES + 1}", d="M1 6L31 6")
        sample = element("svg", stroke, viewBox="0 0 32 12", aria_hidden="true")
        entries.append(element("li", sample, line.name))
    return element("ul", *entries, class_="legend")


def _in_words(line: Line) -> str:
    """The line for those who do not see it."""
    points = _finite(line)
    (first_x, first), (last_x, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{line.name}: {first:.4g} at {first_x:g}."
    low, high = min(y for _, y in points), max(y for _, y in points)
    return (
        f"{line.name}: from {first:.4g} at {first_x:g} to {last:.4g} at {last_x:g}, "
        f"between {low:.4g} and {high:.4g}."
    )
