# SPDX-License-Identifier: Apache-2.0
"""Pictures in rows and columns on one page: titles above, captions below, legend, colour bar."""

import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dalnet.errors import UsageError
from dalnet.files import complete_or_absent

from .colors import LabelStyle

# Inches.
_WIDTH, _GAP, _MARGIN = 2.5, 0.08, 0.1
_HEADLINE, _TITLE_LINE, _CAPTION_LINE, _CAPTION_GAP = 0.3, 0.19, 0.15, 0.15
_LEGEND_LINE, _LEGEND_ENTRY, _LEGEND_PATCH, _LEGEND_LETTER = 0.26, 1.4, 0.6, 0.075
_BAR, _BAR_INSET, _BAR_THICKNESS = 0.5, 0.15, 0.12
_TITLE_SIZE, _CAPTION_SIZE = 10.5, 8.5  # points
_TITLE_LETTERS, _CAPTION_LETTERS = 28, 36  # that fit below one another in a column
_FORMATS = ("png", "pdf")


@dataclass(frozen=True)
class Cell:
    """One picture of a grid.

    Attributes:
        picture: uint8 ``[H, W, 3]``.
        caption: stands below; it may be as long as there are no captions to its right.
        decorate: draws more, in the pixels of the picture.
    """

    picture: np.ndarray
    caption: str = ""
    decorate: Callable[[Axes], None] | None = None


@dataclass(frozen=True)
class ColorBar:
    """What the colours of heat maps mean.

    Attributes:
        picture: uint8 ``[1, n, 3]``, the colours from the lowest to the highest value.
        label: what they measure.
        ends: values at its ends; None for a bar without numbers.
    """

    picture: np.ndarray
    label: str
    ends: tuple[float, float] | None = None


def draw_grid(
    rows: Sequence[Sequence[Cell | None]],
    titles: Sequence[str],
    legend: Sequence[Patch] = (),
    headline: str = "",
    bar: ColorBar | None = None,
) -> Figure:
    """Draw rows of pictures, all equally wide, each row as high as its first picture asks.

    Args:
        rows: at least one; a cell that is None or missing stays empty.
        titles: of the columns.
        legend: handles, see :func:`legend_handles`.
        headline: of the page; may be empty.
        bar: colour bar, or None.

    Returns:
        The figure, for :func:`save_figure`.
    """
    titles = [textwrap.fill(title, _TITLE_LETTERS) for title in titles]
    laid_out = [_Row.lay_out(cells, len(titles)) for cells in rows]
    width = len(titles) * (_WIDTH + _GAP) + _GAP
    head = _MARGIN + _HEADLINE * bool(headline) + _TITLE_LINE * _lines(titles)
    legend_lines = math.ceil(len(legend) / max(int(width / _entry_width(legend)), 1))
    foot = _BAR * (bar is not None) + _LEGEND_LINE * (legend_lines + 0.5) * bool(legend)
    height = head + sum(row.side + row.gap for row in laid_out) + foot

    # Names may contain dollar signs, which are no formulas.
    with matplotlib.rc_context({"text.parse_math": False}):
        # No pyplot: it would choose a backend and keep the figure for the whole process.
        figure = Figure(figsize=(width, height))
        if headline:
            top = 1 - _MARGIN / height
            figure.text(_GAP / width, top, headline, va="top", size=13, weight="bold")
        bottom = height - head
        for i, row in enumerate(laid_out):
            bottom -= row.side
            _draw_row(figure, row, titles if i == 0 else [""] * len(titles), bottom)
            bottom -= row.gap
        if bar is not None:
            _draw_bar(figure, bar, bottom - 0.05)
        if legend:
            columns = math.ceil(len(legend) / legend_lines)
            place = {"loc": "lower center", "ncol": columns}
            figure.legend(handles=legend, frameon=False, fontsize=9, **place)
    return figure


def legend_handles(styles: Mapping[int, LabelStyle]) -> list[Patch]:
    """Make one coloured patch with a name for every label."""
    return [
        Patch(
            facecolor=np.array(style.color) / 255,
            edgecolor="black" if style.hatch else "0.5",
            hatch=style.hatch or None,
            linewidth=0.5,
            label=style.name,
        )
        for style in styles.values()
    ]


def check_format(path: str | os.PathLike[str]) -> str:
    """Return "png" or "pdf", as the suffix of ``path`` says.

    Raises:
        UsageError: another suffix.
    """
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in _FORMATS:
        raise UsageError(f"{path} is neither .png nor .pdf; name the picture so.")
    return suffix


