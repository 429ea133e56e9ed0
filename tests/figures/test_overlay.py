# SPDX-License-Identifier: Apache-2.0
"""Colours of label maps and CAMs, pixel by pixel."""

import numpy as np
import pytest

from dalnet.errors import UsageError
from dalnet.figures.overlay import blend_labels, draw_cam, draw_label_map

COLORS = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
GREY = np.full((12, 16, 3), 100, np.uint8)


def test_every_label_has_its_colour_and_ignore_its_own():
    label_map = np.array([[0, 1, 2], [255, 2, 1]])
    picture = draw_label_map(label_map, COLORS, ignore_color=(9, 8, 7))
    assert picture.dtype == np.uint8
    for y in range(2):
        for x in range(3):
            label = label_map[y, x]
            assert picture[y, x].tolist() == ([9, 8, 7] if label == 255 else COLORS[label])


@pytest.mark.parametrize("label", [3, 254, -1, 256])
def test_label_without_colour_is_named(label):
    with pytest.raises(UsageError, match=rf"value {label}\b.*stuff_colors"):
        draw_label_map(np.array([[0, label]]), COLORS)


def test_blend_mixes_by_alpha_away_from_outlines():
    label_map = np.zeros((12, 16), np.int64)
    label_map[:, 8:] = 1
    picture = blend_labels(GREY, label_map, COLORS, alpha=0.25)
    assert picture[6, 2].tolist() == [75, 75, 75]
    assert picture[6, 13].tolist() == [107, 75, 75]


def test_blend_outlines_regions_and_only_them():
    label_map = np.zeros((12, 16), np.int64)
    label_map[4:8, 4:12] = 2
    plain = 0.5 * GREY + 0.5 * draw_label_map(label_map, COLORS)
    touched = np.abs(blend_labels(GREY, label_map, COLORS, alpha=0.5) - plain).max(axis=2) > 1
    expected = np.zeros_like(touched)
    expected[4:9, 4:13] = True  # the 2x2 window looks up and left
    expected[5:8, 5:12] = False
    np.testing.assert_array_equal(touched, expected)


def test_inputs_stay_as_they_are():
    image, label_map = GREY.copy(), np.eye(12, 16, dtype=np.int64)
    blend_labels(image, label_map, COLORS)
    draw_cam(image, np.ones((1, 12, 16)), [0])
    np.testing.assert_array_equal(image, GREY)
    np.testing.assert_array_equal(label_map, np.eye(12, 16))


def test_cam_is_red_where_high_and_blue_where_low():
    cams = np.zeros((2, 12, 16), np.float32)
    cams[1, :, 8:] = 1.0
    red, _, blue = draw_cam(GREY, cams, [1])[6, 12].astype(int)
    assert red > blue
    red, _, blue = draw_cam(GREY, cams, [1])[6, 2].astype(int)
    assert blue > red


def test_cam_takes_the_maximum_of_the_present_classes_only():
    rng = np.random.default_rng(0)
    cams = rng.random((3, 12, 16))
    largest = np.maximum(cams[0], cams[2])[None]
    np.testing.assert_array_equal(draw_cam(GREY, cams, (0, 2)), draw_cam(GREY, largest, (0,)))
    assert (draw_cam(GREY, cams, (0, 2)) != draw_cam(GREY, cams, (0, 1, 2))).any()


def test_cam_of_no_class_is_a_cam_of_zeros():
    cams = np.ones((2, 12, 16))
    np.testing.assert_array_equal(draw_cam(GREY, cams, ()), draw_cam(GREY, 0 * cams, (0,)))
