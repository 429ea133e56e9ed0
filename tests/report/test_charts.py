# SPDX-License-Identifier: Apache-2.0
"""Charts: whether the lines lie where the axes say."""

import re

import numpy as np
import pytest

from dalnet.report.charts import Line, line_chart

NAN = float("nan")


def parts(figure, tag, style=None):
    return [n for n in figure.iter(tag) if style is None or n.get("class") == style]


def axis(figure, style, coordinate):
    """Value = slope * coordinate + offset, from the tick labels alone."""
    labels = [n for n in parts(figure, "text", style) if re.fullmatch(r"-?[\d.e-]+", n.text)]
    places = [float(n.get(coordinate)) for n in labels]
    return np.polynomial.Polynomial.fit(places, [float(n.text) for n in labels], 1)


def drawn(figure, style):
    """Stretches of the line of a style, read off the axes: lists of (x, y)."""
    to_x, to_y = axis(figure, "x", "x"), axis(figure, "y", "y")
    (path,) = [n for n in parts(figure, "path", style) if len(n.get("d")) > 10]
    stretches = [re.findall(r"([-\d.]+) ([-\d.]+)", part) for part in path.get("d").split("M")[1:]]
    return [[(to_x(float(x)), to_y(float(y))) for x, y in part] for part in stretches]


@pytest.mark.parametrize("scale", [1, 1e-5, 3e4])
def test_points_lie_where_the_axes_say(scale):
    points = [(19, 3.75 * scale), (220, -0.5 * scale), (900, 1.0 * scale)]
    (stretch,) = drawn(line_chart("loss", [Line("a", points)], "iteration", (0, 1000)), "line1")
    np.testing.assert_allclose(stretch, points, rtol=0.01, atol=0.01 * scale)


def test_axes_enclose_all_lines():
    lines = [Line("a", [(0, 1.0), (10, 7.3)]), Line("b", [(0, -4.1), (10, 2.0)])]
    figure = line_chart("t", lines, "x", (0, 10))
    grid = [float(n.get("y1")) for n in parts(figure, "line", "grid")]
    dots = parts(figure, "circle")
    assert len(dots) == 4
    assert next(figure.iter("svg")).get("viewBox") == "0 0 400 240"
    assert 0 < min(grid) < max(grid) < 210
    assert all(min(grid) <= float(dot.get("cy")) <= max(grid) for dot in dots)
    values = [y for style in ("line1", "line2") for ((_, y), _) in drawn(figure, style)]
    assert values == pytest.approx([1.0, -4.1], abs=0.05)


def test_what_is_not_finite_interrupts_the_line():
    points = [(0, 1.0), (1, 2.0), (2, NAN), (3, float("inf")), (4, 3.0), (5, 2.0)]
    stretches = drawn(line_chart("t", [Line("a", points)], "x", (0, 5)), "line1")
    assert [len(stretch) for stretch in stretches] == [2, 2]


def test_lines_without_points_are_left_out():
    assert line_chart("t", [Line("a", [(0, NAN)]), Line("b", [])], "x", (0, 1)) is None
    figure = line_chart("t", [Line("a", [(0, NAN)]), Line("b", [(0, 1.0)])], "x", (0, 1))
    assert "b: 1 at 0" in next(figure.iter("svg")).get("aria-label")
    assert not parts(figure, "ul")


def test_one_value_alone_is_a_dot():
    figure = line_chart("t", [Line("a", [(900, 82.5)])], "iteration", (900, 900))
    (dot,) = parts(figure, "circle")
    assert axis(figure, "y", "y")(float(dot.get("cy"))) == pytest.approx(82.5, abs=0.01)


def test_marks_and_legend():
    lines = [Line("<a>", [(0, 0.0), (1, 50.0)], marked=(1, 50.0)), Line("b", [(0, 1.0), (1, 9.0)])]
    figure = line_chart("t", lines, "threshold", (0, 1), vertical=0.25)
    to_x, to_y = axis(figure, "x", "x"), axis(figure, "y", "y")
    (used,) = parts(figure, "line", "used")
    assert to_x(float(used.get("x1"))) == pytest.approx(0.25, abs=0.005)
    (ring,) = parts(figure, "circle", "ring line1")
    assert to_x(float(ring.get("cx"))) == pytest.approx(1, abs=0.005)
    assert to_y(float(ring.get("cy"))) == pytest.approx(50, abs=0.5)
    legend = ["".join(entry.itertext()) for entry in figure.iter("li")]
    assert legend == ["<a>", "b"]
    samples = [entry.find("svg/path").get("class") for entry in figure.iter("li")]
    assert samples == ["line1", "line2"]


def test_many_points_are_not_dotted():
    figure = line_chart("t", [Line("a", [(i, i) for i in range(500)])], "x", (0, 499))
    assert not parts(figure, "circle")
