# SPDX-License-Identifier: Apache-2.0
"""Overlays with a legend: what is left of the photograph, and where the names are."""

import numpy as np
import pytest

from dalnet.prediction.legend import annotate, draw_legend

NAMES = ["background", "cat", "garden chair"]
COLORS = [(0, 0, 0), (200, 0, 0), (0, 0, 200)]


def make_picture(height=120, width=160):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = np.zeros((height, width), np.uint8)
    labels[height // 4 : height // 2, width // 4 : width // 2] = 1
    return image, labels


def has_color(picture, color):
    return (picture == color).all(axis=-1).any()


def test_background_is_the_photograph():
    image, labels = make_picture()
    before = image.copy()
    result = annotate(image, labels, NAMES, COLORS)
    np.testing.assert_array_equal(image, before)
    shown = result[:120, :160]
    far = np.ones_like(labels, bool)
    far[29:62, 39:82] = False
    np.testing.assert_array_equal(shown[far], image[far])
    inside = shown[35:55, 45:75].astype(float) - image[35:55, 45:75]
    assert inside[..., 0].mean() > 20 and inside[..., 2].mean() < -20
    # Outlines on all four sides.
    for y, x in ((30, 50), (60, 50), (40, 40), (40, 80)):
        assert (shown[y, x] == 240).all()


def test_legend_names_what_is_shown():
    image, labels = make_picture()
    bar = annotate(image, labels, NAMES, COLORS)[120:]
    assert len(bar) > 12 and has_color(bar, COLORS[1]) and not has_color(bar, COLORS[2])
    empty = annotate(image, labels * 0, NAMES, COLORS)
    assert (empty[:120, :160] == image).all()
    assert (empty[120:] < 100).any()  # says that there is nothing
    assert not has_color(empty[120:], COLORS[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 2), (50, 50)])
def test_legend_fits_below_any_picture(size):
    image, labels = make_picture(*size)
    labels[...] = 2
    result = annotate(image, labels, NAMES, COLORS)
    assert result.shape[0] > size[0] and result.shape[1] >= max(size[1], 80)


def test_films_keep_their_size():
    image, labels = make_picture()
    result = annotate(image, labels, NAMES, COLORS, keep_size=True)
    assert result.shape == image.shape
    assert result[-10:].mean() > image[-10:].mean() + 50


@pytest.mark.parametrize("size", [(200, 20), (22, 300)])
def test_films_without_room_for_a_legend(size):
    image, labels = make_picture(*size)
    labels[...] = 2
    result = annotate(image, labels, NAMES, COLORS, keep_size=True)
    assert result.shape == image.shape
    assert result[-10:].mean() == pytest.approx(result[:10].mean(), abs=20)


def test_legend_wraps_and_widens():
    entries = [(f"class {i}", (i, 0, 0)) for i in range(10)]
    wide, narrow = (draw_legend(entries, width, 16) for width in (2000, 200))
    assert wide.shape[1] == 2000 and narrow.shape[1] == 200
    assert narrow.shape[0] > 3 * wide.shape[0]
    assert all(has_color(narrow, color) for _, color in entries)
    long = draw_legend([("a class with a very long name", (1, 2, 3))], 50, 16)
    assert long.shape[1] > 200
    # Nothing is cut off on the right.
    assert (long[:, -3:] == 255).all()


def test_letters_beyond_ascii():
    plain, umlaut = (draw_legend([(name, (1, 2, 3))], 300, 20) for name in ("Fuchse", "Füchse"))
    assert plain.shape == umlaut.shape and (plain != umlaut).any()