def save_figure(
    path: str | os.PathLike[str], figure: Figure, dpi: int, file_format: str | None = None
) -> None:
    """Write a figure, under a temporary name until it is complete.

    Args:
        path: of the file; its folder is made if need be.
        figure: what to write.
        dpi: pixels an inch, in a PDF those of its pictures.
        file_format: "png" or "pdf"; as the suffix says where not given.

    Raises:
        UsageError: a suffix of neither, or a folder that cannot be written.
    """
    file_format = file_format or check_format(path)
    # The same picture is the same file; fonts that publishers accept.
    metadata = {"CreationDate": None} if file_format == "pdf" else None
    with (
        matplotlib.rc_context({"pdf.fonttype": 42}),
        complete_or_absent(Path(path)) as unfinished,
    ):
        figure.savefig(unfinished, format=file_format, dpi=dpi, metadata=metadata)


def _lines(texts: Sequence[str]) -> int:
    """Lines that the longest of ``texts`` takes; 1 where there are none."""
    return max((text.count("\n") + 1 for text in texts), default=1)


def _entry_width(legend: Sequence[Patch]) -> float:
    longest = max((len(handle.get_label()) for handle in legend), default=0)
    return max(_LEGEND_ENTRY, _LEGEND_PATCH + _LEGEND_LETTER * longest)


@dataclass(frozen=True)
class _Row:
    """A row as it will be drawn: a cell and a caption per column; heights in inches."""

    cells: Sequence[Cell | None]
    captions: Sequence[str]
    side: float
    gap: float

    @classmethod
    def lay_out(cls, cells: Sequence[Cell | None], columns: int) -> "_Row":
        """Fill the row up to ``columns``; break each caption where the next one begins."""
        cells = [*cells, *[None] * (columns - len(cells))]
        captions = ["" if cell is None else cell.caption for cell in cells]
        captioned = [j for j, caption in enumerate(captions) if caption]
        for j, following in pairwise([*captioned, columns]):
            captions[j] = textwrap.fill(captions[j], _CAPTION_LETTERS * (following - j))
        height, width = next(cell.picture.shape[:2] for cell in cells if cell is not None)
        gap = _CAPTION_GAP + _CAPTION_LINE * _lines(captions)
        return cls(cells, captions, _WIDTH * height / width, gap)


def _draw_row(figure: Figure, row: _Row, titles: Sequence[str], bottom: float) -> None:
    """Draw a row whose pictures stand ``bottom`` inches above the figure's lower edge."""
    width, height = figure.get_size_inches()
    for j, (cell, caption, title) in enumerate(zip(row.cells, row.captions, titles, strict=True)):
        left = (_GAP + j * (_WIDTH + _GAP)) / width
        place = (left, bottom / height, _WIDTH / width, row.side / height)
        _draw_cell(figure.add_axes(place), cell, title)
        if caption:
            figure.text(left, (bottom - 0.05) / height, caption, va="top", size=_CAPTION_SIZE)


def _draw_cell(axes: Axes, cell: Cell | None, title: str) -> None:
    axes.set_axis_off()
    axes.set_title(title, size=_TITLE_SIZE, pad=4)
    if cell is not None:
        axes.imshow(cell.picture, aspect="auto")
        axes.autoscale(False)
        if cell.decorate is not None:
            cell.decorate(axes)


def _draw_bar(figure: Figure, bar: ColorBar, top: float) -> None:
    """A bar as wide as a picture, its upper edge ``top`` inches above the figure's lower edge."""
    width, height = figure.get_size_inches()
    left, bottom = _GAP + _BAR_INSET, top - _BAR_THICKNESS
    place = (left / width, bottom / height, _WIDTH / width, _BAR_THICKNESS / height)
    axes = figure.add_axes(place)
    axes.imshow(bar.picture, aspect="auto", extent=(*(bar.ends or (0.0, 1.0)), 0, 1))
    axes.set_yticks([])
    axes.tick_params(labelsize=_CAPTION_SIZE, length=2)
    if bar.ends is None:
        axes.set_xticks([])
    at = (left + _WIDTH + _BAR_INSET) / width, (bottom + _BAR_THICKNESS / 2) / height
    figure.text(*at, bar.label, va="center", size=_CAPTION_SIZE)
