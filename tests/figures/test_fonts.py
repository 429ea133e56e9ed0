# SPDX-License-Identifier: Apache-2.0
"""Fonts that have the letters of class names, and a word where none has."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image

from dalnet.figures.fonts import DEFAULT_FONT, find_font
from dalnet.figures.layout import draw_page, save_figure
from dalnet.prediction import Prediction

CAT = "猫"


@pytest.fixture(autouse=True)
def forget():
    find_font.cache_clear()
    yield
    find_font.cache_clear()


@pytest.fixture
def font(tmp_path, monkeypatch):
    """An installed font whose letters, of which one is Chinese, are squares."""
    pen = TTGlyphPen(None)
    for i, place in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
        pen.lineTo(place) if i else pen.moveTo(place)
    pen.closePath()
    square, letters = pen.glyph(), f"{CAT} abcdefghijklmnopqrstuvwxyz"
    names = [".notdef", *(f"letter{i}" for i in range(len(letters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = str(tmp_path / "squares.ttf")
    builder.save(path)
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    fontManager.addfont(path)
    return path


def test_the_default_font_is_kept_where_it_can_be(font):
    assert find_font("Füchse, cat\n") == DEFAULT_FONT


def test_an_installed_font_with_the_letters_is_found(font, caplog):
    assert find_font(f"cat {CAT}") == font
    assert not caplog.text


@pytest.mark.filterwarnings("error")
def test_letters_that_no_font_has_are_said_once(caplog, tmp_path):
    page = draw_page([[(np.zeros((9, 9, 3), np.uint8), f"a {CAT}")]] * 2, [CAT])
    save_figure(tmp_path / "a.png", page, 50)
    assert len(caplog.records) == 1 and CAT in caplog.text
    assert find_font(CAT) == DEFAULT_FONT


def test_names_are_drawn_in_it(font, tmp_path):
    labels = np.ones((60, 90), np.uint8)
    image = np.zeros((60, 90, 3), np.uint8)
    one = Prediction(image, labels, np.zeros((2, 60, 90)), {}, ("background", CAT)).overlay()
    two = Prediction(image, labels, np.zeros((2, 60, 90)), {}, ("background", "a" + CAT)).overlay()
    white = [(panel == 255).all(-1).sum() for panel in (one, two)]
    assert 1.5 < white[1] / white[0] < 2.5  # squares, of which the second has two
    figure = draw_page([[(image, f"a {CAT}")]], ["b"])
    save_figure(tmp_path / "a.png", figure, 50)
    assert Image.open(tmp_path / "a.png").size[0] > 50
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert {text.get_fontproperties().get_file() for text in texts} == {font}
