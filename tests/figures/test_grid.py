# SPDX-License-Identifier: Apache-2.0
"""Pages of pictures: places, long texts, and files."""

import re

import numpy as np
import pytest
from PIL import Image

from dalnet.errors import UsageError
from dalnet.figures.colors import LabelStyle
from dalnet.figures.grid import (
    Cell,
    ColorBar,
    check_format,
    draw_grid,
    legend_handles,
    save_figure,
)

SQUARE = np.zeros((20, 20, 3), np.uint8)
BAR = ColorBar(np.zeros((1, 9, 3), np.uint8), "heat", (-1.0, 1.0))


def boxes(figure):
    """(what, box in pixels) of everything that is to be seen."""
    pictures = [axes.get_window_extent() for axes in figure.axes if axes.images]
    texts = [*figure.texts, *(axes.title for axes in figure.axes if axes.get_title())]
    written = [text.get_window_extent() for text in texts]
    return [*pictures, *written, *(legend.get_window_extent() for legend in figure.legends)]


def test_nothing_overlaps_or_leaves_the_page():
    long = "an_identifier_of_more_letters_than_there_is_room_for_in_one_column"
    legend = legend_handles({i: LabelStyle(f"thing {i} " * 3, (9, 9, 9)) for i in range(7)})
    tall = np.zeros((50, 20, 3), np.uint8)
    rows = [[Cell(SQUARE, long), Cell(SQUARE, "b")], [None, Cell(tall, "c")], [Cell(SQUARE, long)]]
    titles = ["photo", "a model with a very long name, and some words more"]
    figure = draw_grid(rows, titles, legend, "headline", BAR)
    figure.draw_without_rendering()
    found = boxes(figure)
    assert len(found) == 5 + 6 + 2 + 1
    page = figure.bbox
    for i, one in enumerate(found):
        assert one.x0 >= page.x0 and one.x1 <= page.x1 and one.y0 >= page.y0 and one.y1 <= page.y1
        for other in found[i + 1 :]:
            assert not one.overlaps(other), (one, other)


def test_dollars_are_no_formula():
    figure = draw_grid([[Cell(SQUARE, "$caption$")]], ["$x_{$"], headline="$")
    figure.draw_without_rendering()
    texts = [*figure.texts, figure.axes[0].title]
    assert [text.get_text() for text in texts] == ["$", "$caption$", "$x_{$"]
    assert not any(text.get_parse_math() for text in texts)


def test_cells_are_decorated_in_pixels():
    seen = []
    cell = Cell(SQUARE, decorate=lambda axes: seen.append((axes.get_xlim(), axes.get_ylim())))
    draw_grid([[cell]], [""])
    assert seen == [((-0.5, 19.5), (19.5, -0.5))]


def test_both_formats_are_written_and_the_same_each_time(tmp_path):
    figure = draw_grid([[Cell(SQUARE, "caption")]], ["photo"])
    for name in ("new/a.png", "a.PDF"):
        path = tmp_path / name
        save_figure(path, figure, 50)
        before = path.read_bytes()
        save_figure(path, draw_grid([[Cell(SQUARE, "caption")]], ["photo"]), 50)
        assert path.read_bytes() == before
        assert list(path.parent.glob(".*")) == []
    with Image.open(tmp_path / "new/a.png") as image:
        assert image.format == "PNG"
    data = (tmp_path / "a.PDF").read_bytes()
    assert data.startswith(b"%PDF")
    assert b"CreationDate" not in data
    # Type 3 fonts are what publishers refuse.
    assert re.search(rb"/Type0\b", data) and not re.search(rb"/Type3\b", data)


@pytest.mark.parametrize("name", ["a.jpg", "a", "png", "a.png.tmp"])
def test_other_suffixes_are_refused(tmp_path, name):
    figure = draw_grid([[Cell(SQUARE)]], [""])
    with pytest.raises(UsageError, match=r"neither \.png nor \.pdf"):
        save_figure(tmp_path / name, figure, 50)
    with pytest.raises(UsageError, match=re.escape(name)):
        check_format(name)
    assert list(tmp_path.iterdir()) == []
