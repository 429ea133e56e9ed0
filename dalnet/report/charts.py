# SPDX-License-Identifier: Apache-2.0
"""Draws line charts as inline SVG, in the colors of the page so that they follow its theme."""

import io
import re
from collections.abc import Mapping

import matplotlib
import numpy as np
from cycler import cycler
from markupsafe import Markup
from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart by color-blind readers too, who also have the dashes. The style
# sheet has a color for each theme under the same number.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07d00", "#3f7fae")
_DASHES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)))
_INK = "#123456"  # of axes and texts; becomes the page's own
_INKED = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color")
_STYLE = {
    "axes.prop_cycle": cycler(color=_COLORS) + cycler(linestyle=_DASHES),
    # Names may contain dollar signs, which are no formulas.
    "text.parse_math": False,
    **{"font.size": 8, "svg.fonttype": "none", "lines.markersize": 3},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.alpha": 0.2, "grid.color": _INK},
    **dict.fromkeys(_INKED, _INK),
}
_FEW_POINTS = 40  # up to so many are shown as dots

_MOST = 1e300  # a difference of larger values may not be finite
Line = Mapping[float, float | None]  # y over x; None and what is not finite interrupt it


def draw_chart(
    title: str,
    lines: Mapping[str, Line],
    x_title: str,
    marked: Mapping[str, tuple[float, float]] | None = None,
    vertical: float | None = None,
) -> Markup:
    """Draw lines over one pair of axes, with a legend unless a line is called as the chart is.

    Args:
        title: what the vertical axis shows.
        lines: by name.
        x_title: what the horizontal axis shows.
        marked: by name of a line a point (x, y) to be ringed.
        vertical: x of a dashed vertical line.

    Returns:
        An SVG element.
    """
    has_legend = list(lines) != [title]
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        # With a legend as wide as the page, whatever the names of the lines.
        figure = Figure(figsize=(12, 3) if has_legend else (4, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(x_title)
        for name, line in lines.items():
            points = np.array(sorted(line.items()), float).reshape(-1, 2).T
            points[1, np.abs(points[1]) > _MOST] = np.nan
            dots = "o" if len(line) <= _FEW_POINTS else ""
            (drawn,) = axes.plot(*points, marker=dots, label=name)
            if marked and name in marked:
                x, y = marked[name]
                axes.plot([x], [y], "o", color=drawn.get_color(), markersize=8, fillstyle="none")
        if vertical is not None:
            axes.axvline(vertical, color=_INK, linestyle="--", linewidth=1)
        if has_legend:
            figure.legend(loc="outside right upper", frameon=False)
        stream = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    return _to_markup(stream.getvalue(), f"{title} over {x_title}")


def _to_markup(svg: str, description: str) -> Markup:
    """Return matplotlib's SVG in the page's colors, as one element."""
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    for number, color in enumerate(_COLORS, 1):
        svg = svg.replace(color, f"var(--c{number})")
    # Groups of all charts are numbered alike, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    label = Markup('<svg role="img" aria-label="{}"').format(description)
    return Markup(svg.replace("<svg", label, 1))
