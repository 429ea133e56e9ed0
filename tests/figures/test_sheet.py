# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: what a row holds; truth and prediction in the same colors."""

import dataclasses

import numpy as np
import pytest

from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.figures.overlay import blend_labels, draw_heat
from dalnet.figures.sheet import draw_pictures, draw_segmentations, draw_sheet

COLORS = voc_palette(7)


def test_pictures_stand_under_their_titles(result):
    pictures = draw_pictures(result, COLORS)
    expected = {
        "image": result.image,
        "truth": blend_labels(result.image, result.truth, COLORS),
        "CAM": draw_heat(result.image, result.cams[0]),
        "pseudo label": blend_labels(result.image, result.pseudo_label, COLORS),
        "prediction": blend_labels(result.image, result.prediction, COLORS),
    }
    assert list(pictures) == list(expected)
    for title, picture in expected.items():
        np.testing.assert_array_equal(pictures[title], picture)
    assert (draw_pictures(result, COLORS, True)["CAM"] != pictures["CAM"]).any()


def test_each_picture_keeps_its_column_where_rows_differ(split, result, look):
    rows = [
        dataclasses.replace(result, cams={}, pseudo_label=None),
        dataclasses.replace(result, truth=None, pseudo_label=None, image_classes=()),
    ]
    shown = look(draw_sheet(rows, split, "toy"))
    assert shown.titles == ["image", "truth", "CAM", "prediction"]
    assert shown.captions == ["beast: cat", "", "", "", "beast", "", "", ""]
    filled = [picture is not None for picture in shown.pictures]
    assert filled == [True, True, False, True, True, False, True, True]
    assert shown.legend == ["background", "cat", "dog"]


def test_truth_and_prediction_share_colors_and_a_legend_of_what_occurs(split, result, look):
    shown = look(draw_segmentations([result], split))
    assert shown.titles == ["image", "truth", "prediction"]
    assert shown.legend == ["background", "cat", "dog"]
    for picture, label_map in zip(
        shown.pictures[1:], (result.truth, result.prediction), strict=True
    ):
        expected = blend_labels(result.image, label_map, voc_palette(7))
        np.testing.assert_array_equal(picture, expected)


def test_segmentations_without_masks_there_is_no_truth(split, result, look):
    shown = look(draw_segmentations([dataclasses.replace(result, truth=None)], split, True))
    assert shown.titles == ["image", "prediction"]


def test_image_without_a_prediction_is_named(split, result):
    with pytest.raises(UsageError, match="beast"):
        draw_segmentations([dataclasses.replace(result, prediction=None)], split)
