# SPDX-License-Identifier: Apache-2.0
"""Colors of label maps and heat maps, pixel by pixel; safe ones for the labels that occur."""

import numpy as np
import pytest

from dalnet.figures.overlay import (
    IGNORE_COLOR,
    blend_labels,
    choose_colors,
    draw_heat,
    find_labels,
    make_faint,
    make_legend,
)

COLORS = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
OWN = [(i, i, i) for i in range(81)]
GRAY = np.full((12, 16, 3), 100, np.uint8)


def test_blend_mixes_by_alpha_away_from_outlines():
    label_map = np.zeros((12, 16), np.int64)
    label_map[:, 8:] = 1
    panel = blend_labels(GRAY, label_map, COLORS, alpha=0.25)
    assert panel.dtype == np.uint8
    assert panel[6, 2].tolist() == [75, 75, 75]
    assert panel[6, 13].tolist() == [107, 75, 75]
    ignored = blend_labels(GRAY, np.full((12, 16), 255), COLORS, alpha=1)
    assert (ignored == IGNORE_COLOR).all()


@pytest.mark.parametrize("label", [3, 254])
def test_label_without_color_is_named(label):
    with pytest.raises(ValueError, match=rf"label {label}\b"):
        blend_labels(GRAY, np.full((12, 16), label), COLORS)


def test_blend_outlines_regions_and_only_them():
    label_map = np.zeros((12, 16), np.int64)
    label_map[4:8, 4:12] = 2
    plain = 0.5 * GRAY + 0.5 * np.array(COLORS)[label_map]
    touched = np.abs(blend_labels(GRAY, label_map, COLORS, alpha=0.5) - plain).max(axis=2) > 1
    expected = np.zeros_like(touched)
    expected[4:9, 4:13] = True  # the 2x2 window looks up and left
    expected[5:8, 5:12] = False
    np.testing.assert_array_equal(touched, expected)


def test_heat_is_red_where_high_and_blue_where_low():
    heat = np.zeros((12, 16), np.float32)
    heat[:, 8:] = 1.0
    panel = draw_heat(GRAY, heat).astype(int)
    assert panel[6, 12, 0] > panel[6, 12, 2]
    assert panel[6, 2, 2] > panel[6, 2, 0]
    np.testing.assert_array_equal(draw_heat(GRAY, 5 * heat - 1), draw_heat(GRAY, heat))


def test_faint_image_keeps_only_half_of_its_contrast():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 255
    assert make_faint(image)[0, :, 0].tolist() == [64, 191]


def test_labels_that_occur_get_the_first_of_the_safe_colors():
    few, first = choose_colors(OWN, [0, 9, 33, 255], True), choose_colors(OWN, [1, 2], True)
    assert few[0] == first[0] == (0, 0, 0)
    assert (few[9], few[33]) == (first[1], first[2])
    assert len(few) == len(OWN)
    assert len(set(choose_colors(OWN[:22], [], True))) == 22
    assert choose_colors(OWN, [9], False) == OWN


def test_legend_names_what_occurs():
    labels = find_labels([np.array([[2, 0]]), np.array([[255, 2]])])
    assert labels == [0, 2, 255]
    legend = make_legend(labels, ["background", "cat", "dog"], OWN)
    assert legend == [("background", OWN[0]), ("dog", OWN[2]), ("ignored", IGNORE_COLOR)]
