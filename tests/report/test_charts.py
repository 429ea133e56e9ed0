# SPDX-License-Identifier: Apache-2.0
"""Charts: what they show, in the page's colors, and nothing that is no text."""

from xml.etree import ElementTree

import pytest

from dalnet.report.charts import draw_chart

HOSTILE = "</svg><script>$x_{$"


def texts(svg):
    return [text for node in ElementTree.fromstring(svg).iter() for text in node.itertext()]


def test_names_are_text_and_colors_those_of_the_page():
    lines = {HOSTILE: {0: 1.0, 1: 2.0}, "b": {0: 2.0}}
    svg = draw_chart(HOSTILE, lines, "threshold", {"b": (0, 2.0)}, vertical=0.5)
    root = ElementTree.fromstring(svg)
    assert HOSTILE in texts(svg)
    assert HOSTILE in root.get("aria-label")
    assert not [node for node in root.iter() if node.tag.endswith("script")]
    assert "var(--c1)" in svg and "var(--c2)" in svg and "currentColor" in svg
    assert "#0072b2" not in svg
    # Nothing has the same name in two charts of a page but what refers to itself.
    ids = {node.get("id") for node in root.iter() if node.get("id")}
    other = draw_chart("other", lines, "threshold")
    assert not ids & {n.get("id") for n in ElementTree.fromstring(other).iter() if n.get("id")}


def test_legend_is_left_out_where_it_repeats_the_title():
    assert texts(draw_chart("loss", {"loss": {0: 1.0}}, "iteration")).count("loss") == 0
    assert "b" in texts(draw_chart("loss", {"b": {0: 1.0}}, "iteration"))


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_interrupts_the_line():
    def paths(values):
        svg = draw_chart("t", {"t": dict(enumerate(values))}, "x")
        return max((node.get("d") or "" for node in ElementTree.fromstring(svg).iter()), key=len)

    values = [float(i % 7) for i in range(50)]
    assert paths(values).count("M") == 1
    values[20:30:3] = [None, float("nan"), float("inf"), None]
    assert paths(values).count("M") == 5
    for line in ({0: None}, {}, {0: 1e308, 1: -1e308}, {0: 1e300, 1: -1e300}):
        draw_chart("t", {"t": line}, "x")
