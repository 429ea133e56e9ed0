# SPDX-License-Identifier: Apache-2.0
"""The curve of one pass against one evaluation per threshold."""

import numpy as np
import pytest
import torch

from dalnet.evaluation.confusion import confusion_matrix, mean_iou
from dalnet.evaluation.threshold_curve import (
    bin_cams,
    count_binned,
    matrix_at,
    miou_curve,
    thresholds_with,
)
from dalnet.modeling.cam import cam_scores


def test_thresholds_hold_the_wanted_value():
    thresholds = thresholds_with(0.333)
    assert len(thresholds) == 101
    assert np.float32(0.333) in thresholds
    assert len(thresholds_with(0.5)) == 100
    assert (np.diff(thresholds_with(0.5)) > 0.009).all()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_every_threshold_equals_its_own_evaluation(num_classes):
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    thresholds = thresholds_with(0.123)
    histogram, images = 0, []
    for _ in range(3):
        cams = torch.rand(num_classes - 1, 8, 9, generator=generator)
        # Values that are thresholds themselves: a tie is background's.
        cams[:, 0] = torch.from_numpy(rng.choice(thresholds, (num_classes - 1, 9)))
        cams[:, 1] = 0
        truth = rng.choice([*range(num_classes), 255], (8, 9)).astype(np.uint8)
        images.append((cams, truth))
        binned = bin_cams(cams, range(num_classes - 1), thresholds)
        histogram = histogram + count_binned(truth, binned, num_classes, len(thresholds))
    curve = miou_curve(histogram)
    assert curve.shape == thresholds.shape
    for index, threshold in enumerate(thresholds.tolist()):
        expected = 0
        for cams, truth in images:
            labels = torch.ones(1, num_classes - 1)
            prediction = cam_scores(cams[None], labels, threshold)[0].argmax(dim=0).numpy()
            expected = expected + confusion_matrix(truth, prediction, num_classes)
        np.testing.assert_array_equal(matrix_at(histogram, index), expected)
        assert curve[index] == pytest.approx(mean_iou(expected))


def test_classes_are_those_of_the_present_maps():
    cams = torch.tensor([[[0.2, 0.9]], [[0.6, 0.1]]])
    binned = bin_cams(cams, (3, 7), np.array([0.5, 0.8], np.float32))
    assert (binned.classes.tolist(), binned.bins.tolist()) == ([[7, 3]], [[1, 2]])
    nothing = bin_cams(cams[:0], (), np.array([0.0], np.float32))
    assert nothing.bins.shape == (1, 2) and not nothing.bins.any()
