# SPDX-License-Identifier: Apache-2.0
"""Lays out panels in rows and columns on one page, by matplotlib."""

import math
import textwrap
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from dalnet.errors import UsageError
from dalnet.io import atomic_write

from .fonts import DEFAULT_FONT, find_font
from .overlay import HEAT_COLORMAPS, HEAT_WEIGHT, Color, find_labels, make_legend

# A panel, uint8 [H, W, 3], with the text below it, or an empty place.
Cell = tuple[np.ndarray, str] | None

_WIDTH, _LINE = 2.5, 0.25  # of a panel and of a line of text, in inches
_TITLE_LETTERS, _CAPTION_LETTERS = 28, 34  # that fit above and below a panel
_FORMATS = ("png", "pdf")


def draw_page(rows: Sequence[Sequence[Cell]], titles: Sequence[str], headline: str = "") -> Figure:
    """Draw rows of panels, all equally wide, each row as high as its first panel asks.

    Args:
        rows: at least one, each with a panel; a place that is None or missing stays empty.
        titles: of the columns; the last one is also that of all further ones.
        headline: of the page; may be empty.
    """
    first = [next(cell[0] for cell in row if cell is not None) for row in rows]
    ratios = [panel.shape[0] / panel.shape[1] for panel in first]
    # No pyplot: it would choose a backend and keep the figure for the whole process.
    columns = max(len(titles), *map(len, rows))
    size = _WIDTH * columns, _WIDTH * sum(ratios) + _LINE * (2 * len(rows) + 2)
    figure = Figure(figsize=size, layout="compressed")
    if headline:
        figure.suptitle(headline, weight="bold")
    bare = {"xticks": [], "yticks": [], "frameon": False}
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=ratios, subplot_kw=bare)
    for column, axes in enumerate(grid[0]):
        title = titles[min(column, len(titles) - 1)]
        axes.set_title(textwrap.fill(title, _TITLE_LETTERS), size=10.5)
    for row, places, ratio in zip(rows, grid, ratios, strict=True):
        for cell, axes in zip_longest(row, places):
            if cell is None:
                # As high as the panels beside it, or a title above it would stand apart.
                axes.set_box_aspect(ratio)
            else:
                axes.imshow(cell[0])
                axes.set_xlabel(textwrap.fill(cell[1], _CAPTION_LETTERS), size=8.5)
    return figure


def add_legend(
    figure: Figure,
    label_maps: Sequence[np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[Color],
) -> None:
    """Name the colors of the labels that occur in ``label_maps`` below all panels."""
    entries = make_legend(find_labels(label_maps), class_names, colors)
    if not entries:
        return
    patches = [
        Patch(facecolor=np.array(color) / 255, edgecolor="0.5", label=name)
        for name, color in entries
    ]
    longest = max(len(name) for name, _ in entries)
    columns = max(1, min(len(entries), int(figure.get_figwidth() / (0.6 + 0.08 * longest))))
    _add_height(figure, _LINE * math.ceil(len(entries) / columns))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False)


def add_colorbar(
    figure: Figure, label: str, colorblind: bool, ends: tuple[float, float] | None = (0.0, 1.0)
) -> None:
    """Add a bar that says what the colors of heat maps mean; without numbers for ``ends`` None."""
    colors = ScalarMappable(Normalize(*(ends or (0.0, 1.0))), HEAT_COLORMAPS[colorblind])
    _add_height(figure, 3 * _LINE)
    where = figure.axes
    bar = figure.colorbar(
        colors, ax=where, location="bottom", label=label, alpha=HEAT_WEIGHT, aspect=40, shrink=0.6
    )
    # Heat maps lie over faint gray images: so do the colors of the bar.
    bar.ax.set_facecolor("0.5")
    if ends is None:
        bar.set_ticks([])


def _add_height(figure: Figure, inches: float) -> None:
    # Otherwise the panels would shrink.
    figure.set_figheight(figure.get_figheight() + inches)


def check_format(path: Path) -> str:
    """Return "png" or "pdf", as the suffix of ``path`` says.

    Raises:
        UsageError: another suffix.
    """
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in _FORMATS:
        raise UsageError("it is neither .png nor .pdf", path, "name the figure so")
    return suffix


def save_figure(path: Path, figure: Figure, dpi: int = 200) -> None:
    """Write a figure as .png or .pdf, under a temporary name until it is complete.

    Args:
        path: its folder is made if need be.
        figure: what to write.
        dpi: pixels an inch, in a PDF those of its images.

    Raises:
        UsageError: another suffix, or a folder that cannot be written.
    """
    kind = check_format(path)
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    font = find_font("".join(sorted({*"".join(text.get_text() for text in texts)})))
    for text in texts:
        # Names may contain dollar signs, which are no formulas.
        text.set_parse_math(False)
        if font != DEFAULT_FONT:
            text.get_fontproperties().set_file(font)
    # The same figure is the same file.
    metadata = {"CreationDate": None} if kind == "pdf" else None
    # Fonts of type 42: the default's are what publishers refuse.
    style = matplotlib.rc_context({"pdf.fonttype": 42})
    with style, warnings.catch_warnings(), atomic_write(path) as unfinished:
        # Letters that no font has are named by find_font, once.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(
            unfinished, format=kind, dpi=dpi, metadata=metadata, bbox_inches="tight", pad_inches=0.1
        )
