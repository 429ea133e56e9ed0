# SPDX-License-Identifier: Apache-2.0
"""Pages of panels: places, long texts, and files."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.figures.layout import add_colorbar, add_legend, draw_page, save_figure

SQUARE = np.zeros((20, 20, 3), np.uint8)
TALL = np.zeros((50, 20, 3), np.uint8)


def test_nothing_overlaps_and_pictures_keep_their_shape():
    long = "an_identifier of more letters than there is room for in one column of the page"
    rows = [[(SQUARE, long), (SQUARE, "b")], [None, (TALL, "c")], [(SQUARE, long)]]
    figure = draw_page(rows, ["image", "a model with a very long name, and some words more"], "top")
    add_colorbar(figure, "heat", False, (-1.0, 1.0))
    names = [f"a thing of many letters {i}" for i in range(7)]
    add_legend(figure, [np.arange(7)], names, [(9, 9, 9)] * 7)
    figure.draw_without_rendering()
    panels = [axes.get_window_extent() for axes in figure.axes if axes.images]
    assert len(panels) == 4
    for box, ratio in zip(panels, (1, 1, 2.5, 1), strict=True):
        assert box.height / box.width == pytest.approx(ratio, rel=0.01)
        assert box.width == pytest.approx(2.5 * figure.dpi, rel=0.05)
    *places, bar = figure.axes
    boxes = [axes.get_tightbbox() for axes in places if axes.images] + [bar.get_tightbbox()]
    boxes.append(figure.legends[0].get_window_extent())
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_titles_stand_at_one_height():
    figure = draw_page([[(SQUARE, "a"), None], [(SQUARE, "b"), (SQUARE, "c")]], ["image", "CAM"])
    add_colorbar(figure, "heat", False)
    add_legend(
        figure, [np.arange(7)], [f"a thing of many letters {i}" for i in range(7)], [(9, 9, 9)] * 7
    )
    figure.draw_without_rendering()
    image, cam = (axes.title.get_window_extent().y0 for axes in figure.axes[:2])
    assert image == pytest.approx(cam, abs=1)


def test_colorbar_without_ends_has_no_numbers():
    figure = draw_page([[(SQUARE, "")]], [""])
    add_colorbar(figure, "heat", False, None)
    assert not len(figure.axes[-1].get_xticks())


def test_both_formats_are_written_and_the_same_each_time(tmp_path):
    for name in ("new/a.png", "a.PDF"):
        path = tmp_path / name
        written = []
        for _ in range(2):
            # Dollars are no formula.
            save_figure(path, draw_page([[(SQUARE, "$caption$")]], ["$x_{$"], "$"), 50)
            written.append(path.read_bytes())
        assert written[0] == written[1]
        assert list(path.parent.glob(".*")) == []
    with Image.open(tmp_path / "new/a.png") as image:
        assert image.format == "PNG"
    # Type 3 fonts are what publishers refuse.
    assert written[0].startswith(b"%PDF") and not re.search(rb"/Type3\b", written[0])


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.tmp"])
def test_other_suffixes_are_refused(tmp_path, name):
    with refused(name):
        save_figure(Path(tmp_path, name), draw_page([[(SQUARE, "")]], [""]))
    assert list(tmp_path.iterdir()) == []
