# SPDX-License-Identifier: Apache-2.0
"""Figure 4: truth and prediction in the same colors."""

import dataclasses

import numpy as np
import pytest

from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.figures.overlay import blend_labels
from dalnet.figures.segmentations import draw_segmentations


def test_truth_and_prediction_share_colors_and_a_legend_of_what_occurs(split, result, look):
    shown = look(draw_segmentations([result], split))
    assert shown.titles == ["image", "truth", "prediction"]
    assert shown.legend == ["background", "cat", "dog"]
    for picture, label_map in zip(
        shown.pictures[1:], (result.truth, result.prediction), strict=True
    ):
        expected = blend_labels(result.image, label_map, voc_palette(7))
        np.testing.assert_array_equal(picture, expected)


def test_without_masks_there_is_no_truth(split, result, look):
    shown = look(draw_segmentations([dataclasses.replace(result, truth=None)], split, True))
    assert shown.titles == ["image", "prediction"]


def test_image_without_a_prediction_is_named(split, result):
    with pytest.raises(UsageError, match="beast"):
        draw_segmentations([dataclasses.replace(result, prediction=None)], split)
